"""Runs of the tiny model, each made once while everything that happens to the disk is written down."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pangzhu import checkpoint, storage
from pangzhu.adapter import WEIGHTS, describe
from pangzhu.config import TrainConfig
from pangzhu.train import train
from tests.conftest import alpaca, silently, train_config
from tests.torture.disks import Operation, RecordingDisk, Tree, read_tree, write_tree
from tests.torture.states import CrashPoint

OUT = "out"  # the output folder, below the folder that is watched
RUN = f"{OUT}/run"
CHECKPOINTS = f"{RUN}/checkpoints"
ROWS = [*((f"q{number}?", f"a{number}") for number in range(99)), ("left out", "")]  # one in a hundred may be skipped
SMALL: dict[str, Any] = {"max_steps": 4, "save_steps": 1, "learning_rate": 5e-3, "skip_bad": True, "r": 2}
OTHER: dict[str, Any] = SMALL | {"seed": 7}
TIMES = {"tokens_per_second", "seconds_left"}


@dataclass(frozen=True)
class Lesson:
    """What is trained on what."""

    base: Path
    rows: Path
    options: dict[str, Any]

    def config(self, home: Path) -> TrainConfig:
        """The run's configuration, with its output folder below `home`."""
        return train_config(self.base, self.rows, home / OUT, **self.options)


@dataclass(frozen=True)
class Recording:
    """A run from `start` to `end`, operation by operation.

    Args:
        name: of the situation it began in.
        lesson: what was trained.
        start: what was below the watched folder before.
        log: what happened to it.
        end: what was there after.
        set_aside: what was to move to `run/previous-1`; empty where nothing was.
    """

    name: str
    lesson: Lesson
    start: Tree
    log: Sequence[Operation]
    end: Tree
    set_aside: Tree = field(default_factory=dict)

    @property
    def weights(self) -> bytes:
        """The published weights."""
        weights = self.end[f"{OUT}/{WEIGHTS}"]
        assert weights is not None
        return weights

    def newest_safe_step(self, number: int) -> int:
        """Step of the newest checkpoint that nothing before operation `number` may have harmed, 0 for none: its manifest is in
        its place, its folder was synced after that, and nothing of it was moved or removed since."""
        return max((step for step, sealed, touched in self._lives if sealed < number <= touched), default=0)

    @cached_property
    def _lives(self) -> list[tuple[int, int, int]]:
        """Of each checkpoint its step, when it was sealed and when it was touched again."""
        paths = [*self.start, *(operation.path for operation in self.log)]
        sealed = {folder: self._sealed_at(folder) for folder in {step_folder(path) for path in paths} - {""}}
        return [
            (int(folder.rpartition("-")[2]), when, self._touched_at(folder, after=when))
            for folder, when in sealed.items()
        ]

    def _sealed_at(self, folder: str) -> int:
        if f"{folder}/manifest.json" in self.start and not self.set_aside:
            return -1
        replaced = next((n for n, op in enumerate(self.log) if op.target == f"{folder}/manifest.json"), len(self.log))
        later = range(replaced, len(self.log))
        return next(
            (n for n in later if (self.log[n].kind, self.log[n].path) == ("sync_folder", folder)), len(self.log)
        )

    def _touched_at(self, folder: str, *, after: int) -> int:
        """When the first of its sealed files is taken away."""
        gone = ("remove", "replace")
        away = (
            number
            for number, operation in enumerate(self.log)
            if number > after and operation.kind in gone and operation.path.startswith(f"{folder}/")
        )
        return next(away, len(self.log))


def step_folder(path: str) -> str:
    """The checkpoint folder that a path lies in, or an empty text."""
    parts = PurePosixPath(path).parts
    folder = "/".join(parts[:4])
    return folder if len(parts) > 4 and folder.startswith(f"{CHECKPOINTS}/checkpoint-") else ""


def record(name: str, lesson: Lesson, home: Path, *, set_aside: Tree | None = None) -> Recording:
    """Train while everything below `home` is written down."""
    disk = RecordingDisk(home)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage, "DISK", disk)
        train(lesson.config(home), on_step=silently)
    disk.notice()
    return Recording(name, lesson, disk.start, tuple(disk.log), read_tree(home), set_aside or {})


def record_all(base: Path, folder: Path) -> Iterator[Recording]:
    """A first start; one over a finished run of other settings; one over a run that was cut off while it saved."""
    lesson = Lesson(base, alpaca(folder / "rows.jsonl", ROWS), SMALL)
    (folder / "first").mkdir()
    first = record("first", lesson, folder / "first")
    yield first
    finished = write_tree(first.end, folder / "finished")
    yield record("finished", Lesson(base, lesson.rows, OTHER), finished, set_aside=own_files(first.end))
    yield record("cut", lesson, write_tree(while_saving(first, step=3), folder / "cut"))


def own_files(tree: Tree) -> Tree:
    """What is set aside of an output folder: everything but lock and holder, by its name in `run/previous-1`."""
    files = {path.removeprefix(f"{OUT}/"): content for path, content in tree.items() if path.startswith(f"{OUT}/")}
    return {path: content for path, content in files.items() if content is not None and path != "run/holder"}


def while_saving(recording: Recording, *, step: int) -> Tree:
    """The disk as a crash leaves it while the optimizer's state of this step is written."""
    place = next(
        number
        for number, operation in enumerate(recording.log)
        if operation.kind == "write" and operation.path == f"{CHECKPOINTS}/checkpoint-{step}/optimizer.pt"
    )
    return CrashPoint(place, half=True).tree(recording.start, recording.log)


def metrics(tree: Tree) -> list[dict[str, Any]]:
    """`metrics.jsonl` but for the times."""
    lines = (tree[f"{RUN}/metrics.jsonl"] or b"").decode().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def ends_the_same(recording: Recording, home: Path) -> None:
    """The same command, given below `home`, ends exactly as the recorded run did, and leaves nothing half done behind."""
    train(recording.lesson.config(home), on_step=silently)
    tree = read_tree(home)
    assert tree[f"{OUT}/{WEIGHTS}"] == recording.weights
    assert metrics(tree) == metrics(recording.end)
    assert describe(home / OUT).fault is None
    record_of_run = checkpoint.read_record(home / RUN)
    assert record_of_run is not None
    assert record_of_run.state == "finished"
    differing = [path for path in sorted(tree.keys() ^ recording.end.keys()) if ".damaged-" not in path]
    assert not differing
