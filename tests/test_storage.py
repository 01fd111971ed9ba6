"""The one way to the disk: what is written is there or not there, what is refused is said, what is held open is waited for."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu import storage
from pangzhu.errors import ModelError
from pangzhu.storage import (
    Disk,
    DiskError,
    append_line,
    library_writes,
    make_folder,
    move,
    remove,
    remove_tree,
    writing,
)
from tests.torture.disks import Crash, Fault, FaultyDisk, Operation, RecordingDisk, disk_full, held_open


def put(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr(storage, "DISK", disk)


def at(kind: str, name: str = "") -> Callable[[int, Operation], bool]:
    """Strike at the first operation of this kind on a file whose name ends so."""
    return lambda _, operation: operation.kind == kind and operation.path.endswith(name)


# --- a file is written whole -----------------------------------------------------------------------------------------


@pytest.mark.fault("A1", "A5")
@pytest.mark.parametrize("kind", ["create", "write", "sync", "replace"])
@pytest.mark.parametrize("error", [disk_full(), OSError(errno.EIO, "Input/output error"), None], ids=str)
def test_a_write_that_fails_half_way_leaves_the_old_content(
    kind: str, error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    storage.write_atomically(file, "old")
    put(monkeypatch, FaultyDisk(tmp_path, Fault(at(kind), error, half=True)))
    with pytest.raises(Crash if error is None else DiskError):
        storage.write_atomically(file, "new, and longer")
    assert file.read_text(encoding="utf-8") == "old"
    if error is not None:
        assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_text_that_cannot_be_encoded_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        storage.write_atomically(tmp_path / "new", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_line_ends_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    storage.write_atomically(tmp_path / "text", "é\r\n\n")
    storage.write_atomically(tmp_path / "bytes", b"\0\xff")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\r\n\n"
    assert (tmp_path / "bytes").read_bytes() == b"\0\xff"


@pytest.mark.fault("A2")
def test_bytes_are_on_the_disk_before_the_name_is_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    storage.write_atomically(tmp_path / "a", "x")
    assert [operation.kind for operation in disk.log] == ["create", "write", "sync", "replace", "sync_folder"]


def test_a_file_in_pieces_is_gone_without_a_trace_when_its_writer_fails(tmp_path: Path) -> None:
    def pieces() -> None:
        with writing(tmp_path / "big") as new:
            new.write(b"piece")
            raise ModelError("error.model.no_pip")

    with pytest.raises(ModelError):
        pieces()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_write_the_same_file_use_two_temporary_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    storage.write_atomically(tmp_path / "probes.json", "{}", alone=False)
    assert disk.log[0].path == f"probes.json.{os.getpid()}.tmp"


def test_every_line_is_on_the_disk_when_it_has_been_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    append_line(tmp_path / "metrics.jsonl", "1")
    append_line(tmp_path / "metrics.jsonl", "2")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"1\n2\n"
    assert [operation.kind for operation in disk.log] == ["create", "write", "sync", "sync_folder", "write", "sync"]


# --- moves and removals ----------------------------------------------------------------------------------------------


def test_a_folder_moves_file_by_file_and_is_never_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to rename a folder while anything in it is open."""
    (tmp_path / "old" / "deep").mkdir(parents=True)
    (tmp_path / "old" / "a").write_bytes(b"a")
    (tmp_path / "old" / "deep" / "b").write_bytes(b"b")
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    move(tmp_path / "old", tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place" / "deep" / "b").read_bytes() == b"b"
    assert not (tmp_path / "old").exists()
    assert {operation.path for operation in disk.log if operation.kind == "replace"} == {"old/a", "old/deep/b"}


def test_a_folders_move_that_was_cut_short_is_finished_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    for name in "abc":
        (tmp_path / "old" / name).write_text(name, encoding="utf-8")
    with monkeypatch.context() as patched:
        put(patched, FaultyDisk(tmp_path, Fault(at("replace", "b"))))
        with pytest.raises(Crash):
            move(tmp_path / "old", tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["b", "c"]
    move(tmp_path / "old", tmp_path / "new")
    assert sorted(path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()) == ["a", "b", "c"]


def test_the_last_file_of_a_folder_goes_when_the_others_are_gone_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    for name in ("manifest", "optimizer", "weights"):
        (tmp_path / "old" / name).touch()
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    remove_tree(tmp_path / "old", last="manifest")
    told = [f"{operation.kind} {operation.path}" for operation in disk.log]
    assert told == [
        "remove old/optimizer", "remove old/weights", "sync_folder old", "remove old/manifest", "remove_folder old",
        "sync_folder .",
    ]  # fmt: skip


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "link").symlink_to(tmp_path / "precious")
    remove_tree(tmp_path / "old")
    assert (tmp_path / "precious" / "file").exists()


def test_removing_what_is_not_there_is_no_fault(tmp_path: Path) -> None:
    remove(tmp_path / "none")
    remove(tmp_path / "nowhere" / "none")
    remove_tree(tmp_path / "none")


def test_every_folder_that_is_made_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RecordingDisk(tmp_path)
    put(monkeypatch, disk)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    told = [f"{operation.kind} {operation.path}" for operation in disk.log]
    assert told == ["make_folder a", "sync_folder .", "make_folder a/b", "sync_folder a"]


# --- what the disk refuses -------------------------------------------------------------------------------------------


@pytest.mark.fault("A5", "A6")
@pytest.mark.parametrize(
    ("error", "key"),
    [
        (disk_full(), "error.disk.full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "error.disk.full"),
        (OSError(errno.EROFS, "Read-only file system"), "error.disk.forbids"),
        (PermissionError(errno.EACCES, "Permission denied"), "error.disk.forbids"),
        (OSError(errno.EIO, "Input/output error"), "error.disk.forbids"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "error.disk.gone"),
    ],
)
def test_what_the_disk_refuses_ends_with_5_and_names_file_and_reason(
    error: OSError, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, FaultyDisk(tmp_path, Fault(at("create"), error)))
    with pytest.raises(DiskError) as refused:
        storage.write_atomically(tmp_path / "record.json", "x")
    assert (refused.value.key, refused.value.exit_code) == (key, 5)
    assert refused.value.where == str(tmp_path / "record.json")
    assert key != "error.disk.forbids" or str(error.strerror) in str(refused.value)


def test_a_file_in_a_folders_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DiskError) as refused:
        make_folder(tmp_path / "taken" / "below")
    assert refused.value.where == str(tmp_path / "taken")


FULL_DISK_IN_LIBRARIES_WORDS = [  # as torch 2.13 and safetensors 0.8 said it on a full file system
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    disk_full(),
]


@pytest.mark.parametrize("said", FULL_DISK_IN_LIBRARIES_WORDS, ids=str)
def test_a_full_disk_is_told_whatever_words_a_library_has_for_it(
    said: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, FaultyDisk(tmp_path, Fault(at("write", "trial.tmp"), disk_full())))
    with pytest.raises(DiskError) as refused, library_writes(tmp_path):
        raise said
    assert refused.value.key == "error.disk.full"
    assert list(tmp_path.iterdir()) == []


def test_a_librarys_own_fault_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), library_writes(tmp_path):
        raise RuntimeError("a bug")
    with pytest.raises(ModelError), library_writes(tmp_path):
        raise ModelError("error.model.no_pip")
    assert list(tmp_path.iterdir()) == []


