"""What is on the disk after a crash or a power loss, told from the record of what was done to it.

A crash keeps everything that was done before it. A power loss keeps what was waited for: contents of files that were
synced, entries of folders that were synced. Of the rest, each entry may be there or not, on its own and in any order, and a
file's bytes may be the old ones, the new ones, cut, or zeros. A replacement happens whole or not at all, as file systems
that keep a journal promise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from random import Random
from typing import Literal, get_args

from tests.torture.disks import Operation, Tree

Mood = Literal["least", "most", "any"]  # of what was not synced: nothing is there, all entries but no bytes, whatever
MOODS: tuple[Mood, ...] = get_args(Mood)
WAITING = ("sync", "sync_folder")  # these change nothing that a reader sees


@dataclass(frozen=True)
class CrashPoint:
    """The process ends before operation `number`, or with the first half of what it writes."""

    number: int
    half: bool = False

    def tree(self, start: Tree, log: Sequence[Operation]) -> Tree:
        """What is left."""
        tree = dict(start)
        for operation in log[: self.number]:
            apply(tree, operation)
        if self.half:
            whole = log[self.number]
            apply(tree, Operation("write", whole.path, whole.data[: len(whole.data) // 2]))
        return tree


@dataclass(frozen=True)
class PowerLoss:
    """The power goes before operation `number`; `seed` decides what becomes of what was not synced."""

    number: int
    mood: Mood
    seed: str

    def tree(self, start: Tree, log: Sequence[Operation]) -> Tree:
        """What is left."""
        names = {path: None if content is None else _Content(content, content) for path, content in start.items()}
        disk = _Platters(names, dict(names))
        for operation in log[: self.number]:
            disk.do(operation)
        return disk.lose_power(self.mood, Random(self.seed))


def crash_points(log: Sequence[Operation]) -> Iterator[CrashPoint]:
    """Every moment at which a crash leaves another state behind than the moment before it; the last is after the end."""
    for number, operation in enumerate(log):
        if operation.kind not in WAITING:
            yield CrashPoint(number)
        if operation.kind == "write" and len(operation.data) > 1:
            yield CrashPoint(number, half=True)
    yield CrashPoint(len(log))


def apply(tree: Tree, operation: Operation) -> None:
    """Do one operation to a tree."""
    path = operation.path
    match operation.kind:
        case "create":
            tree[path] = b""
        case "write":
            tree[path] = (tree[path] or b"") + operation.data
        case "replace":
            tree[operation.target] = tree.pop(path)
        case "make_folder":
            tree[path] = None
        case "remove" | "remove_folder":
            del tree[path]


@dataclass
class _Content:
    """A file's bytes: those that were waited for, and those a reader saw last."""

    kept: bytes
    now: bytes

    def after_loss(self, mood: Mood, draw: Random) -> bytes:
        """What is left of it."""
        if self.kept == self.now or mood == "least":
            return self.kept
        safe = len(self.kept) if self.now.startswith(self.kept) else 0  # what was appended to stays
        if mood == "most":
            return self.now[:safe] + bytes(len(self.now) - safe)
        cut = draw.randint(safe, len(self.now))
        zeros = bytes(len(self.now) - cut)
        return draw.choice((self.kept, self.now, self.now[:cut], self.now[:cut] + zeros))


@dataclass(frozen=True)
class _Change:
    """An entry of a folder that was made, taken away or replaced, and not waited for."""

    kind: Literal["add", "remove", "rename"]
    path: str
    content: _Content | None = None
    target: str = ""

    @property
    def folders(self) -> set[str]:
        return {str(PurePosixPath(path).parent) for path in (self.path, self.target) if path}


@dataclass
class _Platters:
    """A disk with what readers see (`names`), what is safe (`safe`) and what is under way (`changes`)."""

    names: dict[str, _Content | None]
    safe: dict[str, _Content | None] = field(default_factory=dict)
    changes: list[_Change] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        """Do one operation."""
        path = operation.path
        match operation.kind:
            case "create":
                self._create(path)
            case "write":
                self._content(path).now += operation.data
            case "sync":
                content = self._content(path)
                content.kept = content.now
            case "replace":
                self.names[operation.target] = moved = self.names.pop(path)
                self.changes.append(_Change("rename", path, moved, operation.target))
            case "make_folder":
                self.names[path] = None
                self.changes.append(_Change("add", path))
            case "remove" | "remove_folder":
                del self.names[path]
                self.changes.append(_Change("remove", path))
            case "sync_folder":
                self._settle(path)

    def lose_power(self, mood: Mood, draw: Random) -> Tree:
        """What is there when the power is back."""
        for change in self.changes:
            if mood == "most" or (mood == "any" and draw.random() < 0.5):
                self._apply(change)
        there = {path: content for path, content in self.safe.items() if self._reachable(path)}
        return {path: content and content.after_loss(mood, draw) for path, content in there.items()}

    def _create(self, path: str) -> None:
        content = self.names.get(path)
        if content is None:
            self.names[path] = content = _Content(b"", b"")
            self.changes.append(_Change("add", path, content))
        content.now = b""

    def _content(self, path: str) -> _Content:
        content = self.names[path]
        assert content is not None, path
        return content

    def _settle(self, folder: str) -> None:
        for change in self.changes:
            if folder in change.folders:
                self._apply(change)
        self.changes = [change for change in self.changes if folder not in change.folders]

    def _apply(self, change: _Change) -> None:
        if change.kind == "add":
            self.safe[change.path] = change.content
        elif change.kind == "rename":
            self.safe.pop(change.path, None)
            self.safe[change.target] = change.content
        else:  # with a folder goes whatever is still in it
            gone = [path for path in self.safe if path == change.path or path.startswith(f"{change.path}/")]
            for path in gone:
                del self.safe[path]

    def _reachable(self, path: str) -> bool:
        above = [str(folder) for folder in PurePosixPath(path).parents][:-1]
        return all(folder in self.safe and self.safe[folder] is None for folder in above)
