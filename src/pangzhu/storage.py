"""The one way to the disk: whole files, lines, moves and removals, each of which a crash leaves done or not done.

A file is written under a temporary name, synced, and put in its place by one replacement; then its folder is synced, where
the system can. Readers see the old content or the new, never half of it, after a power loss too. What a library writes by
itself (a checkpoint, a tokenizer) goes into a folder of its own, where it counts for nothing until `sync_tree` has been
over it and a manifest, written here, names its hashes. Folders are never renamed, which Windows refuses while anything in
them is open: their files move one by one. Where another program holds a file open, the write waits a few seconds.

A write that the disk refuses is a `DiskError`; what was there before it is still there.

Left to others: what makes a checkpoint, an adapter or a base model valid (`pangzhu.checkpoint`, `pangzhu.adapter`,
`pangzhu.sources.cache`). Try it: `make torture` stops a run at every one of these operations in turn.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from pangzhu.errors import PangzhuError, ResourceError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
HELD_OPEN = (5, 32, 33)  # Windows' numbers: access denied, sharing violation, lock violation
CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # said by some network file systems
PAUSES = tuple(5.0 * 2**number / 511 for number in range(9))  # seconds between attempts, five together
FULL_IN_WORDS = ("No space left on device", "os error 28", "not enough space on the disk", "os error 112")
TRIAL_BYTES = 1 << 20
UNFINISHED = ".tmp"

T = TypeVar("T")


class DiskError(ResourceError):
    """The disk refused a write: it is full, read-only or gone, or another program holds the file.

    Args:
        errno: the system's number for the reason, 0 where it gave none.
    """

    def __init__(self, key: str, /, *, errno: int, where: str | None = None, **values: object) -> None:
        super().__init__(key, where=where, **values)
        self.errno = errno


class Disk:
    """The operations that everything else here is made of, a system call each. Tests put another in its place, which
    counts them, refuses one, or lets the process end at the N-th."""

    def open(self, file: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
        """Begin or go on with a file."""
        return file.open(mode)

    def write(self, opened: BinaryIO, data: bytes) -> None:
        """Add bytes at the end of an opened file."""
        opened.write(data)

    def sync(self, opened: BinaryIO) -> None:
        """Wait until what was written is on the disk."""
        opened.flush()
        os.fsync(opened.fileno())

    def sync_file(self, file: Path) -> None:
        """The same for a file that somebody else wrote."""
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())

    def sync_folder(self, folder: Path) -> None:
        """Wait until the folder's entries are on the disk; Windows writes them with the files."""
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as refused:
            if refused.errno not in CANNOT_SYNC_FOLDERS:
                raise
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of a file that had it."""
        source.replace(target)

    def remove(self, file: Path) -> None:
        """Remove a file."""
        file.unlink()

    def make_folder(self, folder: Path) -> None:
        """Make a folder in one that is there."""
        folder.mkdir()

    def remove_folder(self, folder: Path) -> None:
        """Remove an empty folder."""
        folder.rmdir()

    def link(self, pointer: Path, target: Path) -> None:
        """Make `pointer` a symbolic link to `target`."""
        pointer.symlink_to(target)


DISK = Disk()


# --- files -------------------------------------------------------------------------------------------------------


class NewFile:
    """A file that is being written, in pieces. Nothing stands under its name before `finish`.

    Args:
        file: its name once it is whole.
        alone: no other process writes this file at the same time.
    """

    def __init__(self, file: Path, *, alone: bool = True) -> None:
        self.file = file
        self._unfinished = file.with_name(f"{file.name}{'' if alone else f'.{os.getpid()}'}{UNFINISHED}")
        with _refusals(file):
            self._opened = _patiently(lambda: DISK.open(self._unfinished, "wb"))

    def write(self, data: bytes) -> None:
        """Add a piece."""
        with _refusals(self.file):
            DISK.write(self._opened, data)

    def finish(self) -> None:
        """Put the file in its place."""
        with _refusals(self.file):
            with self._opened:
                DISK.sync(self._opened)
            _replace(self._unfinished, self.file)

    def abandon(self) -> None:
        """Leave nothing half written behind."""
        with suppress(OSError):  # of a full disk: what could not be written cannot be flushed either
            self._opened.close()
        with suppress(OSError):
            DISK.remove(self._unfinished)


@contextmanager
def writing(file: Path, *, alone: bool = True) -> Iterator[NewFile]:
    """A file to write in pieces: in its place when the block ends, gone without a trace when it fails."""
    new = NewFile(file, alone=alone)
    try:
        yield new
        new.finish()
    except BaseException:
        new.abandon()
        raise


def write_atomically(file: Path, content: str | bytes, *, alone: bool = True) -> None:
    """Write a file whole: readers see the old content or the new, never half of it.

    Args:
        file: its folder must be there.
        content: text is written as UTF-8, line ends as they are.
        alone: no other process writes this file at the same time.

    Raises:
        DiskError: the old content is still there.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(file, alone=alone) as new:
        new.write(data)


def append_line(file: Path, line: str) -> None:
    """Add a line to a file, begun where it is not there; on the disk when this returns. A crash may cut the line."""
    with _refusals(file):
        is_new = not file.exists()
        with _patiently(lambda: DISK.open(file, "ab")) as opened:
            DISK.write(opened, f"{line}\n".encode())
            DISK.sync(opened)
        if is_new:
            DISK.sync_folder(file.parent)