def test_a_library_is_not_let_make_a_folder_again_that_somebody_deleted(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as refused, library_writes(tmp_path / "deleted"):
        (tmp_path / "deleted").mkdir()
    assert refused.value.key == "error.disk.gone"
    assert not (tmp_path / "deleted").exists()


# --- a file that another program holds open --------------------------------------------------------------------------


class HeldDisk(Disk):
    """Files stay open elsewhere for so many attempts, as Windows tells it."""

    def __init__(self, attempts: float, number: int) -> None:
        self.attempts, self.number = attempts, number

    def replace(self, source: Path, target: Path) -> None:
        self._hold()
        super().replace(source, target)

    def remove(self, file: Path) -> None:
        self._hold()
        super().remove(file)

    def _hold(self) -> None:
        self.attempts -= 1
        if self.attempts >= 0:
            raise held_open(self.number)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.mark.fault("A9")
@pytest.mark.parametrize("number", [5, 32, 33])
def test_a_file_held_open_for_a_moment_is_waited_for(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    put(monkeypatch, HeldDisk(3, number))
    storage.write_atomically(tmp_path / "record.json", "new")
    assert (tmp_path / "record.json").read_text(encoding="utf-8") == "new"
    assert len(slept) == 3
    assert slept == sorted(slept)


@pytest.mark.fault("A9")
def test_after_five_seconds_it_is_told_and_the_old_file_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    storage.write_atomically(tmp_path / "record.json", "old")
    put(monkeypatch, HeldDisk(10**9, 32))
    with pytest.raises(DiskError) as refused:
        storage.write_atomically(tmp_path / "record.json", "new")
    assert (refused.value.key, refused.value.exit_code) == ("error.disk.held", 5)
    assert sum(slept) == pytest.approx(5)
    assert (tmp_path / "record.json").read_text(encoding="utf-8") == "old"


def test_a_folder_that_may_not_be_written_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    put(monkeypatch, FaultyDisk(tmp_path, Fault(at("replace"), PermissionError(errno.EACCES, "Permission denied"))))
    with pytest.raises(DiskError):
        storage.write_atomically(tmp_path / "record.json", "new")
    assert slept == []


# --- folders that cannot be synced, room -----------------------------------------------------------------------------


def test_a_file_system_that_syncs_no_folders_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    storage.write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x"


def test_a_folder_that_fails_to_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError):
        storage.sync_tree(tmp_path)


def test_room_is_asked_for_where_a_folder_would_be_made(tmp_path: Path) -> None:
    assert storage.free_space(tmp_path / "not" / "yet") == pytest.approx(storage.free_space(tmp_path), rel=0.05)
