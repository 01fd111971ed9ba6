"""A crash at every operation of a save, a publication, a start and a run that is set aside: nothing valid is harmed, nothing
invalid is published, and the same command ends exactly as the run that was not broken."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from pangzhu import storage
from pangzhu.adapter import describe
from pangzhu.checkpoint import locked, newest_valid, open_run
from pangzhu.train import train
from tests.conftest import silently
from tests.torture.disks import Crash, Fault, FaultyDisk, Operation, read_tree, write_tree
from tests.torture.recordings import OUT, RUN, Recording, ends_the_same
from tests.torture.states import MOODS, WAITING, CrashPoint, PowerLoss, crash_points
from tests.torture.test_kills import LEAST_KILLS

# Not traced: the same lines run hundreds of times, and the tests of checkpoints and training reach them too.
pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]
LEAST_CRASHES = 300
LEAST_POWER_LOSSES = 200
NUM_RESUMED = 6  # of each kind, in the ordinary suite; `make torture` goes on from every one

Moment = CrashPoint | PowerLoss
Check = Callable[[Recording, int, Path], None]


def every(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, CrashPoint]]:
    return ((recording, point) for recording in recordings for point in crash_points(recording.log))


def power_losses(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, PowerLoss]]:
    """After each operation, one of the states that a power loss may leave; each mood in turn."""
    for recording in recordings:
        for number in range(1, len(recording.log) + 1):
            yield recording, PowerLoss(number, MOODS[number // 3 % 3], f"{recording.name} {number}")


def keeps_the_invariants(recording: Recording, number: int, home: Path) -> None:
    """What must be true of the disk that a run left which ended before operation `number`.

    I1: the newest checkpoint that was sealed is still the one to go on from, and a run that is set aside arrives whole.
    I2: the same command finds its own run, or none. I4: what looks like an adapter is one.
    """
    if (home / OUT / "manifest.json").exists():
        assert describe(home / OUT).fault is None
    identity = json.loads(recording.end[f"{RUN}/record.json"] or b"")["identity"]
    with locked(home / OUT) as run_dir:
        assert open_run(home / OUT, identity).identity == identity
        newest = newest_valid(run_dir)
    step = int(newest.name.rpartition("-")[2]) if newest else 0
    assert step >= recording.newest_safe_step(number)
    previous = home / RUN / "previous-1"
    for path, content in recording.set_aside.items():
        assert (previous / path).read_bytes() == content, path
    assert not (home / RUN / "previous-2").exists()


def count_states(moments: Iterable[tuple[Recording, Moment]], home: Path, check: Check) -> int:
    """Put what each moment leaves on the disk and check it; how many states there were, those counted once that are the same.

    A failure is told with where it happened.
    """
    seen = set()
    for recording, moment in moments:
        tree = moment.tree(recording.start, recording.log)
        state = (recording.name, hash(frozenset(tree.items())))
        if state in seen:
            continue
        seen.add(state)
        write_tree(tree, home)
        try:
            check(recording, moment.number, home)
        except BaseException as broken:
            last = recording.log[moment.number - 1] if moment.number else "nothing"
            broken.add_note(f"{recording.name}, {moment}, after {last}")
            raise
        shutil.rmtree(home)
    return len(seen)


def resumes(recording: Recording, _: int, home: Path) -> None:
    """The same command ends as if nothing had been."""
    ends_the_same(recording, home)


@pytest.mark.fault("A1")
@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.torture)])
def test_a_crash_at_any_operation_harms_nothing(
    step: int, recordings: Sequence[Recording], home: Path, record_property: Callable[[str, object], None]
) -> None:
    count = count_states(islice(every(recordings), None, None, step), home, keeps_the_invariants)
    record_property("crash points, nothing harmed", count)
    assert count >= LEAST_CRASHES


@pytest.mark.fault("A2")
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.torture)])
def test_a_power_loss_after_any_operation_harms_nothing(
    step: int, recordings: Sequence[Recording], home: Path, record_property: Callable[[str, object], None]
) -> None:
    count = count_states(islice(power_losses(recordings), None, None, step), home, keeps_the_invariants)
    record_property("power losses, nothing harmed", count)
    assert count >= LEAST_POWER_LOSSES


@pytest.mark.fault("A1", "A2")
@pytest.mark.parametrize("moments", [every, power_losses])
def test_after_some_of_them_the_same_command_ends_as_if_nothing_had_been(
    moments: Callable[[Sequence[Recording]], Iterator[tuple[Recording, Moment]]],
    recordings: Sequence[Recording],
    home: Path,
) -> None:
    some = Random(1).sample(list(moments(recordings)), NUM_RESUMED)
    assert count_states(some, home, resumes) == NUM_RESUMED


@pytest.mark.fault("A1")
@pytest.mark.torture
def test_after_every_crash_the_same_command_ends_as_if_nothing_had_been(
    recordings: Sequence[Recording], home: Path, record_property: Callable[[str, object], None]
) -> None:
    count = count_states(every(recordings), home, resumes)
    record_property("crash points, the same command ends with the same bytes", count)
    assert count >= LEAST_CRASHES


@pytest.mark.fault("A2")
@pytest.mark.torture
def test_after_every_power_loss_the_same_command_ends_as_if_nothing_had_been(
    recordings: Sequence[Recording], home: Path, record_property: Callable[[str, object], None]
) -> None:
    count = count_states(power_losses(recordings), home, resumes)
    record_property("power losses, the same command ends with the same bytes", count)
    assert count >= LEAST_POWER_LOSSES


@pytest.mark.parametrize("page", ["reliability.md", "reliability.zh-CN.md"])
def test_the_page_promises_what_is_asserted_here(page: str) -> None:
    told = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    assert {str(LEAST_CRASHES), str(LEAST_POWER_LOSSES), str(LEAST_KILLS)} <= set(re.findall(r"\b\d+\b", told))


# --- the record is true ----------------------------------------------------------------------------------------------


def places_of(log: Sequence[Operation]) -> dict[str, int]:
    """Some operations of ours worth stopping a real process at, by what they are."""
    own = [operation for operation in log if not operation.by_library]
    wanted = {
        "record": ("write", "record.json.tmp"),
        "metrics": ("write", "metrics.jsonl"),
        "seal": ("write", "checkpoint-2/manifest.json.tmp"),
        "publish": ("replace", "staged/adapter_model.safetensors"),
    }
    return {
        name: next(n for n, op in enumerate(own) if op.kind == kind and op.path.endswith(end))
        for name, (kind, end) in wanted.items()
    }


@pytest.mark.fault("A1")
@pytest.mark.parametrize("place", ["record", "metrics", "seal", "publish"])
def test_a_process_that_really_ends_leaves_the_state_that_is_told_from_the_record(
    place: str, recordings: Sequence[Recording], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recordings[0]
    number = places_of(recording.log)[place]
    home.mkdir()
    fault = Fault(strikes=lambda count, _: count == number, half=True)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "DISK", FaultyDisk(home, fault))
        with pytest.raises(Crash):
            train(recording.lesson.config(home), on_step=silently)
    own = [n for n, operation in enumerate(recording.log) if not operation.by_library]
    half = recording.log[own[number]].kind == "write"
    told = CrashPoint(own[number], half=half).tree(recording.start, recording.log)
    left = read_tree(home)
    assert left.keys() == told.keys()
    binary = [path for path in told if path.endswith((".safetensors", ".pt", ".pth"))]
    assert [path for path in binary if left[path] != told[path]] == []
    ends_the_same(recording, home)


def test_the_record_holds_everything_that_was_written(recordings: Sequence[Recording]) -> None:
    for recording in recordings:
        assert CrashPoint(len(recording.log)).tree(recording.start, recording.log) == recording.end


def test_whatever_a_library_wrote_is_synced_before_it_is_vouched_for(recordings: Sequence[Recording]) -> None:
    for recording in recordings:
        written = [n for n, op in enumerate(recording.log) if op.by_library and op.kind == "write"]
        for number in written:
            path = recording.log[number].path
            later = recording.log[number + 1 :]
            assert any(op.path == path and op.kind in ("sync", "remove", "create") for op in later), path
    assert all(
        operation.kind not in WAITING for recording in recordings for operation in recording.log if operation.by_library
    )
