"""Disks to put in place of the real one: one that writes down what happens to it, one that fails or ends the process.

What the libraries write past the seam is found by looking: before each operation of ours, whatever has changed below the
watched folder since the last one was a library's doing.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pangzhu.storage import Disk

Kind = Literal["create", "write", "sync", "sync_folder", "replace", "remove", "make_folder", "remove_folder"]
Tree = dict[str, bytes | None]  # path -> content, None for a folder
NOT_WATCHED = {"lock"}  # filelock's own


@dataclass(frozen=True)
class Operation:
    """One thing that happened to the disk, below the watched folder.

    Args:
        kind: what.
        path: of the file or folder, from the watched folder on.
        data: what was written.
        target: of a replacement.
        by_library: it was not written through the seam, so its place among its neighbours is a guess.
    """

    kind: Kind
    path: str
    data: bytes = b""
    target: str = ""
    by_library: bool = False

    @property
    def folder(self) -> str:
        """Where the entry stands that it changes."""
        return str(PurePosixPath(self.path).parent)

    def __str__(self) -> str:
        arrow = f" -> {self.target}" if self.target else ""
        return f"{self.kind} {self.path}{arrow} ({len(self.data)} bytes)"


def read_tree(root: Path) -> Tree:
    """Everything below a folder."""
    found = (path for path in root.rglob("*") if path.name not in NOT_WATCHED)
    return {path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes() for path in found}


def write_tree(tree: Tree, root: Path) -> Path:
    """Put a tree on the real disk, below a folder that is made for it."""
    root.mkdir(parents=True)
    for path in sorted(tree, key=lambda path: path.count("/")):
        content = tree[path]
        if content is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    return root


class WatchedDisk(Disk):
    """Calls `happens` with each operation below `root`, before it is done."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def happens(self, operation: Operation) -> None:
        """To be filled in."""
        raise NotImplementedError

    def open(self, file: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
        if mode == "wb" or not file.exists():
            self._tell("create", file)
        return super().open(file, mode)

    def write(self, opened: BinaryIO, data: bytes) -> None:
        self._tell("write", Path(opened.name), data)
        super().write(opened, data)
        opened.flush()

    def sync(self, opened: BinaryIO) -> None:
        self._tell("sync", Path(opened.name))
        super().sync(opened)

    def sync_file(self, file: Path) -> None:
        self._tell("sync", file)
        super().sync_file(file)

    def sync_folder(self, folder: Path) -> None:
        self._tell("sync_folder", folder)
        super().sync_folder(folder)

    def replace(self, source: Path, target: Path) -> None:
        self._tell("replace", source, target=target)
        super().replace(source, target)

    def remove(self, file: Path) -> None:
        if file.exists():
            self._tell("remove", file)
        super().remove(file)

    def make_folder(self, folder: Path) -> None:
        self._tell("make_folder", folder)
        super().make_folder(folder)

    def remove_folder(self, folder: Path) -> None:
        self._tell("remove_folder", folder)
        super().remove_folder(folder)

    def _tell(self, kind: Kind, path: Path, data: bytes = b"", target: Path | None = None) -> None:
        if path == self.root or self.root in path.parents:
            self.happens(Operation(kind, self._name(path), data, self._name(target) if target else ""))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class RecordingDisk(WatchedDisk):
    """Writes down everything that happens below `root`, the libraries' writes too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.start = read_tree(root)
        self.log: list[Operation] = []
        self._seen = self._look()

    def happens(self, operation: Operation) -> None:
        """Note what libraries did meanwhile, then the operation."""
        self.notice()
        self.log.append(operation)
        self._changing = operation

    def notice(self) -> None:
        """Write down as library's whatever changed that was not told."""
        now = self._look()
        before, self._seen = self._seen, now
        own = self._touched_by_last()
        changed = [path for path in now if now[path] != before.get(path) and path not in own]
        for path in sorted(changed, key=lambda path: (now[path][0], path)):
            self._library_wrote(path)

    def _library_wrote(self, path: str) -> None:
        file = self.root / path
        if file.is_dir():
            self.log.append(Operation("make_folder", path, by_library=True))
        else:
            self.log.append(Operation("create", path, by_library=True))
            self.log.append(Operation("write", path, file.read_bytes(), by_library=True))

    def _touched_by_last(self) -> set[str]:
        last = getattr(self, "_changing", None)
        return set() if last is None else {last.path, last.target}

    def _look(self) -> dict[str, tuple[int, int, bool]]:
        """When each file was last written, how long it is, whether it is a folder; folders by being there alone."""
        found: dict[str, tuple[int, int, bool]] = {}
        for folder, folders, files in os.walk(self.root):
            for name in folders:
                found[self._name(Path(folder, name))] = (0, 0, True)
            for name in set(files) - NOT_WATCHED:
                about = Path(folder, name).stat()
                found[self._name(Path(folder, name))] = (about.st_mtime_ns, about.st_size, False)
        return found


class Crash(BaseException):
    """The process has ended: nothing that comes after it reaches the disk."""


@dataclass
class Fault:
    """What a faulty disk does at one operation.

    Args:
        strikes: at which operation; asked in order until it says yes.
        error: what the system says; None ends the process.
        half: of what is to be written, the first half is.
    """

    strikes: Callable[[int, Operation], bool]
    error: OSError | None = None
    half: bool = False
    lasting: bool = True
    struck: Operation | None = field(default=None, init=False)


class FaultyDisk(WatchedDisk):
    """Does what it is told until its fault strikes; then it is dead, full, or as it was."""

    def __init__(self, root: Path, fault: Fault) -> None:
        super().__init__(root)
        self.fault = fault
        self.num_operations = 0

    def happens(self, operation: Operation) -> None:
        """Let it happen, or not."""
        if self.fault.struck is not None and self.fault.lasting and self._concerns(operation):
            self._strike()
        if self.fault.struck is None and self.fault.strikes(self.num_operations, operation):
            self.fault.struck = operation
            self._write_half(operation)
            self._strike()
        self.num_operations += 1

    def _concerns(self, operation: Operation) -> bool:
        """A full disk still removes; a dead process does nothing."""
        return self.fault.error is None or operation.kind in ("create", "write", "make_folder")

    def _strike(self) -> None:
        raise Crash if self.fault.error is None else self.fault.error

    def _write_half(self, operation: Operation) -> None:
        if self.fault.half and operation.kind == "write":
            with (self.root / operation.path).open("ab") as opened:
                opened.write(operation.data[: len(operation.data) // 2])


def disk_full() -> OSError:
    """What a system says of a full disk."""
    return OSError(errno.ENOSPC, "No space left on device")


def held_open(number: int = 32) -> OSError:
    """What Windows says of a file that another program holds open."""
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = number  # type: ignore[attr-defined]
    return error
