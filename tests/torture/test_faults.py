"""Faults of the machine and of people while a run goes on: each ends with its exit code and one sentence, harms no earlier
checkpoint, publishes nothing, and the same command then ends as the run that was not broken."""

import errno
import os
import shutil
import signal
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from pangzhu import storage
from pangzhu.adapter import WEIGHTS
from pangzhu.checkpoint import newest_valid
from pangzhu.cli import main
from pangzhu.errors import InterruptedRunError, ResourceError
from pangzhu.progress import StepReport
from pangzhu.storage import DiskError
from pangzhu.train import train
from tests.conftest import silently
from tests.torture.disks import Fault, FaultyDisk, Operation, disk_full, write_tree
from tests.torture.recordings import CHECKPOINTS, OUT, RUN, Recording, ends_the_same, while_saving

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]
PAGE = 4096  # bytes that a file takes at the least


@pytest.fixture
def first(recordings: Sequence[Recording]) -> Recording:
    """The run that was not broken."""
    return recordings[0]


@pytest.fixture
def home(home: Path) -> Path:
    """The folder in which the output folder is, or will be."""
    home.mkdir()
    return home


def wrote(name: str, *, kind: str = "write", below: str = "") -> Callable[[int, Operation], bool]:
    return lambda _, operation: operation.kind == kind and operation.path.endswith(name) and below in operation.path


