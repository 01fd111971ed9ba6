"""What an adapter adds is added whole and in its place, or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangzhu.errors import ModelError, PangzhuError, VerificationError
from pangzhu.export.merge import merge
from pangzhu.export.update import read_updates
from tests.export.conftest import Adapt, Adapted
from tests.use_helpers import vouch_for

Tensors = dict[str, torch.Tensor]
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def without_last_layer(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}


def one_row_for_all(tensors: Tensors) -> Tensors:
    """torch would add it to every row."""
    return tensors | {f"{QUERY}.lora_B.weight": tensors[f"{QUERY}.lora_B.weight"][:1].clone()}


def one_column_too_many(tensors: Tensors) -> Tensors:
    a = tensors[f"{QUERY}.lora_A.weight"]
    return tensors | {f"{QUERY}.lora_A.weight": torch.cat([a, a[:, :1]], dim=1)}


@pytest.mark.parametrize(
    ("spoil", "kind", "key"),
    [
        (without_last_layer, ModelError, "error.adapter.tensor_missing"),
        (one_row_for_all, VerificationError, "error.export.no_such_weight"),
        (one_column_too_many, VerificationError, "error.export.no_such_weight"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_weight_by_weight_is_refused(
    adapted: Adapt, tmp_path: Path, spoil: Callable[[Tensors], Tensors], kind: type[PangzhuError], key: str
) -> None:
    made = adapted()
    adapter = Path(shutil.copytree(made.adapter, tmp_path / "adapter"))
    weights = adapter / "adapter_model.safetensors"
    save_file(spoil(load_file(weights)), weights, metadata={"format": "pt"})
    vouch_for(adapter, weights.name)
    for use in (
        lambda: read_updates(adapter, made.base),
        lambda: merge(Adapted(made.base, adapter).config(tmp_path / "model", verify=False)),
    ):
        with pytest.raises(kind) as caught:
            use()
        assert caught.value.key == key
