"""What an adapter adds to its base: for each of its layers W + scale·B·A, in float32.

LoRA's scale is lora_alpha / r, rsLoRA's lora_alpha / √r (arXiv:2312.03732). DoRA (arXiv:2402.09353) sets each row of the
sum to a length of its own.
"""

import math
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.adapter import CONFIG, WEIGHTS
from pangzhu.errors import ModelError, VerificationError
from pangzhu.model import is_tied, read_json
from pangzhu.sources.folder import weight_files

if TYPE_CHECKING:
    from torch import Tensor, dtype

PREFIX = "base_model.model."  # peft's, before the base's own name of a layer
TIED_HEAD = "lm_head.weight"  # a copy that some files hold of a tied embedding


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to one weight matrix `(out, in)`; all float32.

    Args:
        a: `(r, in)`.
        b: `(out, r)`.
        scale: of their product.
        magnitude: `(out,)`, the length of each row under DoRA, else None.
    """

    a: "Tensor"
    b: "Tensor"
    scale: float
    magnitude: "Tensor | None" = None

    def on(self, weight: "Tensor") -> "Tensor":
        """The weight with the adapter in it, float32."""
        merged: Tensor = weight.float() + self.scale * (self.b @ self.a)
        if self.magnitude is not None:
            merged *= (self.magnitude / merged.norm(dim=1))[:, None]
        return merged


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """A tensor of the base with the adapter in it: float32 where the adapter changes it, else as the base stores it, in
    `stored_dtype`."""

    name: str
    values: "Tensor"
    stored_dtype: "dtype"


def scale_of(folder: Path) -> float:
    """What an adapter's B·A is multiplied by."""
    fields = read_json(folder / CONFIG)
    rank = float(fields["r"])
    return float(fields["lora_alpha"]) / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def read_updates(adapter: Path, base: Path) -> dict[str, Update]:
    """An adapter's updates by the name of the weight they are added to, `model.layers.0.self_attn.q_proj.weight`.

    Args:
        adapter: its folder, whose files were verified.
        base: the folder of its base.

    Raises:
        VerificationError: an update belongs to no weight of the base, or to one of other sizes, and would be lost.
        ModelError: it lacks one for a weight that it is to change.
    """
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in load_file(adapter / WEIGHTS).items():
        layer, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        parts[f"{layer}.weight"][part] = tensor.float()
    shapes = shapes_of(base)
    if lost := parts.keys() - shapes.keys():
        raise VerificationError("error.export.no_such_weight", where=str(base), name=min(lost))
    scale = scale_of(adapter)
    updates = {
        name: Update(of["A.weight"], of["B.weight"], scale, of.get("magnitude_vector")) for name, of in parts.items()
    }
    _require_sizes(updates, shapes, base)
    _require_every_layer(updates, shapes, adapter)
    return updates


def _require_sizes(updates: Mapping[str, Update], shapes: Mapping[str, tuple[int, ...]], base: Path) -> None:
    """A sum of other sizes may come about all the same: torch repeats a single row or column."""
    for name, update in updates.items():
        sizes = (update.b.shape[0], update.a.shape[1])
        if sizes != shapes[name]:
            told = f"{name} ({'×'.join(map(str, sizes))})"
            raise VerificationError("error.export.no_such_weight", where=str(base), name=told)


def _require_every_layer(updates: Mapping[str, Update], shapes: Mapping[str, tuple[int, ...]], adapter: Path) -> None:
    """The last layers may lack without a trace in the adapter itself (`pangzhu.vetting`)."""
    targets = read_json(adapter / CONFIG)["target_modules"]
    wanted = {f".{module}.weight" for module in targets}
    for name in shapes:
        if name not in updates and any(map(name.endswith, wanted)):
            raise ModelError("error.adapter.tensor_missing", where=str(adapter / WEIGHTS), name=name)


def shapes_of(base: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a base, by name, in the order in which `merged_tensors` gives them; of a tied embedding
    once."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base):
        with safe_open(file, framework="numpy") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())}
    if is_tied(base):
        shapes.pop(TIED_HEAD, None)
    return shapes


def num_numbers(base: Path) -> int:
    """Of all tensors of a base, one that is tied counted once."""
    return sum(map(math.prod, shapes_of(base).values()))


def merged_tensors(file: Path, names: Container[str], updates: Mapping[str, Update]) -> "Iterator[MergedTensor]":
    """The tensors of one file of a base, with what an adapter adds to them.

    Args:
        file: of the base's weights.
        names: which of its tensors are wanted.
        updates: what is added, by name; none for the base as it is.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in sorted(tensors.keys()):
            if name in names:
                stored, update = tensors.get_tensor(name), updates.get(name)
                yield MergedTensor(name, update.on(stored) if update else stored, stored.dtype)
