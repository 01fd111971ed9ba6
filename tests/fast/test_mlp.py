"""The gated MLP as one function: the formula's values and right gradients, with adapters, a gain, biases and joined layers."""

from collections.abc import Sequence

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import silu

from pangzhu.fast.lora import Linear
from pangzhu.fast.mlp import gated_mlp
from pangzhu.fast.workspace import Room, Workspace

T, H, I, R = 5, 4, 6, 2  # noqa: E741 - the sizes' names in the docstrings


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(6)


def linear(out: int, size: int, *, bias: bool, masters: Sequence[torch.Tensor]) -> Linear:
    return Linear(
        random(out, size).detach(),
        random(out).detach() if bias else None,
        *masters,
        scaling=1.5,  # type: ignore[arg-type]
    )


def plain(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    output = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    if layer.lora_a is None or layer.lora_b is None:
        return output
    return output + layer.scaling * x @ layer.lora_a.T @ layer.lora_b.T


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("with_gain", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_formula(
    adapted: bool, joined: bool, with_gain: bool, bias: bool
) -> None:
    sizes = [(2 * I, H)] if joined else [(I, H), (I, H)]
    masters = [[random(R, size), random(out, R)] if adapted else [] for out, size in [*sizes, (H, I)]]
    *opening, down = (
        linear(out, size, bias=bias, masters=own) for (out, size), own in zip([*sizes, (H, I)], masters, strict=True)
    )
    x, gain = random(T, H), random(H).detach() if with_gain else None
    room = Room(Workspace(reuses=False), 0, 1)  # gradcheck goes forward many times before it goes back

    def ours(given: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return gated_mlp(given, gain, opening, down, room)

    read = x if gain is None else x * gain
    gate, up = plain(opening[0], read).chunk(2, dim=-1) if joined else (plain(layer, read) for layer in opening)
    torch.testing.assert_close(ours(x), plain(down, silu(gate) * up))
    assert gradcheck(ours, [x, *(master for own in masters for master in own)])
