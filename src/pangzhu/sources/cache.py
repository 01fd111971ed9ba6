"""Where base models are kept, and how something half written never passes for whole.

A folder in the cache counts only once its stamp, `pangzhu.json`, is in it. The stamp is written last, through a temporary
file and `os.replace`, and names every file with its size and sha256. What this does not do: fetch anything, or touch the
disk by itself (`pangzhu.storage`).
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pangzhu import storage
from pangzhu.errors import ResourceError
from pangzhu.messages import say
from pangzhu.storage import DISK_FULL, DiskError, is_disk_error, sha256_of

STAMP = "pangzhu.json"


def user_cache_dir() -> Path:
    """The platform's folder for what can be fetched again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_root() -> Path:
    """Pangzhu's own cache: the environment's PANGZHU_CACHE, else `pangzhu` in the user's cache folder."""
    chosen = os.environ.get("PANGZHU_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else user_cache_dir() / "pangzhu"


@contextmanager
def locked(name: str, *, waiting: str = "source.waiting") -> Iterator[None]:
    """Let one process at a time work on `name`; a second one says so, by the sentence `waiting`, and waits."""
    folder = cache_root() / "locks"
    with disk_errors(folder):
        storage.make_folder(folder)
    lock = FileLock(folder / f"{name.replace('/', '--')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waiting, name=name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk under `folder` into a sentence; other errors pass."""
    try:
        yield
    except (OSError, DiskError) as failed:
        if not is_disk_error(failed):
            raise
        key = "error.model.disk_full" if failed.errno in DISK_FULL else "error.model.cache_not_writable"
        raise ResourceError(key, where=str(folder)) from failed


def need_space(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what would not fit.

    Raises:
        ResourceError: fewer than `num_bytes` bytes are free where `folder` is.
    """
    free = storage.free_space(folder)
    if free < num_bytes:
        raise ResourceError("error.model.no_space", where=str(folder), need=size_text(num_bytes), free=size_text(free))


def size_text(num_bytes: int) -> str:
    """`988 MB`: decimal megabytes, as the hubs count them."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.{1 if unit == 1e9 else 0}f} {name}"
    return f"{num_bytes} B"


def write_stamp(folder: Path, about: dict[str, object]) -> None:
    """Declare `folder` whole: `about` and the size and sha256 of every file in it."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != STAMP
    }
    storage.write_atomically(folder / STAMP, json.dumps(about | {"files": files}, ensure_ascii=False, indent=2))


def read_stamp(folder: Path) -> dict[str, object] | None:
    """What the stamp says, or None where there is none, it is broken, or a file's size is not the one it names."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == file["size"] for name, file in stamp["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return stamp if whole else None


def publish(made: Path, folder: Path, *, about: dict[str, object]) -> None:
    """Move the files of `made` into `folder`, which is not there until the stamp is, and write the stamp.

    Both are on the same disk, so each move is one `os.replace`. An old stamp goes first, then what an earlier attempt
    or conversion left.
    """
    storage.make_folder(folder)
    storage.remove(folder / STAMP)
    for stale in folder.iterdir():
        storage.remove(stale)
    storage.sync_tree(made)
    storage.move(made, folder)
    write_stamp(folder, about)