def fails(first: Recording, home: Path, fault: Fault) -> DiskError:
    """Train on a disk with this fault."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage, "DISK", FaultyDisk(home, fault))
        with pytest.raises(DiskError) as refused:
            train(first.lesson.config(home), on_step=silently)
    assert fault.struck is not None
    assert refused.value.exit_code == 5
    assert refused.value.where
    assert refused.value.fix
    return refused.value


def nothing_published(home: Path) -> bool:
    return not (home / OUT / "manifest.json").exists()


# --- A4: signals -----------------------------------------------------------------------------------------------------


class Left(BaseException):
    """The process would be gone."""


@pytest.fixture
def default_handlers() -> Iterator[None]:
    """What Ctrl-C and SIGTERM do by themselves ends this process; here it is noted instead."""

    def leave(number: int, _: object) -> None:
        raise Left(number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signals(number: signal.Signals, times: int) -> Callable[[StepReport], None]:
    def raise_signals(report: StepReport) -> None:
        if report.step == 2:
            for _ in range(times):
                signal.raise_signal(number)

    return raise_signals


@pytest.mark.fault("A4")
@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a4_a_signal_finishes_the_step_and_the_same_command_resumes_exactly(
    number: signal.Signals, exit_code: int, first: Recording, home: Path
) -> None:
    with pytest.raises(InterruptedRunError) as interrupted:
        train(first.lesson.config(home), on_step=signals(number, 1))
    assert interrupted.value.exit_code == exit_code
    assert newest_valid(home / RUN) == home / CHECKPOINTS / "checkpoint-3"
    ends_the_same(first, home)


@pytest.mark.fault("A4")
@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a4_a_second_signal_leaves_at_once_and_the_same_command_resumes_exactly(
    number: signal.Signals, first: Recording, home: Path
) -> None:
    with pytest.raises(Left):
        train(first.lesson.config(home), on_step=signals(number, 2))
    assert newest_valid(home / RUN) == home / CHECKPOINTS / "checkpoint-1"  # the step under way was not saved
    ends_the_same(first, home)


# --- A5: disk full ---------------------------------------------------------------------------------------------------

FULL_AT = {
    "the record": wrote("record.json.tmp"),
    "the rejects": wrote("rejected.txt.tmp"),
    "metrics": lambda _, operation: operation.path.endswith("metrics.jsonl") and b'"step": 3' in operation.data,
    "a save": wrote("learned.json.tmp", below="checkpoint-3"),
    "the seal": wrote("manifest.json.tmp", below="checkpoint-3"),
    "the staged adapter": wrote("adapter_model.safetensors.tmp", below="staged"),
    "the published manifest": wrote(f"{OUT}/manifest.json.tmp"),
}


@pytest.mark.fault("A5")
@pytest.mark.parametrize("where", FULL_AT)
def test_a5_a_full_disk_ends_with_5_and_loses_nothing(where: str, first: Recording, home: Path) -> None:
    refused = fails(first, home, Fault(FULL_AT[where], disk_full(), half=True))
    assert refused.key == "error.disk.full"
    assert nothing_published(home)
    newest = newest_valid(home / RUN)
    expected = {"metrics": 2, "a save": 2, "the seal": 2, "the staged adapter": 4, "the published manifest": 4}
    assert (int(newest.name.rpartition("-")[2]) if newest else 0) == expected.get(where, 0)
    ends_the_same(first, home)


@pytest.mark.fault("A5")
def test_a5_a_disk_that_is_full_for_torch_ends_with_5_and_loses_nothing(
    first: Recording, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = torch.save

    def full(content: object, file: object, *others: object, **options: object) -> None:
        if str(file).endswith("checkpoint-3/optimizer.pt"):
            Path(str(file)).write_bytes(b"half of it")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        saving(content, file, *others, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        refused = fails(first, home, Fault(wrote("trial.tmp"), disk_full()))
    assert refused.key == "error.disk.full"
    ends_the_same(first, home)
    assert (home / CHECKPOINTS / ".damaged-checkpoint-3" / "optimizer.pt").read_bytes() == b"half of it"


@pytest.mark.fault("A5")
@pytest.mark.torture
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_a5_a_disk_that_is_really_full_ends_with_5_and_loses_nothing(
    percent: int, first: Recording, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fills up; the question for room beforehand is left out."""
    pages = sum(-(-len(content) // PAGE) for content in first.end.values() if content is not None)
    assert os.system(f"mount -t tmpfs -o size={pages * PAGE * percent // 100} tmpfs {home}") == 0
    try:
        with monkeypatch.context() as patched:
            patched.setattr("pangzhu.checkpoint.require_room", lambda *_: None)
            with pytest.raises(DiskError) as refused:
                train(first.lesson.config(home), on_step=silently)
        assert refused.value.key == "error.disk.full"
        assert nothing_published(home)
        assert os.system(f"mount -o remount,size=100m {home}") == 0
        ends_the_same(first, home)
    finally:
        os.system(f"umount --lazy {home}")  # a run that failed may hold a file open still


@pytest.mark.fault("A5")
def test_a5_what_would_not_fit_is_refused_before_the_first_step(
    first: Recording, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
        with pytest.raises(ResourceError) as refused:
            train(first.lesson.config(home), on_step=silently)
    assert (refused.value.key, refused.value.exit_code) == ("error.run.no_space", 5)
    assert not (home / RUN / "metrics.jsonl").exists()
    ends_the_same(first, home)


@pytest.mark.fault("A5")
def test_a5_the_command_line_says_it_in_one_sentence_and_shows_no_traceback(
    first: Recording, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = first.lesson.config(home)
    words = [
        "train",
        "--model_name_or_path",
        str(config.model_name_or_path),
        "--dataset_path",
        str(config.dataset_path),
    ]
    words += ["--output_dir", str(config.output_dir), "--max_steps", "2", "--device", "cpu", "--precision", "float32"]
    monkeypatch.setattr(storage, "DISK", FaultyDisk(home, Fault(wrote("metrics.jsonl"), disk_full())))
    assert main([*words, "--skip_bad", "--lang", "zh"]) == 5
    told = capsys.readouterr().err
    assert "磁盘已满。" in told
    assert str(home / RUN / "metrics.jsonl") in told
    assert "Traceback" not in told


# --- A6: folders that cannot be written ------------------------------------------------------------------------------


@pytest.mark.fault("A6")
@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, "Read-only file system"), PermissionError(errno.EACCES, "Denied")]
)
@pytest.mark.parametrize("when", [wrote("", kind="make_folder"), wrote("metrics.jsonl"), wrote("learned.json.tmp")])
def test_a6_a_disk_that_becomes_read_only_is_one_clear_error(
    error: OSError, when: Callable[[int, Operation], bool], first: Recording, home: Path
) -> None:
    refused = fails(first, home, Fault(when, error))
    assert refused.key == "error.disk.forbids"
    assert str(error.strerror) in refused.what
    assert nothing_published(home)


@pytest.mark.fault("A6")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a6_a_folder_without_permission_is_one_clear_error(first: Recording, home: Path) -> None:
    home.chmod(0o555)
    with pytest.raises(ResourceError) as refused:
        train(first.lesson.config(home), on_step=silently)
    home.chmod(0o755)
    assert refused.value.exit_code == 5


@pytest.mark.fault("A6")
def test_a6_an_output_folder_that_is_a_file_is_one_clear_error(first: Recording, home: Path) -> None:
    (home / OUT).write_text("mine", encoding="utf-8")
    with pytest.raises(ResourceError) as refused:
        train(first.lesson.config(home), on_step=silently)
    assert (refused.value.exit_code, refused.value.where) == (5, str(home / OUT))
    assert (home / OUT).read_text(encoding="utf-8") == "mine"


@pytest.mark.fault("A6")
@pytest.mark.parametrize("save_steps", [1, 50])
def test_a6_a_folder_deleted_in_mid_run_ends_the_run_and_is_not_made_again_by_half(
    save_steps: int, first: Recording, home: Path
) -> None:
    def delete(report: StepReport) -> None:
        if report.step == 2:
            shutil.rmtree(home / OUT)

    config = first.lesson.config(home).model_copy(update={"save_steps": save_steps})
    with pytest.raises(DiskError) as refused:
        train(config, on_step=delete)
    assert (refused.value.key, refused.value.exit_code) == ("error.disk.gone", 5)
    assert not (home / OUT).exists()
    ends_the_same(first, home)


# --- A10: clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("A10")
def test_a10_a_clock_that_goes_back_and_wrong_times_of_files_change_nothing(
    first: Recording, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home)
    write_tree(while_saving(first, step=3), home)
    for number, path in enumerate(sorted(home.rglob("*"))):
        os.utime(path, (2_000_000_000 - number, 2_000_000_000 - number))
    monkeypatch.setattr(time, "time", lambda: 1.0)
    ends_the_same(first, home)


# --- B1: damaged checkpoints -----------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "cut at 0": lambda content: b"",
    "cut at 4": lambda content: content[:4],
    "cut at 8": lambda content: content[:8],
    "cut at 20": lambda content: content[:20],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "one bit flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "trailing bytes": lambda content: content + b"\0\0",
}


