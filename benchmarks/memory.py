"""`python -m benchmarks.memory`: the memory plan against the peak of fresh processes.

One row of the table is one process: it trains a step of the workload in micro-batches of at most that many tokens. The
plan must be within 15% of what the process took at its peak.
"""

import argparse
import json
from pathlib import Path

from benchmarks.bench import run_job
from benchmarks.contestants import CONTESTANTS, OURS, Contestant
from benchmarks.workloads import WORKLOADS, write_rows
from pangzhu import plan
from pangzhu.decisions import model_shape
from pangzhu.sources import resolve
from pangzhu.sources.cache import cache_root

GIGABYTE = 1e9
RANK = 8  # of every contestant
REFERENCE = "pangzhu --fast off"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--workload", default="short", choices=sorted(WORKLOADS))
    parser.add_argument("--precision", default="float32", choices=["bf16", "float32"])
    parser.add_argument("--budgets", default="256,512,1024")
    parser.add_argument("--contestants", default=f"{OURS},{REFERENCE}")
    given = parser.parse_args()
    print("| path | tokens | planned | measured | planned / measured |\n|---|---|---|---|---|")
    for name in given.contestants.split(","):
        for budget in map(int, given.budgets.split(",")):
            planned, measured = _one(given, CONTESTANTS[name], budget)
            figures = f"{planned / GIGABYTE:.2f} GB | {measured / GIGABYTE:.2f} GB | {planned / measured:.2f}"
            print(f"| {name} | {budget} | {figures} |", flush=True)


def _one(given: argparse.Namespace, contestant: Contestant, budget: int) -> tuple[float, float]:
    """Planned and measured bytes."""
    folder = resolve(given.model).folder
    rows = write_rows(WORKLOADS[given.workload], given.model, cache_root() / "benchmarks" / "rows", num_rows=24)
    read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    num_tokens = sum(len(row["input_ids"]) for row in read)
    supervised = sum(label >= 0 for row in read for label in row["labels"])
    job = {
        "model": str(folder),
        "rows": str(rows),
        "precision": given.precision,
        "rows_per_step": 12,
        "micro_batch": 12,
    }
    options = dict(contestant.options) | {"token_budget": budget}
    measured = run_job(contestant, job | {"warm_up": 1, "steps": 1, "options": options})["peak_rss"]
    shape = model_shape(folder)
    memory = plan.plan_memory(
        shape,
        num_trainable=shape.adapter_size(RANK),
        precision=given.precision,
        fast=plan.REFERENCE if "reference" in contestant.options else plan.FastParts(),
        supervised_share=supervised / num_tokens,
    )
    return memory.peak(min(budget, num_tokens // 2)), measured


if __name__ == "__main__":
    main()
