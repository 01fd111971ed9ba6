"""The run folder `output_dir/run`: which run lives there, its checkpoints, and which of them to go on from.

A run is known by its identity: every setting that shapes the weights, and hashes of data, base and template. The same
command meets one of four: nothing (start), the same run unfinished (go on), the same run finished (say so), another run:
a finished one moves to `run/previous-N`, an unfinished one is refused with the difference.

A checkpoint counts only with its manifest, written last and naming the sha256 of every file in it; one that does not
match is set aside, never deleted, and the one before it is used. Two are kept, and those that they name as the best so far:
whichever of them a run goes on from, its best is there.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pangzhu.adapter import CARD, CHAT_TEMPLATE, CONFIG, MANIFEST, PROMPT, WEIGHTS, read_manifest, sha256_of
from pangzhu.errors import LockedError, ModelError, ResourceError, UsageError
from pangzhu.messages import say

RUN = "run"
RECORD = "record.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
CHECKPOINT_MANIFEST = "manifest.json"
VALIDATION = "validation.json"  # in a checkpoint: what the validation rows said so far
NUM_KEPT = 2
OWN_NAMES = (CARD, CHAT_TEMPLATE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What `run/record.json` holds.

    Args:
        identity: what makes this run this run, by name.
        state: `finished` once the adapter is published, `failed` where it diverged or could not be proven.
        decisions: what was probed or chosen at the first start, reused on resume.
        result: what a finished run reached.
        planned: what it was to take, as known before its first step, and its time after a few (`pangzhu.account`).
        taken: what it took, over all calls.
        environment: the machine of the last call.
    """

    identity: dict[str, str]
    state: Literal["running", "finished", "failed"] = "running"
    decisions: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    planned: dict[str, Any] = field(default_factory=dict)
    taken: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


@contextmanager
def locked(output_dir: Path) -> Iterator[Path]:
    """Hold the run folder for this process; gives `output_dir/run`.

    Raises:
        LockedError: another process holds it.
        ResourceError: the folder cannot be made or written.
    """
    run_dir = output_dir / RUN
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / "lock")
        lock.acquire(blocking=False)
    except Timeout as taken:
        raise LockedError("error.run.locked", where=str(output_dir), holder=_holder(run_dir)) from taken
    except OSError as refused:
        raise ResourceError("error.run.not_writable", where=str(output_dir), reason=refused.strerror) from refused
    try:
        (run_dir / "holder").write_text(str(os.getpid()), encoding="utf-8")
        yield run_dir
    finally:
        lock.release()


def open_run(output_dir: Path, identity: Mapping[str, str], *, resume: bool = True) -> RunRecord:
    """The record of the run to start or go on with; a finished run that is another one has been moved aside, and so
    have checkpoints or an adapter that no record tells the settings of.

    Args:
        output_dir: the adapter folder.
        identity: the run that is wanted.
        resume: go on with the same run; False moves whatever is there aside.

    Raises:
        UsageError: an unfinished run with other settings lives here, or files that an adapter would overwrite.
    """
    if not resume and (output_dir / RUN / RECORD).exists():
        set_aside(output_dir)
    existing = read_record(output_dir / RUN)
    if existing is None:
        _make_room(output_dir)
        return RunRecord(dict(identity))
    differences = _differences(existing.identity, identity)
    if not differences and existing.state != "failed":
        return existing
    if existing.state == "running":
        raise UsageError("error.run.another", where=str(output_dir), differences="\n    ".join(differences))
    set_aside(output_dir)
    return RunRecord(dict(identity))


def read_record(run_dir: Path) -> RunRecord | None:
    """The record of a run folder, or None where no run was started.

    Raises:
        ResourceError: the record is damaged.
    """
    file = run_dir / RECORD
    if not file.exists():
        return None
    try:
        record = RunRecord(**json.loads(file.read_text(encoding="utf-8")))
        for part in (
            record.identity,
            record.decisions,
            record.result,
            record.planned,
            record.taken,
            record.environment,
        ):
            dict(part)
    except (ValueError, TypeError, RecursionError) as broken:
        raise ResourceError("error.run.record_broken", where=str(file), reason=str(broken)) from broken
    return record


def write_record(run_dir: Path, record: RunRecord) -> None:
    """Replace the record in one step."""
    write_atomically(run_dir / RECORD, json.dumps(asdict(record), ensure_ascii=False, indent=2, sort_keys=True))


