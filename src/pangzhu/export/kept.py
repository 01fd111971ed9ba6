"""GGUF files that the llama.cpp engine needs and nobody gave: made once, kept in the cache.

    <cache>/gguf/KEY/model.gguf   whole once `pangzhu.json` is beside it

A base that came without one is written as Q8_0, an adapter as a LoRA file. The key is a hash of what a file is made of, so a
base or an adapter that changed gets a file of its own.

Left to others: the files themselves (`pangzhu.export.gguf_file`), who asks for them (`pangzhu.engines.llamacpp`).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pangzhu import storage
from pangzhu.adapter import CONFIG, WEIGHTS, read_manifest
from pangzhu.engines.named_models import LoadedAdapter
from pangzhu.errors import ModelError, PangzhuError
from pangzhu.export.gguf_family import Architecture
from pangzhu.export.gguf_file import write_lora, write_model
from pangzhu.export.gguf_vocab import read_vocabulary
from pangzhu.export.subject import Adapter, Subject
from pangzhu.export.update import num_numbers, read_updates
from pangzhu.messages import say
from pangzhu.model import base_fingerprint
from pangzhu.preparation import PreparedBase
from pangzhu.sources.cache import cache_root, disk_errors, locked, need_space, publish, read_stamp, size_text
from pangzhu.sources.folder import weight_files
from pangzhu.storage import sha256_of

CONVERSION = 1  # raise it when the files change: older ones are then made anew
FILE = "model.gguf"
BASE_TYPE = "q8_0"
BYTES_OF_BLOCK, NUMBERS_IN_BLOCK = 34, 32  # of Q8_0


class KeptGguf:
    """Makes what is missing (`pangzhu.engines.llamacpp.GgufConverter`)."""

    def obstacle(self, base: PreparedBase) -> PangzhuError | None:
        """Why no GGUF file can be made of a base; None where one can be, or is here."""
        try:
            if not _is_whole(_folder_of(base)):
                architecture = Architecture(base.source.folder)
                read_vocabulary(base.source.folder, architecture.vocab_size)
                need_space(cache_root(), _num_bytes(base))
        except PangzhuError as refused:
            return refused
        return None

    def base(self, base: PreparedBase) -> Path:
        """The GGUF file of a base.

        Raises:
            ModelError: llama.cpp does not compute it.
            ResourceError: no room for it.
        """

        def write(file: Path) -> None:
            say("export.keeping_base", name=base.source.name, size=size_text(_num_bytes(base)))
            vocabulary = read_vocabulary(base.source.folder, Architecture(base.source.folder).vocab_size)
            write_model(file, Subject(base, None, base.contract), vocabulary, {}, outtype=BASE_TYPE)

        return _kept(_folder_of(base), write, num_bytes=lambda: _num_bytes(base))

    def adapter(self, adapter: LoadedAdapter, base: PreparedBase) -> Path:
        """The LoRA file of an adapter of that base.

        Raises:
            ModelError: the adapter is a DoRA, or llama.cpp does not compute the base.
            VerificationError: it changes a weight that the base has not.
            ResourceError: no room for it.
        """

        def write(file: Path) -> None:
            say("export.keeping_adapter", name=adapter.name)
            updates = read_updates(adapter.folder, base.source.folder)
            if any(update.magnitude is not None for update in updates.values()):
                raise ModelError("error.export.dora", where=str(adapter.folder))
            made_of = Adapter(adapter.name, adapter.folder, read_manifest(adapter.folder))
            write_lora(file, Subject(base, made_of, adapter.contract), updates)

        files = (adapter.folder / WEIGHTS, adapter.folder / CONFIG, base.source.folder / "config.json")
        folder = _folder("lora", [sha256_of(file) for file in files])
        return _kept(folder, write, num_bytes=lambda: 2 * files[0].stat().st_size)


def _folder_of(base: PreparedBase) -> Path:
    """By fingerprint, which has a row of each tensor, and by size and time of the weights' files."""
    found = [file.stat() for file in weight_files(base.source.folder)]
    return _folder(
        "base", [asdict(base_fingerprint(base.source.folder)), [(of.st_size, of.st_mtime_ns) for of in found]]
    )


def _folder(kind: str, made_of: object) -> Path:
    key = json.dumps([CONVERSION, kind, made_of], sort_keys=True).encode()
    return cache_root() / "gguf" / f"{kind}-{hashlib.sha256(key).hexdigest()[:32]}"


def _num_bytes(base: PreparedBase) -> int:
    """Of its Q8_0."""
    return num_numbers(base.source.folder) * BYTES_OF_BLOCK // NUMBERS_IN_BLOCK


def _is_whole(folder: Path) -> bool:
    return read_stamp(folder) is not None


def _kept(folder: Path, write: Callable[[Path], None], *, num_bytes: Callable[[], int]) -> Path:
    """The file in a folder of the cache, written first where it is not there; only then its size is asked for."""
    if not _is_whole(folder):
        with locked(f"gguf--{folder.name}"), disk_errors(folder):
            if not _is_whole(folder):  # another process may have made it while this one waited
                need_space(cache_root(), num_bytes())
                _make(folder, write)
    return folder / FILE


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    """Written aside, published whole; what an attempt that was killed left is replaced by the next."""
    aside = folder.with_name(f"{folder.name}.unfinished")
    storage.remove_tree(aside)
    storage.make_folder(aside)
    write(aside / FILE)
    publish(aside, folder, about={"conversion": CONVERSION})
    storage.remove_tree(aside)
