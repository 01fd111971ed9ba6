"""`python -m benchmarks.check_scale`: seconds and peak memory (POSIX) of `pangzhu check` on 100,000 rows, in a fresh process.

The rows are alpaca rows of 60 to 200 characters, put together at random from the clauses of the packaged Chinese and English
examples; one in a thousand is repeated. `--html` writes the page too, `--eval` compares with a thousand questions.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pangzhu.data import load_dataset
from pangzhu.examples import example

SHORTEST, LONGEST = 60, 200  # characters of a row
ONE_IN = 1000  # rows is a repeated one
MEGABYTE = 10**6


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--eval", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder) / "rows.jsonl", num_rows=given.rows, seed=1)
        words = [str(rows), "--model_name_or_path", given.model]
        page = Path(folder) / "page.html"
        words += ["--html", str(page)] if given.html else []
        words += (
            ["--eval_path", str(write_rows(Path(folder) / "eval.jsonl", num_rows=1000, seed=2))] if given.eval else []
        )
        figures = measure([sys.executable, "-m", "pangzhu", "check", *words, "--json"], Path(folder) / "result.json")
        if given.html:
            figures["page_megabytes"] = round(page.stat().st_size / MEGABYTE, 1)
    print(json.dumps({"model": given.model, "rows": given.rows, **figures}))


def write_rows(file: Path, *, num_rows: int, seed: int) -> Path:
    """A file of random rows."""
    draw = random.Random(seed)
    known = clauses()
    lines: list[str] = []
    for number in range(num_rows):
        if lines and number % ONE_IN == 0:
            lines.append(draw.choice(lines))
            continue
        length = draw.randint(SHORTEST, LONGEST)
        question = text_of(draw, known, length // 3)
        row = {"instruction": question, "input": "", "output": text_of(draw, known, length - len(question))}
        lines.append(json.dumps(row, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def measure(command: list[str], output: Path) -> dict[str, float | int]:
    """Run a command: its exit code, seconds by the clock and of all cores, peak resident memory, and what it counted."""
    started = time.perf_counter()
    with output.open("wb") as stdout:
        process = subprocess.Popen(command, stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    result = json.loads(output.read_text(encoding="utf-8"))
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_megabytes": round(usage.ru_maxrss * unit / MEGABYTE),
        "tokens": result["num_tokens"],
        "warnings": sum(kind["num_rows"] for kind in result["warnings"]),
    }


def clauses() -> list[str]:
    """The clauses of the packaged examples' questions and answers."""
    rows = [
        row for name in ("law_data.json", "instruct_tiny.jsonl") for row in load_dataset(example(name)).conversations
    ]
    texts = [turn.content for row in rows for turn in row.turns]
    pieces = (clause.strip() for text in texts for clause in re.split(r"(?<=[，。；：？！,.;:?!\n])", text))
    return sorted({piece for piece in pieces if piece})


def text_of(draw: random.Random, known: list[str], length: int) -> str:
    """So many letters of clauses."""
    text = ""
    while len(text) < length:
        text += draw.choice(known)
    return text[:length]


if __name__ == "__main__":
    main()
