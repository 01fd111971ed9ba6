"""`python -m benchmarks.bench`: blocks by turns, until the table has its figures; a second start goes on from its CSV.

Each of the others is paired with Pangzhu in blocks A B B A: the same rows in the same optimizer steps, each block a fresh
process. What is quoted is the median of the paired ratios with a bootstrap interval, since this or that minute of a
machine is faster than another.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, OURS, Contestant
from benchmarks.work import Work, work_of
from benchmarks.workloads import WORKLOADS, write_rows
from pangzhu import machine
from pangzhu.sources import resolve
from pangzhu.sources.cache import cache_root

HERE = Path(__file__).parent
FIELDS = (
    "when", "model", "workload", "other", "block", "contestant", "precision", "instruction_set", "seconds", "tokens",
    "supervised", "computed", "useful_gflop", "gflops_limit", "peak_rss", "loss",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every block of a run."""

    model: Path
    rows: Path
    precision: str
    rows_per_step: int
    warm_up: int
    steps: int
    work: Work
    longest: int


def main() -> None:
    """Run what is missing in the CSV."""
    given = _arguments()
    file = Path(given.csv)
    done = read_csv(file)
    base = resolve(given.model)
    processor = instruction_set()
    for name in given.workloads.split(","):
        setting = _setting(given, base.folder, name)
        for other in given.others or [name for name in CONTESTANTS if name != OURS]:
            for block in range(given.blocks):
                for contestant in (OURS, other) if block % 2 == 0 else (other, OURS):
                    key = {"model": given.model, "workload": name, "other": other, "block": str(block)}
                    key["instruction_set"] = processor
                    if any(key.items() <= row.items() and row["contestant"] == contestant for row in done):
                        continue
                    row = key | _block(CONTESTANTS[contestant], setting) | {"contestant": contestant}
                    append_csv(file, FIELDS, row)
                    print(name, other, block, contestant, row["seconds"], "s", file=sys.stderr, flush=True)


def instruction_set() -> str:
    """What the processor offers, and what of it oneDNN was told to use at the most."""
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return " ".join((*machine.instruction_sets(), *([f"ONEDNN_MAX_CPU_ISA={cap}"] if cap else [])))


def run_job(contestant: Contestant, job: dict[str, Any]) -> dict[str, Any]:
    """One block in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump(job, file)
    python = environment(contestant.peers) if contestant.peers else Path(sys.executable)
    search = ":".join(str(folder) for folder in (HERE, HERE / "contestants"))
    done = subprocess.run(
        [python, HERE / "contestants" / contestant.script, file.name],
        env={**_environment_variables(), "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    Path(file.name).unlink()
    if done.returncode:
        raise SystemExit(f"{contestant.script} failed:\n{done.stdout[-500:]}{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def environment(requirements: str) -> Path:
    """The Python of a peer's own environment, made where there is none."""
    listed = HERE / "peers" / requirements
    alone = listed.with_suffix(".alone.txt")  # what would ask for packages that training does not use
    folder = cache_root() / "benchmarks" / listed.stem
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        install = [python, "-m", "pip", "install", "-q", "-r"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([*install, listed], check=True)
        if alone.exists():
            subprocess.run([*install, alone, "--no-deps"], check=True)
        (folder / "complete").touch()
    return python


def _environment_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}


def _setting(given: argparse.Namespace, model: Path, name: str) -> Setting:
    num_rows = (given.warm_up + given.steps) * given.rows_per_step
    rows = write_rows(WORKLOADS[name], given.model, cache_root() / "benchmarks" / "rows", num_rows=num_rows)
    counted = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    precision = machine.probe_precision_for(model).chosen if given.precision == "auto" else given.precision
    return Setting(
        model,
        rows,
        precision,
        given.rows_per_step,
        given.warm_up,
        given.steps,
        work_of(model, counted[given.warm_up * given.rows_per_step :], given.rows_per_step),
        max(len(row["input_ids"]) for row in counted),
    )


def _block(contestant: Contestant, setting: Setting) -> dict[str, Any]:
    precision = contestant.precision or setting.precision
    options = dict(contestant.options)
    if options.get("pad_to") == "longest":
        options["pad_to"] = setting.longest
    result = run_job(
        contestant,
        {
            "model": str(setting.model),
            "rows": str(setting.rows),
            "precision": precision,
            "rows_per_step": setting.rows_per_step,
            "micro_batch": contestant.micro_batch or setting.rows_per_step,
            "warm_up": setting.warm_up,
            "steps": setting.steps,
            "options": options,
        },
    )
    if result["rows_per_step"] != [setting.rows_per_step] * setting.steps:
        raise SystemExit(f"{contestant.script} put {result['rows_per_step']} rows in its steps")
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "precision": precision,
        "seconds": round(sum(result["seconds"]), 3),
        "tokens": setting.work.num_tokens,
        "supervised": setting.work.num_supervised,
        "computed": setting.work.num_computed,
        "useful_gflop": round(setting.work.flops / 1e9, 1),
        "gflops_limit": round(result["gflops"], 1),
        "peak_rss": result["peak_rss"],
        "loss": result["losses"][-1],
    }


def read_csv(file: Path) -> list[dict[str, str]]:
    """All rows; none where there is no file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def fill_csv(file: Path, runs: Iterable[tuple[dict[str, str], Callable[[], dict[str, Any]]]]) -> list[dict[str, str]]:
    """Run what has no row yet, appending each as it is done; gives all rows.

    Args:
        file: the rows so far.
        runs: what tells a run from every other, and the run itself, which gives its figures.
    """
    done = read_csv(file)
    for key, run in runs:
        if any(key.items() <= row.items() for row in done):
            continue
        row = key | run()
        append_csv(file, tuple(row), row)
        print(row, file=sys.stderr, flush=True)
    return read_csv(file)


def append_csv(file: Path, fields: Sequence[str], row: dict[str, Any]) -> None:
    """One more row, under a header where the file is new."""
    new = not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, fields)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "blocks.csv"), help="raw figures, appended to")
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--workloads", default="mixed,short,long,law", help="names separated by commas")
    parser.add_argument("--others", action="append", help="whom to pair with Pangzhu; not given: everyone")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "float32"])
    parser.add_argument("--blocks", type=int, default=12, help="pairs of blocks")
    parser.add_argument("--rows_per_step", type=int, default=8)
    parser.add_argument("--warm_up", type=int, default=3, help="optimizer steps before the clock counts")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a block")
    return parser.parse_args()


if __name__ == "__main__":
    main()
