"""What an adapter folder from a stranger may hold: plain LoRA, whole, finite, and nothing that reaches elsewhere.

A manifest proves that files are those it names; whoever can write the files can write a manifest too. So the files are
also looked at for what they are: adapter_config.json field by field, against what peft writes for plain LoRA, and every
tensor by name, type, shape and value. Nothing is loaded into a model, torch is not needed.

What this does not do: tell what an adapter has learned. An answer that someone taught it is no fault of a file.

Try it: `check_config(folder)`, then `check_weights(folder)`.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pangzhu.errors import ModelError
from pangzhu.model import HEAD_MODULES, read_json
from pangzhu.sources.folder import is_device_name

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TYPE = "BF16"
MAGNITUDE = 0x7FFF  # of a bf16: all but its sign
INFINITE = 0x7F80  # all exponent bits set: infinity or NaN
MOST_RANK = 1024
MOST_ALPHA = 1e6
MOST_PATH = 1024
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MODULE = re.compile(r"[A-Za-z0-9_]{1,64}")
TENSOR = re.compile(r"base_model\.model\.([\w.]+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
REQUIRED_FIELDS = ("peft_type", "r", "lora_alpha", "target_modules")


@dataclass(frozen=True, slots=True)
class LoraShape:
    """What an adapter_config.json says of the tensors."""

    r: int
    target_modules: frozenset[str]
    use_dora: bool

    @property
    def parts(self) -> frozenset[str]:
        """The tensors of each layer."""
        magnitude = {"lora_magnitude_vector"} if self.use_dora else set()
        return frozenset({"lora_A.weight", "lora_B.weight", *magnitude})


def _is_whole_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, above: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value <= most


def _are_modules(value: object) -> bool:
    """A list of plain names. A text would be a pattern, which can take hours to match."""
    return (
        isinstance(value, list)
        and 0 < len(value) == len(set(map(str, value)))
        and all(isinstance(name, str) and MODULE.fullmatch(name) for name in value)
        and HEAD_MODULES.isdisjoint(value)
    )


def is_plain_name(name: str) -> bool:
    """Whether a manifest may name a file so: in the folder itself, on every system, and no device."""
    return FILE_NAME.fullmatch(name) is not None and not is_device_name(name)


def is_plain_path(value: object) -> bool:
    """A name or path that stays where it says: no `..`, no control character, not endless; None is none."""
    if value is None:
        return True
    if not isinstance(value, str) or not 0 < len(value) <= MOST_PATH or CONTROL.search(value):
        return False
    return ".." not in PurePosixPath(value.replace("\\", "/")).parts


SOUND: Mapping[str, Callable[[Any], bool]] = {  # field -> whether a value is that of plain LoRA
    "peft_type": lambda value: value == "LORA",
    "task_type": lambda value: value in (None, "CAUSAL_LM"),
    "r": lambda value: _is_whole_number(value, 1, MOST_RANK),
    "lora_alpha": lambda value: _is_number(value, 0, MOST_ALPHA),
    "lora_dropout": lambda value: value == 0 or _is_number(value, 0, math.nextafter(1, 0)),
    "target_modules": _are_modules,
    "bias": lambda value: value in (None, "none"),
    "init_lora_weights": lambda value: value is True,
    "inference_mode": lambda value: isinstance(value, bool),
    "use_rslora": lambda value: isinstance(value, bool),
    "use_dora": lambda value: isinstance(value, bool),
    "base_model_name_or_path": is_plain_path,
    "revision": is_plain_path,
    "peft_version": is_plain_path,
    "megatron_core": lambda value: value in (None, "megatron.core"),  # peft's default, read with megatron_config alone
    "qalora_group_size": lambda value: _is_whole_number(value, 1, 2**20),  # read with use_qalora alone
}


def check_config(folder: Path) -> LoraShape:
    """Refuse an adapter_config.json that asks for something other than plain LoRA: a stranger's could answer otherwise
    than it was proven to, in silence. A field that is not known here must be empty.

    Raises:
        ModelError: names the field.
    """
    fields = read_json(folder / CONFIG)
    missing = [name for name in REQUIRED_FIELDS if name not in fields]
    unsound = [name for name, value in fields.items() if not SOUND.get(name, _is_empty)(value)]
    for name in (*missing, *unsound):
        raise ModelError("error.adapter.config_refused", where=str(folder / CONFIG), name=name)
    return LoraShape(fields["r"], frozenset(fields["target_modules"]), fields.get("use_dora", False))


def check_weights(folder: Path, shape: LoraShape) -> None:
    """Refuse weights that are cut, of another type or shape, not finite, or of too many or too few layers.

    Raises:
        ModelError: names the tensor.
    """
    file = folder / WEIGHTS
    tensors = _headers(file)
    layers: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, (kind, sizes) in tensors.items():
        found = TENSOR.fullmatch(name)
        if not found or found[1].rpartition(".")[2] not in shape.target_modules:
            raise _refused("error.adapter.tensor_unknown", file, name)
        if kind != TYPE:
            raise _refused("error.adapter.tensor_type", file, name, kind=kind, wanted=TYPE)
        layers[found[1]][found[2]] = sizes
    _check_complete(file, layers, shape)
    for path, parts in layers.items():
        _check_sizes(file, path, parts, shape)
    if lost := find_not_finite(file):
        raise _refused("error.adapter.tensor_not_finite", file, lost)


def check_names(folder: Path, expected: Iterable[str]) -> None:
    """Refuse weights that are not, tensor by tensor, those of the model they were loaded into.

    Args:
        folder: of the adapter.
        expected: the tensors that the model has for it.

    Raises:
        ModelError: names a tensor that is missing or one too many.
    """
    file = folder / WEIGHTS
    names, wanted = set(_headers(file)), set(expected)
    if missing := sorted(wanted - names):
        raise _refused("error.adapter.tensor_missing", file, missing[0])
    if unknown := sorted(names - wanted):
        raise _refused("error.adapter.tensor_unknown", file, unknown[0])


def find_not_finite(file: Path) -> str | None:
    """The first tensor of a bf16 file with NaN or infinity in it, or None."""
    return next((name for name, bits in _bits(file) if ((bits & INFINITE) == INFINITE).any()), None)


def adds_nothing(file: Path) -> bool:
    """Whether every B of a bf16 file is zero: nothing was trained, and the base stays as it is whatever it is asked."""
    return not any((bits & MAGNITUDE).any() for name, bits in _bits(file) if "lora_B" in name)


def _is_empty(value: object) -> bool:
    return not value


def _refused(key: str, file: Path, name: str, **values: object) -> ModelError:
    return ModelError(key, where=f"{file}: {name}", name=name, **values)


def _headers(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and sizes of every tensor; safetensors refuses headers that do not fit the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
            return {name: (str(piece.get_dtype()), tuple(piece.get_shape())) for name, piece in slices.items()}
    except (SafetensorError, OSError) as broken:
        raise ModelError("error.adapter.weights_unreadable", where=str(file), reason=str(broken)) from broken


def _check_complete(file: Path, layers: Mapping[str, Mapping[str, object]], shape: LoraShape) -> None:
    """Every target module is there, in every layer from the first to the last, with all its parts."""
    for path, parts in layers.items():
        for part in sorted(shape.parts ^ parts.keys()):
            key = "error.adapter.tensor_missing" if part in shape.parts else "error.adapter.tensor_unknown"
            raise _refused(key, file, f"base_model.model.{path}.{part}")
    for module in sorted(shape.target_modules - {path.rpartition(".")[2] for path in layers}):
        raise _refused("error.adapter.tensor_missing", file, module)
    numbers: dict[str, set[int]] = defaultdict(set)
    for path in layers:
        numbers[LAYER.sub("{}", path)] |= {int(number) for number in LAYER.findall(path)}
    all_layers = range(1 + max((max(found, default=-1) for found in numbers.values()), default=-1))
    for pattern, found in numbers.items():
        for number in sorted(set(all_layers) - found):
            raise _refused("error.adapter.tensor_missing", file, f"base_model.model.{pattern.format(number)}")


def _check_sizes(file: Path, path: str, parts: Mapping[str, tuple[int, ...]], shape: LoraShape) -> None:
    """A is `(r, in)`, B `(out, r)`, a magnitude `(out,)`."""
    a, b = parts["lora_A.weight"], parts["lora_B.weight"]
    sound = {"lora_A.weight": len(a) == 2 and a[0] == shape.r, "lora_B.weight": len(b) == 2 and b[1] == shape.r}
    if shape.use_dora:
        sound["lora_magnitude_vector"] = parts["lora_magnitude_vector"] == b[:1]
    for part, is_sound in sound.items():
        if not is_sound:
            sizes = "×".join(map(str, parts[part]))
            raise _refused(
                "error.adapter.tensor_shape", file, f"base_model.model.{path}.{part}", sizes=sizes, r=shape.r
            )


def _bits(file: Path) -> Iterator[tuple[str, "np.ndarray[tuple[int], np.dtype[np.uint16]]"]]:
    """Every tensor's name and values, as bits: numpy has no bf16."""
    with file.open("rb") as opened:
        num_bytes = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(num_bytes))
    bits = np.memmap(file, dtype="<u2", mode="r", offset=8 + num_bytes)
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (place // 2 for place in entry["data_offsets"])
            yield name, bits[begin:end]
