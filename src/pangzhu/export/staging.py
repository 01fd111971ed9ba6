"""An export is written aside, in `unproven` below its folder, and moved into place once it is proven, its manifest last.

What failed stays aside with its `parity.json`, to be looked at; the next try begins anew. A folder holds one export: the
same one again takes its place and leaves no file of it, another is refused, and one process at a time writes. While it is
moved, `publishing.json` tells what it is going to be, so that the same command finishes what was broken off.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pangzhu import storage
from pangzhu.adapter import MANIFEST, file_hashes, library_versions
from pangzhu.errors import LockedError, UsageError
from pangzhu.json_text import to_json
from pangzhu.messages import text
from pangzhu.model import read_json
from pangzhu.sources.cache import cache_root, disk_errors, need_space

if TYPE_CHECKING:
    from rich.console import Group

    from pangzhu.export.parity import Parity

UNPROVEN = "unproven"
PUBLISHING = "publishing.json"
PARITY = "parity.json"


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported.

    Args:
        folder: where it is.
        files: its own files, by name; the manifest names all of them.
        parity: how it compares with its adapter; None where that was left out.
        hints: how it is used, a sentence or a command each.
    """

    folder: Path
    files: tuple[str, ...]
    parity: "Parity | None"
    hints: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        """The export as plain values."""
        parity = self.parity.as_json() if self.parity else None
        return {"folder": str(self.folder), "files": list(self.files), "parity": parity}

    def render(self) -> "Group":
        """The table of the gate, what was written, and how it is used."""
        from rich.console import Group
        from rich.text import Text

        tables = [self.parity.table()] if self.parity else []
        written = text("export.written", files=", ".join(self.files), folder=self.folder)
        return Group(*tables, *map(Text, (written, *self.hints)))


@contextmanager
def alone(output_dir: Path) -> Iterator[None]:
    """Inside, no other process exports into `output_dir`. The lock is in the cache: an export holds its own files alone.

    Raises:
        LockedError: another process does; it is named.
    """
    locks = cache_root() / "locks"
    name = f"export--{hashlib.sha256(os.fsencode(output_dir.resolve())).hexdigest()[:32]}"
    holder = locks / f"{name}.pid"
    lock = FileLock(locks / f"{name}.lock")
    with disk_errors(locks):
        storage.make_folder(locks)
        try:
            lock.acquire(blocking=False)
        except Timeout as taken:
            known = holder.read_text(encoding="utf-8") if holder.is_file() else "?"
            raise LockedError("error.run.locked", where=str(output_dir), holder=known) from taken
    try:
        with disk_errors(locks):
            storage.write_atomically(holder, str(os.getpid()))
        try:
            yield
        finally:
            storage.remove(holder)
    finally:
        lock.release()


def begin(output_dir: Path, kind: str, *, num_bytes: int, made_of: Sequence[Path]) -> Path:
    """An empty folder to write an export into.

    Args:
        output_dir: where it is to be in the end.
        kind: what is exported, told by its manifest.
        num_bytes: what it will take on the disk.
        made_of: files and folders that are read for it.

    Raises:
        UsageError: something else lives in `output_dir`, or one of `made_of`, in whose place the export would be put.
        ResourceError: not enough room.
    """
    staged = output_dir / UNPROVEN
    if in_the_way := _in_the_way(output_dir, kind, made_of):
        raise UsageError("error.export.folder_taken", where=str(output_dir), name=min(in_the_way))
    storage.remove_tree(staged)
    need_space(output_dir, num_bytes)
    storage.make_folder(staged)
    return staged


def publish(output_dir: Path, kind: str, about: Mapping[str, object]) -> tuple[str, ...]:
    """Move what was written into place: every file by replacement, then what an earlier export had and this one has not is
    removed, the manifest last. Gives the files' names."""
    staged = output_dir / UNPROVEN
    files = file_hashes(staged)
    manifest = {**about, "kind": kind, "files": files, "versions": library_versions()}
    earlier = _files_in(output_dir)
    storage.sync_tree(staged)
    told = {"kind": kind, "files": sorted({*earlier, *files})}
    storage.write_atomically(output_dir / PUBLISHING, json.dumps(told, ensure_ascii=False) + "\n")
    storage.remove(output_dir / MANIFEST)
    storage.move(staged, output_dir)
    for stale in sorted(earlier - files.keys()):
        storage.remove(output_dir / stale)
    storage.write_atomically(output_dir / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    storage.remove(output_dir / PUBLISHING)
    return tuple(files)


def keep_parity(staged: Path, parity: "Parity") -> None:
    """Keep the gate's figures beside the export."""
    storage.write_atomically(staged / PARITY, to_json(parity.as_json(), indent=2) + "\n")


def _in_the_way(output_dir: Path, kind: str, made_of: Sequence[Path]) -> list[str]:
    """Names of what an export of this kind must not replace or remove."""
    staged = output_dir / UNPROVEN
    present = [entry.name for entry in output_dir.iterdir() if entry != staged] if output_dir.is_dir() else []
    if present and _told_in(output_dir).get("kind") != kind:
        return present
    read = [source.name for source in made_of if source.resolve().is_relative_to(output_dir.resolve())]
    return [*read, *([UNPROVEN] if staged.is_symlink() else [])]  # what a link leads to is somebody's


def _told_in(folder: Path) -> dict[str, object]:
    """What a folder's manifest says of the export in it; while one is moved there, of that one."""
    told = next((folder / name for name in (PUBLISHING, MANIFEST) if (folder / name).is_file()), None)
    return read_json(told) if told else {}


def _files_in(folder: Path) -> set[str]:
    """The files in a folder that the manifest of its export names."""
    named = _told_in(folder).get("files")
    names = named if isinstance(named, dict | list) else ()
    return {entry.name for entry in folder.iterdir() if entry.is_file() and entry.name in names}