@contextmanager
def appending(file: Path, *, anew: bool) -> Iterator[Callable[[bytes], None]]:
    """Give a function that adds bytes to a file which may stay unfinished, such as a download's part.

    Args:
        file: what to add to.
        anew: what is there already is thrown away.
    """
    with _refusals(file):
        opened = _patiently(lambda: DISK.open(file, "wb" if anew else "ab"))

    def write(data: bytes) -> None:
        with _refusals(file):
            DISK.write(opened, data)

    try:
        yield write
    finally:
        with _refusals(file):
            opened.close()


def sha256_of(file: Path) -> str:
    """Hexadecimal hash of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- moves and removals ------------------------------------------------------------------------------------------


def move(source: Path, target: Path) -> None:
    """Move a file, in place of one that is there; or a folder, file by file, into one that may be there already.

    A folder's move that was cut short is finished by the same call.
    """
    if not source.is_dir() or source.is_symlink():
        with _refusals(source):
            _replace(source, target)
        return
    make_folder(target)
    for entry in sorted(source.iterdir()):
        move(entry, target / entry.name)
    with _refusals(source):
        _patiently(lambda: DISK.remove_folder(source))
        DISK.sync_folder(source.parent)


def remove(file: Path) -> None:
    """Remove a file; one that is not there is no fault."""
    with _refusals(file), suppress(FileNotFoundError):
        _patiently(lambda: DISK.remove(file))
        DISK.sync_folder(file.parent)


def remove_tree(folder: Path, *, last: str = "") -> None:
    """Remove a folder with all that is in it; one that is not there is no fault.

    Args:
        folder: what to remove.
        last: name of the file that goes once all others are gone for good: until then what is left is known for what it is.
    """
    if not folder.exists():
        return
    with _refusals(folder):
        for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            else:
                if entry.name == last:
                    DISK.sync_folder(folder)
                _patiently(partial(DISK.remove, entry))
        _patiently(lambda: DISK.remove_folder(folder))
        DISK.sync_folder(folder.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; one that is there is no fault."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _refusals(folder):
        try:
            DISK.make_folder(folder)
        except FileExistsError:  # a file, or another process was quicker
            if not folder.is_dir():
                raise
        DISK.sync_folder(folder.parent)


def link(pointer: Path, target: Path) -> None:
    """Make `pointer` a symbolic link to `target`; systems that forbid it raise `DiskError`."""
    with _refusals(pointer):
        DISK.link(pointer, target)
        DISK.sync_folder(pointer.parent)


# --- what libraries write ----------------------------------------------------------------------------------------


def sync_file(file: Path) -> None:
    """Wait until a file that was written elsewhere is on the disk."""
    with _refusals(file):
        DISK.sync_file(file)


def sync_tree(folder: Path) -> None:
    """Wait until every file that a library wrote into `folder`, and the folder itself, are on the disk."""
    with _refusals(folder):
        for entry in sorted(folder.iterdir()):
            if entry.is_dir():
                sync_tree(entry)
            else:
                DISK.sync_file(entry)
        DISK.sync_folder(folder)
        DISK.sync_folder(folder.parent)


@contextmanager
def library_writes(folder: Path) -> Iterator[None]:
    """Inside, a library writes below `folder`, which is there. What the disk refuses it becomes a `DiskError`.

    Libraries tell of a full disk in words of their own: where theirs do not say it, the disk itself is asked.
    """
    with _refusals(folder):
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        try:
            yield
        except (OSError, PangzhuError):
            raise
        except Exception as failed:
            if any(words in str(failed) for words in FULL_IN_WORDS):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from failed
            _try_to_write(folder)
            raise


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is, or would be made."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_disk_error(failed: BaseException) -> bool:
    """Whether the disk is full, read-only or forbidden."""
    return isinstance(failed, OSError | DiskError) and failed.errno in (*DISK_FULL, *DISK_FORBIDDEN)


# --- within ------------------------------------------------------------------------------------------------------


def _replace(source: Path, target: Path) -> None:
    _patiently(lambda: DISK.replace(source, target))
    DISK.sync_folder(target.parent)
    if source.parent != target.parent:
        DISK.sync_folder(source.parent)


def _try_to_write(folder: Path) -> None:
    """Raise what the disk says to a file of some size."""
    write_atomically(folder / "trial", bytes(TRIAL_BYTES))
    remove(folder / "trial")


def _patiently(operation: Callable[[], T]) -> T:
    """Do it, again and again while another program, such as a virus scanner, holds the file open."""
    for pause in PAUSES:
        try:
            return operation()
        except PermissionError as held:
            if getattr(held, "winerror", None) not in HELD_OPEN:
                raise
        time.sleep(pause)
    return operation()


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """Turn what the disk refuses inside into a sentence that names the file."""
    try:
        yield
    except OSError as refused:
        number = refused.errno or 0
        where, reason = str(file), refused.strerror or str(refused)
        if number in DISK_FULL:
            raise DiskError("error.disk.full", errno=number, where=where) from refused
        if number == errno.ENOENT:
            raise DiskError("error.disk.gone", errno=number, where=where) from refused
        if getattr(refused, "winerror", None) in HELD_OPEN:
            raise DiskError("error.disk.held", errno=number, where=where) from refused
        raise DiskError("error.disk.forbids", errno=number, where=where, reason=reason) from refused
