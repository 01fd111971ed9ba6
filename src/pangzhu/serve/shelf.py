"""Which adapters can be asked for: those named at the start, and those in one folder, looked up anew each time.

A request names an adapter, never a place: a name is looked up among what lies here, and what lies here is a folder with a
manifest directly below the one that was given. No link out of it is followed.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pangzhu.adapter import MANIFEST
from pangzhu.engines.named_models import BASE, NAME, named_folders
from pangzhu.errors import UsageError
from pangzhu.sources.folder import is_device_name

State = tuple[int, int, int]
Contents = frozenset[tuple[str, State | None]]


@dataclass(frozen=True, slots=True)
class Lying:
    """An adapter that lies here: its folder, and by what it is known to be the same as before. One that was found faulty may be
    half copied, its manifest before the rest: whether it has changed since, the state of all its files tells."""

    folder: Path
    state: State
    contents: Contents = field(compare=False)


class Shelf:
    """Adapters by name.

    Args:
        folder: adapters below it, or one adapter; None for none.
        named: `DIR` or `NAME=DIR`, for good.

    Raises:
        UsageError: no such folder, two of one name, or a name that cannot be one.
    """

    def __init__(self, folder: Path | None, named: tuple[str, ...]) -> None:
        if folder is not None and not folder.is_dir():
            raise UsageError("error.serve.no_folder", where=f"--adapters {folder}")
        alone = folder is not None and (folder / MANIFEST).is_file()
        self._named = named_folders((*named, *([str(folder)] if alone else [])))
        self._folder = None if alone or folder is None else folder.resolve()

    def adapters(self) -> dict[str, Lying]:
        """What lies here now. Where a folder in it is called as one that was named, the latter counts."""
        inside = {entry.name: entry for entry in self._entries() if _is_name(entry.name) and not entry.is_symlink()}
        found = {name: _lying(folder) for name, folder in {**inside, **self._named}.items()}
        return {name: lying for name, lying in found.items() if lying}

    def _entries(self) -> list[Path]:
        """Of the folder; none where it has gone."""
        try:
            return sorted(self._folder.iterdir()) if self._folder else []
        except (FileNotFoundError, NotADirectoryError):
            return []


def _is_name(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and name != BASE and not is_device_name(name)


def _lying(folder: Path) -> Lying | None:
    """What lies in a folder; None where there is no manifest, which is written last."""
    state = _state(folder / MANIFEST)
    try:
        contents = frozenset((file.name, _state(file)) for file in folder.iterdir())
    except OSError:  # it has gone, or is no folder
        return None
    return Lying(folder, state, contents) if state else None


def _state(file: Path) -> State | None:
    """By what a file is known to be the same; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
