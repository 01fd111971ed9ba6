"""Look before loading: is this folder a whole model, and does it keep its code to itself?

Checked without torch, in milliseconds: config.json is there and JSON, nothing in the JSON files asks to run code from
the model (`auto_map`, kernels by hub name), the weights are safetensors whose length is the one their header promises,
every shard of an index is there, a tokenizer is there, and nothing is a git-lfs pointer or a web page saved under a
model file's name. What this does not do: read weights, or judge whether the architecture is supported (`model`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pangzhu.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs"
WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE)
PUBLIC_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
CODE_FIELDS = (
    "auto_map",
    "trust_remote_code",
    "custom_generate",
    "kernel_config",
    "use_kernels",
    "transformers_weights",
)
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json")
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit


class IncompleteFolderError(ModelError):
    """A model folder lacks something or holds something broken: fetching it again would help."""


def check_folder(folder: Path) -> None:
    """Check that `folder` holds a whole model that runs no code of its own.

    Raises:
        IncompleteFolderError: a file is missing, cut, a pointer or a web page; names it.
        ModelError: a JSON file asks to run code, or the weights are in a format that is never opened.
    """
    if not (folder / "config.json").is_file():
        raise IncompleteFolderError("error.model.no_config", where=str(folder))
    for name in JSON_FILES:
        if (folder / name).is_file():
            refuse_code(folder / name)
    for weights in weight_files(folder):
        _check_safetensors(weights)
    _check_tokenizer(folder)


def refuse_code(path: Path) -> None:
    """Refuse a JSON file that would make transformers run code that came with the model.

    Raises:
        ModelError: names the field.
    """
    for field, value in _fields(read_json(path)):
        by_hub_name = field.endswith("_implementation") and isinstance(value, str) and ("/" in value or ":" in value)
        if (field in CODE_FIELDS and value) or by_hub_name:
            raise ModelError("error.model.remote_code", where=str(path), field=field)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        IncompleteFolderError: a pointer, a web page or no JSON object.
    """
    _refuse_stand_ins(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as broken:
        raise IncompleteFolderError("error.model.bad_json", where=str(path), reason=broken) from broken
    if not isinstance(content, dict):
        raise IncompleteFolderError("error.model.bad_json", where=str(path), reason=type(content).__name__)
    return content


def is_device_name(name: str) -> bool:
    """Whether Windows takes a file name for a device, whatever its ending and whatever folder it stands in."""
    return DEVICE_NAME.fullmatch(name.rstrip(" .")) is not None


def recorded_public_id(folder: Path) -> str | None:
    """The hub name that Pangzhu's own stamp, `pangzhu.json`, records of a local folder.

    config.json is not asked: transformers 4 wrote there as `_name_or_path` what the model was made from, which for a
    merged or fine-tuned model is another base.
    """
    stamp = folder / "pangzhu.json"
    value = read_json(stamp).get("public_id") if stamp.is_file() else None
    return value if isinstance(value, str) and PUBLIC_ID.fullmatch(value) else None


def _fields(content: object) -> Iterator[tuple[str, object]]:
    """Every key and its value, at any depth."""
    pending = [content]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _refuse_stand_ins(path: Path) -> None:
    """Refuse what other programs leave in a model file's place."""
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(LFS_POINTER):
        raise IncompleteFolderError("error.model.lfs_pointer", where=str(path), file=path.name)
    if WEB_PAGE.match(head):
        raise IncompleteFolderError("error.model.html_file", where=str(path), file=path.name)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model, all of which exist.

    Raises:
        ModelError: a file is missing, or there are none.
    """
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    elif not (folder / WEIGHTS).is_file():
        raise _no_weights(folder)
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise IncompleteFolderError("error.model.missing_file", where=str(folder), file=name)
    if not names:
        raise IncompleteFolderError("error.model.bad_json", where=str(folder / INDEX), reason="weight_map")
    return [folder / name for name in names]


def _no_weights(folder: Path) -> ModelError:
    """The error for a folder without safetensors, by what it holds in their place."""
    for pattern, key in (("*.bin", "error.model.pickle_only"), ("*.gguf", "error.model.gguf_only")):
        if found := sorted(folder.glob(pattern)):
            return ModelError(key, where=str(folder), file=found[0].name)
    return IncompleteFolderError("error.model.no_weights", where=str(folder))


def _check_safetensors(path: Path) -> None:
    """Compare the file's length with what its header promises: 8 bytes, the header, the tensors."""
    _refuse_stand_ins(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(size, MAX_HEADER_BYTES):
                raise ValueError("no header")
            header = json.loads(file.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        promised = 8 + header_bytes + max(ends, default=0)
        if size != promised:
            raise ValueError(f"{size} bytes, {promised} expected")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as broken:
        raise IncompleteFolderError(
            "error.model.damaged_weights", where=str(path), file=path.name, reason=broken
        ) from broken


def _check_tokenizer(folder: Path) -> None:
    sets = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
    whole = [names for names in sets if all((folder / name).is_file() for name in names)]
    if not whole:
        raise IncompleteFolderError("error.model.no_tokenizer", where=str(folder))
    for name in whole[0]:
        _refuse_stand_ins(folder / name)