def write_atomically(file: Path, content: str) -> None:
    """Write through a temporary file, so that readers see the old content or the new, never half of it."""
    unfinished = file.with_name(f"{file.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)


def set_aside(output_dir: Path) -> Path:
    """Move a run and its adapter to `run/previous-N`; the lock stays, and so does whatever else is in the folder."""
    run_dir = output_dir / RUN
    number = 1
    while (target := run_dir / f"previous-{number}").exists():
        number += 1
    target.mkdir(parents=True)
    for file in _adapter_files(output_dir):
        shutil.move(file, target / file.name)
    for entry in sorted(run_dir.iterdir()):
        if entry.name not in {"lock", "holder"} and not entry.name.startswith("previous-"):
            (target / RUN).mkdir(exist_ok=True)
            shutil.move(entry, target / RUN / entry.name)
    say("run.set_aside", folder=target)
    return target


def seal_checkpoint(checkpoint: Path) -> None:
    """Write a checkpoint's manifest, last of all its files, each of them synced to disk first."""
    hashes = {}
    for file in sorted(set(checkpoint.iterdir()) - {checkpoint / CHECKPOINT_MANIFEST}):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
        hashes[file.name] = sha256_of(file)
    write_atomically(checkpoint / CHECKPOINT_MANIFEST, json.dumps(hashes, indent=2, sort_keys=True))


def newest_valid(run_dir: Path) -> Path | None:
    """The checkpoint to go on from, by step number; damaged ones are set aside and named."""
    for checkpoint in reversed(_by_step(run_dir)):
        if _is_intact(checkpoint):
            return checkpoint
        damaged = _free_name(checkpoint.with_name(f".damaged-{checkpoint.name}"))
        shutil.move(checkpoint, damaged)
        say("run.damaged_checkpoint", folder=damaged)
    return None


def intact_at(run_dir: Path, step: int) -> Path | None:
    """The checkpoint of a step; None where it is missing or damaged."""
    checkpoint = checkpoint_at(run_dir, step)
    return checkpoint if _is_intact(checkpoint) else None


def checkpoint_at(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run_dir / CHECKPOINTS / f"checkpoint-{step}"


def prune(run_dir: Path) -> None:
    """Delete all sealed checkpoints but the newest and those that they name as the best so far."""
    sealed = [checkpoint for checkpoint in _by_step(run_dir) if (checkpoint / CHECKPOINT_MANIFEST).exists()]
    bests = {checkpoint_at(run_dir, best) for kept in sealed[-NUM_KEPT:] if (best := _best_step(kept)) is not None}
    for old in sealed[:-NUM_KEPT]:
        if old not in bests:
            shutil.rmtree(old)


def _best_step(checkpoint: Path) -> int | None:
    """The step whose weights a checkpoint names as the best so far; None where it names none."""
    try:
        return int(json.loads((checkpoint / VALIDATION).read_text(encoding="utf-8"))["best"]["step"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _by_step(run_dir: Path) -> list[Path]:
    folders = (run_dir / CHECKPOINTS).glob("checkpoint-*")
    numbered = (folder for folder in folders if folder.name.rpartition("-")[2].isdigit())
    return sorted(numbered, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _free_name(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3` … that nothing is called yet."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _is_intact(checkpoint: Path) -> bool:
    try:
        promised: dict[str, str] = json.loads((checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        return bool(promised) and all(sha256_of(checkpoint / name) == sha256 for name, sha256 in promised.items())
    except (OSError, ValueError, AttributeError):
        return False


def _make_room(output_dir: Path) -> None:
    """Where no run is recorded: move an adapter or checkpoints aside, and leave anybody else's files alone.

    Raises:
        UsageError: a file that is no adapter's stands where one of ours would go.
    """
    known = (CONFIG, WEIGHTS, MANIFEST, f"{RUN}/{CHECKPOINTS}")
    if any((output_dir / name).exists() for name in known):
        set_aside(output_dir)
    for name in (*OWN_NAMES, PROMPT):
        if (output_dir / name).exists():
            raise UsageError("error.run.foreign_file", where=str(output_dir / name))


def _adapter_files(output_dir: Path) -> list[Path]:
    """The files of a published adapter, as its manifest names them; without one, those that only an adapter has."""
    try:
        names = {*read_manifest(output_dir).files, MANIFEST}
    except ModelError:
        names = {WEIGHTS, CONFIG, PROMPT, MANIFEST, *OWN_NAMES}
    files = (output_dir / name for name in sorted(names) if Path(name).name == name)
    return [file for file in files if file.is_file()]


def _differences(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    names = sorted({*there, *wanted})
    return [
        f"{name}: {there.get(name, '-')} → {wanted.get(name, '-')}"
        for name in names
        if there.get(name) != wanted.get(name)
    ]


def _holder(run_dir: Path) -> str:
    try:
        return (run_dir / "holder").read_text(encoding="utf-8")
    except OSError:
        return "?"
