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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pangzhu import storage
from pangzhu.adapter import CARD, CHAT_TEMPLATE, CONFIG, MANIFEST, PROMPT, WEIGHTS, read_manifest
from pangzhu.errors import LockedError, ModelError, ResourceError, UsageError
from pangzhu.messages import say
from pangzhu.storage import sha256_of

RUN = "run"
RECORD = "record.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
CHECKPOINT_MANIFEST = "manifest.json"
VALIDATION = "validation.json"  # in a checkpoint: what the validation rows said so far
LOCK, HOLDER, MOVING = "lock", "holder", "moving.json"
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
    storage.make_folder(run_dir)
    try:
        lock = FileLock(run_dir / LOCK)
        lock.acquire(blocking=False)
    except Timeout as taken:
        raise LockedError("error.run.locked", where=str(output_dir), holder=_holder(run_dir)) from taken
    except OSError as refused:
        raise ResourceError("error.run.not_writable", where=str(output_dir), reason=refused.strerror) from refused
    try:
        storage.write_atomically(run_dir / HOLDER, str(os.getpid()))
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
    if (output_dir / RUN / MOVING).exists():  # left by a crash
        _move(output_dir, _Moving.read(output_dir / RUN / MOVING))
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
    storage.write_atomically(run_dir / RECORD, json.dumps(asdict(record), ensure_ascii=False, indent=2, sort_keys=True))


def set_aside(output_dir: Path) -> Path:
    """Move a run and its adapter to `run/previous-N`; the lock stays, and so does whatever else is in the folder.

    What moves is written down first: after a crash in between, `open_run` moves the rest to where the first of it went.
    """
    run_dir = output_dir / RUN
    number = next(number for number in count(1) if not (run_dir / f"previous-{number}").exists())
    staying = {LOCK, HOLDER, MOVING}
    entries = sorted(entry.name for entry in run_dir.iterdir() if not entry.name.startswith("previous-"))
    moving = _Moving(
        target=f"previous-{number}",
        adapter=[file.name for file in _adapter_files(output_dir)],
        run=[name for name in entries if name not in staying],
    )
    storage.write_atomically(run_dir / MOVING, json.dumps(asdict(moving), ensure_ascii=False))
    return _move(output_dir, moving)


@dataclass(frozen=True, slots=True)
class _Moving:
    """What `run/moving.json` holds while a run is set aside: names in the output folder and in its run folder, and the
    folder in the run folder that they go to."""

    target: str
    adapter: list[str]
    run: list[str]

    @classmethod
    def read(cls, file: Path) -> "_Moving":
        """Read it back.

        Raises:
            ResourceError: it is damaged, or names what is elsewhere.
        """
        try:
            moving = cls(**json.loads(file.read_text(encoding="utf-8")))
            names = [moving.target, *moving.adapter, *moving.run]
            elsewhere = next((name for name in names if Path(name).name != name), None)
        except (ValueError, TypeError, RecursionError) as broken:
            raise ResourceError("error.run.record_broken", where=str(file), reason=str(broken)) from broken
        if elsewhere is not None:
            raise ResourceError("error.run.record_broken", where=str(file), reason=elsewhere)
        return moving


def _move(output_dir: Path, moving: _Moving) -> Path:
    """Move what is still where it was; the adapter's manifest goes first, so that no half of it passes for whole."""
    run_dir = output_dir / RUN
    target = run_dir / moving.target
    storage.make_folder(target / RUN if moving.run else target)
    pairs = [(output_dir / name, target / name) for name in moving.adapter]
    pairs += [(run_dir / name, target / RUN / name) for name in moving.run]
    for source, place in pairs:
        if source.exists():
            storage.move(source, place)
    storage.remove(run_dir / MOVING)
    say("run.set_aside", folder=target)
    return target


def seal_checkpoint(checkpoint: Path) -> None:
    """Write a checkpoint's manifest, last of all its files, each of them synced to disk first."""
    storage.sync_tree(checkpoint)
    files = sorted(set(checkpoint.iterdir()) - {checkpoint / CHECKPOINT_MANIFEST})
    hashes = {file.name: sha256_of(file) for file in files}
    storage.write_atomically(checkpoint / CHECKPOINT_MANIFEST, json.dumps(hashes, indent=2, sort_keys=True))


def newest_valid(run_dir: Path) -> Path | None:
    """The checkpoint to go on from, by step number; damaged ones are set aside and named."""
    for checkpoint in reversed(_by_step(run_dir)):
        if _is_intact(checkpoint):
            return checkpoint
        damaged = _free_name(checkpoint.with_name(f".damaged-{checkpoint.name}"))
        storage.move(checkpoint, damaged)
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
    """Delete all sealed checkpoints but the newest and those that they name as the best so far, and the empty folder that a
    crash left of one that was deleted."""
    folders = _by_step(run_dir)
    sealed = [checkpoint for checkpoint in folders if (checkpoint / CHECKPOINT_MANIFEST).exists()]
    bests = {checkpoint_at(run_dir, best) for kept in sealed[-NUM_KEPT:] if (best := _best_step(kept)) is not None}
    emptied = [checkpoint for checkpoint in folders if not any(checkpoint.iterdir())]
    for old in (*(checkpoint for checkpoint in sealed[:-NUM_KEPT] if checkpoint not in bests), *emptied):
        storage.remove_tree(old, last=CHECKPOINT_MANIFEST)


def _best_step(checkpoint: Path) -> int | None:
    """The step whose weights a checkpoint names as the best so far; None where it names none."""
    try:
        return int(json.loads((checkpoint / VALIDATION).read_text(encoding="utf-8"))["best"]["step"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def require_room(run_dir: Path, num_bytes: int) -> None:
    """Refuse to begin what would not fit.

    Args:
        run_dir: its checkpoints, which newer ones will replace, count as room.
        num_bytes: what the whole run takes.

    Raises:
        ResourceError: less is free.
    """
    taken = sum(file.stat().st_size for folder in _by_step(run_dir) for file in folder.iterdir())
    needed, free = num_bytes - taken, storage.free_space(run_dir)
    if free < needed:
        raise ResourceError("error.run.no_space", where=str(run_dir), needed=needed / 1e6, free=free / 1e6)


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
    """The files of a published adapter, as its manifest names them, itself first; without one, those that only an adapter
    has."""
    try:
        names = {*read_manifest(output_dir).files, MANIFEST}
    except ModelError:
        names = {WEIGHTS, CONFIG, PROMPT, MANIFEST, *OWN_NAMES}
    ordered = sorted(names, key=lambda name: (name != MANIFEST, name))
    files = (output_dir / name for name in ordered if Path(name).name == name)
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
        return (run_dir / HOLDER).read_text(encoding="utf-8")
    except OSError:
        return "?"
