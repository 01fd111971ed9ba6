"""Which adapters can be asked for: those named at the start, and those in one folder, looked up anew each time.

A request names an adapter, never a place: a name is looked up among what lies here, and what lies here is a folder with a
manifest directly below the one that was given. No link out of it is followed.
"""

from dataclasses import dataclass
from pathlib import Path

from pangzhu.adapter import MANIFEST
from pangzhu.engines.named_models import BASE, NAME, named_folders
from pangzhu.errors import UsageError
from pangzhu.sources.folder import is_device_name


@dataclass(frozen=True, slots=True)
class Lying:
    """An adapter that lies here: its folder, and by what it is known to be the same as before."""

    folder: Path
    state: tuple[int, int]


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
        found = {entry.name: entry for entry in sorted(self._folder.iterdir())} if self._folder else {}
        inside = {name: entry for name, entry in found.items() if _is_name(name) and not entry.is_symlink()}
        lying = {}
        for name, folder in {**inside, **self._named}.items():
            state = _state(folder)
            if state is not None:
                lying[name] = Lying(folder, state)
        return lying


def _is_name(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and name != BASE and not is_device_name(name)


def _state(folder: Path) -> tuple[int, int] | None:
    """Of its manifest, which is written last; None where there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
