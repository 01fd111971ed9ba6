"""`python -m benchmarks.plan_accuracy`: what `pangzhu plan` says against what `pangzhu train` does; goes on from its CSV.

For each model and dataset a fresh process plans, another trains with the same options. Compared are the seconds from the
start of the process to its end, and its peak memory. `--max_steps` limits both to a few optimizer steps; the table says how
many there were. `--screens` renews the screens in the documents.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import HERE, append_csv, instruction_set, read_csv
from benchmarks.curves import QWEN, SMOL
from benchmarks.summary import put_into
from benchmarks.workloads import WORKLOADS, write_dataset
from pangzhu.messages import Language
from pangzhu.sources.cache import cache_root

GIGABYTE = 1e9
SCREEN_COLUMNS = 100
NUM_ROWS = {"short": 40, "mixed": 1000, "long": 200}
PAGES: dict[Language, Path] = {
    "en": HERE.parent / "docs" / "training.md",
    "zh": HERE.parent / "docs" / "training.zh-CN.md",
}
FIELDS = (
    "when", "model", "workload", "rows", "steps", "instruction_set", "precision", "planned_seconds", "seconds",
    "planned_stepping", "stepping", "planned_peak", "peak", "plan_seconds",
)  # fmt: skip
HEADS: dict[Language, str] = {
    "en": "| model | rows | steps | minutes, planned | taken | planned / taken | peak memory, planned | taken | "
    "planned / taken | the plan itself |\n",
    "zh": "| 模型 | 行 | 步数 | 计划用时（分钟） | 实际 | 计划 / 实际 | 计划内存峰值 | 实际 | 计划 / 实际 | 做计划本身 |\n",
}
SECONDS: dict[Language, str] = {"en": "s", "zh": "秒"}


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended: its JSON result, its seconds from start to end, and its peak memory in bytes."""

    result: dict[str, Any]
    seconds: float
    peak: int


def main() -> None:
    """Run what is missing in the CSV, then write the table into the pages."""
    given = _arguments()
    if given.screens:
        write_screens()
        return
    file = Path(given.csv)
    processor = instruction_set()
    for model in given.models.split(","):
        for workload in given.workloads.split(","):
            key = {"model": model, "workload": workload, "instruction_set": processor}
            if any(key.items() <= row.items() for row in read_csv(file)):
                continue
            row = key | _compare(model, workload, given.max_steps)
            append_csv(file, FIELDS, row)
            print(model, workload, row["planned_seconds"], row["seconds"], "s", file=sys.stderr, flush=True)
    content = table(read_csv(file))
    print(content)
    if not given.no_pages:
        for language, page in PAGES.items():
            put_into(page, table(read_csv(file), language), mark="plan")


def write_screens(*more: str) -> None:
    """Show in the pages what `plan` prints for the example instructions, `more` options given."""
    words = ["--model_name_or_path", SMOL, "--dataset_path", "data/raw/instruct_tiny.jsonl", *more]
    for language, page in PAGES.items():
        command = [sys.executable, "-m", "pangzhu", "plan", "--lang", language, *words]
        environment = os.environ | {"COLUMNS": str(SCREEN_COLUMNS), "PYTHONIOENCODING": "utf-8"}
        shown = subprocess.run(
            command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
        ).stdout
        lines = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
        put_into(page, f"```text\n{lines}```\n", mark="plan-screen")


def table(rows: Sequence[dict[str, str]], language: Language = "en") -> str:
    """Markdown: a row for each model and dataset."""
    return (
        f"{HEADS[language]}|---|---|---|---|---|---|---|---|---|---|\n{''.join(_line(row, language) for row in rows)}"
    )


def _line(row: dict[str, str], language: Language) -> str:
    planned, taken = float(row["planned_seconds"]), float(row["seconds"])
    planned_peak, peak = float(row["planned_peak"]), float(row["peak"])
    figures = (
        f"{row['model'].removeprefix('packaged:')} ({row['precision']})",
        f"{row['rows']} {row['workload']}",
        row["steps"],
        f"{planned / 60:.1f}",
        f"{taken / 60:.1f}",
        f"{planned / taken:.2f}",
        f"{planned_peak / GIGABYTE:.2f} GB",
        f"{peak / GIGABYTE:.2f} GB",
        f"{planned_peak / peak:.2f}",
        f"{float(row['plan_seconds']):.0f} {SECONDS[language]}",
    )
    return f"| {' | '.join(figures)} |\n"


def _compare(model: str, workload: str, max_steps: int | None) -> dict[str, Any]:
    rows = cache_root() / "benchmarks" / "datasets" / model.removeprefix("packaged:")
    dataset = write_dataset(WORKLOADS[workload], model, rows, num_rows=NUM_ROWS[workload])
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model_name_or_path", model, "--dataset_path", str(dataset), "--output_dir", f"{folder}/adapter"]
        words += ["--max_steps", str(max_steps)] if max_steps else []
        planned = _run("plan", *words)
        trained = _run("train", *words)
    plan = planned.result
    if plan["steps"]["num_steps"] != trained.result["num_steps"]:
        raise SystemExit(f"{plan['steps']['num_steps']} steps were planned, {trained.result['num_steps']} were done")
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "rows": plan["steps"]["num_rows"],
        "steps": plan["steps"]["num_steps"],
        "precision": plan["decisions"]["precision"],
        "planned_seconds": round(plan["time"]["total"], 1),
        "seconds": round(trained.seconds, 1),
        "planned_stepping": round(plan["time"]["stepping"], 1),
        "stepping": trained.result["seconds"],
        "planned_peak": int(plan["memory"]["peak"]),
        "peak": trained.peak,
        "plan_seconds": round(planned.seconds, 1),
    }


def _run(*words: str) -> Finished:
    """One command in a process of its own."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "pangzhu", *words, "--json"], stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"pangzhu {' '.join(words)} failed:\n{err.read()[-3000:]}")
        result: dict[str, Any] = json.loads(out.read())
    return Finished(result, seconds, used.ru_maxrss * 1024)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "plan.csv"), help="raw figures, appended to")
    parser.add_argument("--models", default=f"{SMOL},{QWEN}", help="names separated by commas")
    parser.add_argument("--workloads", default=",".join(NUM_ROWS), help="names separated by commas")
    parser.add_argument("--max_steps", type=int, help="optimizer steps of a run; not given: three passes")
    parser.add_argument("--screens", action="store_true", help="only show in the documents what the verb prints")
    parser.add_argument("--no_pages", action="store_true", help="leave the documents as they are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
