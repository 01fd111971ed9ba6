"""`python -m benchmarks.start_scale`: a large file of JSON lines is checked and its training started, twice (POSIX).

Every command has a process of its own, and the cache of tokens is a new one. The same three commands on a few rows of the same
lengths say what base model and libraries take; memory above that is what the file costs. A start is over with its
first optimizer steps: then the run is asked to stop, as by Ctrl-C.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.check_scale import MEGABYTE, clauses, text_of
from pangzhu.checkpoint import METRICS, RECORD, RUN
from pangzhu.config import ModelOptions
from pangzhu.preparation import prepare_base

FEW_ROWS = 64
BYTES_A_LETTER = 2.5  # of the clauses, on average
STEPS = 2


@dataclass(frozen=True)
class Figures:
    """What a process took: seconds until it was over or had made its steps, and its peak of resident memory; of a start also
    the seconds until its rows were ready, which long rows' steps would hide."""

    seconds: float
    peak_megabytes: float
    ready_seconds: float | None = None


@dataclass(frozen=True)
class Place:
    """A folder for output, caches and the commands that are measured in it."""

    folder: Path
    base: Path

    def check(self, rows: Path) -> Figures:
        """`pangzhu check`."""
        words = ["check", str(rows), "--model_name_or_path", str(self.base), "--json"]
        return self._run(words, self.folder / "never")

    def start(self, rows: Path, name: str) -> Figures:
        """`pangzhu train`, stopped after a few steps; each name has an output folder of its own."""
        options = {"model_name_or_path": self.base, "dataset_path": rows, "output_dir": self.folder / name}
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        steps = ["--max_steps", "1000", "--per_device_train_batch_size", "1", "--token_budget", "1024"]
        return self._run(["train", *words, *steps], self.folder / name / RUN / METRICS)

    def _run(self, words: Sequence[str], metrics: Path) -> Figures:
        environment = os.environ | {"PANGZHU_CACHE": str(self.folder / "cache")}
        log = self.folder / "log.txt"
        started = time.perf_counter()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pangzhu", *words], stdout=output, stderr=output, env=environment
            )
        seconds = ready = None
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if ready is None and metrics.with_name(RECORD).exists():
                ready = round(time.perf_counter() - started, 1)
            if seconds is None and metrics.exists() and metrics.read_bytes().count(b"\n") >= STEPS:
                seconds = time.perf_counter() - started
                process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, status, usage = ended
        if os.waitstatus_to_exitcode(status) not in (0, 128 + signal.SIGINT):
            raise SystemExit(log.read_text(encoding="utf-8"))
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        return Figures(
            round(seconds or time.perf_counter() - started, 1), round(usage.ru_maxrss * unit / MEGABYTE), ready
        )


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--row_bytes", type=int, default=4000)
    given = parser.parse_args()
    base = prepare_base(ModelOptions(model_name_or_path=given.model)).source.folder
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), base)
        few = write_large(place.folder / "few.jsonl", FEW_ROWS * given.row_bytes, row_bytes=given.row_bytes)
        large = write_large(place.folder / "large.jsonl", given.megabytes * MEGABYTE, row_bytes=given.row_bytes)
        alone = {"check": place.check(few), "start": place.start(few, "few")}
        taken = {"check": place.check(large), "start": place.start(large, "a"), "second_start": place.start(large, "b")}
        cached = sum(file.stat().st_size for file in (place.folder / "cache").rglob("*") if file.is_file())
        figures = {
            verb: asdict(took) | {"above": took.peak_megabytes - _alone(alone, verb)} for verb, took in taken.items()
        }
        megabytes = {"file": round(large.stat().st_size / MEGABYTE), "cache": round(cached / MEGABYTE)}
    print(json.dumps({"model": given.model, "megabytes": megabytes, **figures}))


def write_large(file: Path, num_bytes: int, *, row_bytes: int) -> Path:
    """A file of so many bytes or little more: alpaca rows of random clauses, all of about `row_bytes`."""
    draw, known = random.Random(1), clauses()
    num_letters = int(row_bytes / BYTES_A_LETTER)
    with file.open("w", encoding="utf-8") as opened:
        while opened.tell() < num_bytes:
            row = {"instruction": text_of(draw, known, 40), "output": text_of(draw, known, num_letters)}
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file


def _alone(alone: dict[str, Figures], verb: str) -> float:
    return alone[verb.removeprefix("second_")].peak_megabytes


if __name__ == "__main__":
    main()
