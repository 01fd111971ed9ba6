"""Arrays in the cache that count only when they are whole: numpy files, and a stamp with their hashes, written last.

A folder without its stamp, or of which a byte is another than the stamp says, is none; who wanted it makes it again.
The stamp also carries what the arrays do not: a few values as JSON. Left to others: what the arrays mean
(`pangzhu.token_store`, `pangzhu.row_index`), and one maker at a time (`pangzhu.sources.cache.locked`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pangzhu import storage
from pangzhu.sources.cache import STAMP, cache_root, read_stamp, write_stamp

FOLDER = "tokens"  # in the cache: all that can be made again from a data file


def folder_for(key: Mapping[str, object]) -> Path:
    """Where in the cache is kept what depends on `key` and on nothing else."""
    spelled = json.dumps(key, ensure_ascii=False, sort_keys=True)
    return cache_root() / FOLDER / hashlib.sha256(spelled.encode()).hexdigest()[:32]


def seal(folder: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]) -> None:
    """Write arrays into a folder, in place of what is there, and then the stamp."""
    storage.make_folder(folder)
    storage.remove(folder / STAMP)
    for name, values in arrays.items():
        with storage.writing(array_file(folder, name)) as new:
            np.lib.format.write_array(new, values, allow_pickle=False)
    write_stamp(folder, dict(about))


def unseal(folder: Path) -> dict[str, Any] | None:
    """What the stamp says; None where there is none, or a byte of an array is not as it was written."""
    stamp = read_stamp(folder)
    files: Any = stamp and stamp["files"]
    if stamp is None or any(storage.sha256_of(folder / name) != file["sha256"] for name, file in files.items()):
        return None
    return stamp


def is_begun(folder: Path) -> bool:
    """Whether anything is there, whole or not."""
    return folder.is_dir() and any(folder.iterdir())


def load(folder: Path, name: str) -> NDArray[Any]:
    """An array, mapped: only what is looked at is read."""
    mapped: NDArray[Any] = np.load(array_file(folder, name), mmap_mode="r", allow_pickle=False)
    return mapped


def array_file(folder: Path, name: str) -> Path:
    """The file of an array."""
    return folder / f"{name}.npy"
