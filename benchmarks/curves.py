"""`python -m benchmarks.curves`: what Pangzhu's time per token depends on, one thing at a time; goes on from its CSV.

Every point is a fresh process that trains a few optimizer steps. A round runs all points of a curve after each other, and
what is quoted is a point's time per token over that of the curve's base in the same round, the median of the rounds.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import HERE, append_csv, instruction_set, read_csv, run_job
from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.summary import PAGES, put_into
from benchmarks.workloads import Workload, write_rows
from pangzhu import machine
from pangzhu.messages import Language
from pangzhu.sources import resolve
from pangzhu.sources.cache import cache_root

QWEN, SMOL = "packaged:qwen2.5-coder-0.5b-instruct", "packaged:smollm2-135m-instruct"
TOKENS_A_STEP = 2048
FIELDS = ("curve", "value", "round", "instruction_set", "seconds", "tokens")
HEADS: dict[Language, str] = {
    "en": "| what is varied | value | tokens/s | time per token against the one in bold | rounds |\n",
    "zh": "| 变量 | 取值 | 词元/秒 | 每词元用时与粗体之比 | 轮数 |\n",
}


@dataclass(frozen=True, slots=True)
class Point:
    """What is trained at one value of a curve.

    Args:
        model: the base.
        length: tokens of a row.
        share: of a row's tokens that are learned, its last ones.
        rows_per_step: of an optimizer step; 0 fills it with `TOKENS_A_STEP` tokens.
        steps: optimizer steps that count.
        options: as the contestant takes them.
    """

    model: str = QWEN
    length: int = 256
    share: float = 0.65
    rows_per_step: int = 0
    steps: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points by value, and the value that the others are compared with."""

    base: Any
    values: tuple[Any, ...]
    point: Callable[[Any], Point]


CURVES = {
    "row length": Curve(256, (64, 128, 256, 512, 1024, 2048), lambda length: Point(length=length)),
    "rows": Curve(
        100,
        (10, 100, 1000, 10_000),
        lambda rows: Point(rows_per_step=5, steps=4, options={"num_rows": rows}),
    ),
    "rank": Curve(8, (4, 8, 16, 32, 64), lambda rank: Point(options={"rank": rank})),
    "cores": Curve(2, (1, 2), lambda cores: Point(options={"threads": cores})),
    "learned share": Curve(0.65, (0.1, 0.3, 0.65, 1.0), lambda share: Point(share=share)),
    "model": Curve(QWEN, (QWEN, SMOL), lambda model: Point(model=model)),
}


def main() -> None:
    """Run what is missing in the CSV, then write the table into the pages."""
    given = _arguments()
    file = Path(given.csv)
    processor = instruction_set()
    done = read_csv(file)
    for name in given.curves.split(","):
        for number in range(given.rounds):
            for value in CURVES[name].values:
                key = {"curve": name, "value": str(value), "round": str(number), "instruction_set": processor}
                if any(key.items() <= row.items() for row in done):
                    continue
                row = key | _measure(CURVES[name].point(value))
                append_csv(file, FIELDS, row)
                print(name, value, number, row["seconds"], "s", file=sys.stderr, flush=True)
    rows = read_csv(file)
    for language, page in PAGES.items():
        put_into(page, table(rows, language), mark="curves")
    print(table(rows))


def table(rows: list[dict[str, str]], language: Language = "en") -> str:
    """Markdown: one row a value, the base of each curve in bold."""
    times: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        per_token = float(row["seconds"]) / int(row["tokens"])
        times[row["instruction_set"], row["curve"]][row["value"]][row["round"]] = per_token
    parts = []
    for (processor, name), values in times.items():
        base = values.get(str(CURVES[name].base), {})
        for value, by_round in values.items():
            ratios = [seconds / base[number] for number, seconds in by_round.items() if number in base]
            if not ratios:
                continue
            label = value.removeprefix("packaged:")
            label = f"**{label}**" if value == str(CURVES[name].base) else label
            speed = 1 / median(by_round.values())
            parts.append(f"| {name} ({processor}) | {label} | {speed:.0f} | {median(ratios):.2f} | {len(ratios)} |\n")
    return f"{HEADS[language]}|---|---|---|---|---|\n{''.join(parts)}"


def _measure(point: Point) -> dict[str, Any]:
    model = resolve(point.model).folder
    rows_per_step = point.rows_per_step or max(1, TOKENS_A_STEP // point.length)
    warm_up = 1
    rows = _rows(point, (warm_up + point.steps) * rows_per_step)
    job = {
        "model": str(model),
        "rows": str(rows),
        "precision": machine.probe_precision_for(model).chosen,
        "rows_per_step": rows_per_step,
        "micro_batch": rows_per_step,
        "warm_up": warm_up,
        "steps": point.steps,
        "options": dict(point.options),
    }
    result = run_job(CONTESTANTS[OURS], job)
    lines = rows.read_text(encoding="utf-8").splitlines()
    lengths = [len(json.loads(line)["input_ids"]) for line in lines]
    wraps = int(point.options.get("num_rows", len(lengths)))
    counted = range(warm_up * rows_per_step, (warm_up + point.steps) * rows_per_step)
    tokens = sum(lengths[number % min(wraps, len(lengths))] for number in counted)
    return {"seconds": round(sum(result["seconds"]), 3), "tokens": tokens}


def _rows(point: Point, num_rows: int) -> Path:
    """Rows of the point's length, of which the last `share` is learned."""
    folder = cache_root() / "benchmarks" / "rows"
    workload = Workload(f"length-{point.length}", lambda _: point.length)
    drawn = write_rows(workload, point.model, folder, num_rows=num_rows)
    rows = [json.loads(line) for line in drawn.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        ids = row["input_ids"]
        asked = max(1, len(ids) - round(point.share * len(ids)))  # nothing predicts a row's first token
        row["labels"] = [-100] * asked + ids[asked:]
    file = drawn.with_stem(f"{drawn.stem}-{point.share}")
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "curves.csv"), help="raw figures, appended to")
    parser.add_argument("--curves", default=",".join(CURVES), help="names separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