@pytest.mark.fault("B1")
@pytest.mark.parametrize("damage", DAMAGE)
def test_b1_any_damaged_file_sets_its_checkpoint_aside_and_the_older_one_is_used(
    damage: str, first: Recording, home: Path, said: list[str]
) -> None:
    newest = f"{CHECKPOINTS}/checkpoint-4"
    names = [path for path, content in first.end.items() if path.startswith(f"{newest}/") and content is not None]
    assert len(names) >= 9
    assert f"{newest}/{WEIGHTS}" in names
    for number, path in enumerate(names):
        tree = {found: content for found, content in first.end.items() if found.startswith(RUN)}
        tree[path] = DAMAGE[damage](tree[path] or b"")
        if tree[path] is None:
            del tree[path]
        place = write_tree(tree, home / str(number))
        assert newest_valid(place / RUN) == place / CHECKPOINTS / "checkpoint-3", path
        aside = place / CHECKPOINTS / ".damaged-checkpoint-4"
        left = {found: content for found, content in tree.items() if found.startswith(f"{newest}/")}
        assert {f"{newest}/{file.name}": file.read_bytes() for file in aside.iterdir()} == left, path
        assert ".damaged-checkpoint-4" in said[-1]


@pytest.mark.fault("B1")
def test_b1_with_every_checkpoint_damaged_the_run_begins_anew_and_ends_the_same(first: Recording, home: Path) -> None:
    shutil.rmtree(home)
    write_tree(while_saving(first, step=3), home)
    for file in (home / CHECKPOINTS).rglob("optimizer.pt"):
        file.write_bytes(b"")
    ends_the_same(first, home)
