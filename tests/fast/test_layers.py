"""Norm and rotation as single functions: the values of torch's own operations, and right gradients."""

import pytest
import torch
from torch.autograd import gradcheck

from pangzhu.fast import layers

T = 5


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)


def angles(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = torch.rand(T, width // 2, dtype=torch.float64)
    both = torch.cat((half, half), dim=-1)
    return both.cos(), both.sin()


def test_the_norm_is_the_formula_and_its_gradient_right() -> None:
    x, weight = random(T, 6), random(6).detach()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    torch.testing.assert_close(layers.rms_norm(x, weight, 1e-6), expected)
    assert gradcheck(lambda given: layers.rms_norm(given, weight, 1e-6), [x])


def test_the_norm_works_head_by_head() -> None:
    x, weight = random(T, 3, 6), random(6).detach()
    assert gradcheck(lambda given: layers.rms_norm(given, weight, 1e-6), [x])


def test_the_norm_is_computed_in_float32() -> None:
    x = (torch.randn(4, 64) * 30).to(torch.bfloat16)
    weight = torch.rand(64).to(torch.bfloat16)
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(layers.rms_norm(x, weight, 1e-6), wide.to(torch.bfloat16) * weight, rtol=1e-2, atol=0)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("width", [4, 8])  # of 8 numbers a head: half of them, all of them
def test_a_rotation_is_that_of_torchs_operations(width: int, num_groups: int) -> None:
    x = random(T, 2 * num_groups * 8)
    cos, sin = angles(width)

    def rotated(turn: object) -> list[torch.Tensor]:
        output = turn(x, cos, sin, num_groups=num_groups, head_dim=8)  # type: ignore[operator]
        return [output, *torch.autograd.grad((output * output.detach().cos()).sum(), x)]

    for ours, plain in zip(rotated(layers.rotate), rotated(layers.rotate_by_autograd), strict=True):
        torch.testing.assert_close(ours, plain)
    assert gradcheck(lambda given: layers.rotate(given, cos, sin, num_groups=num_groups, head_dim=8), [x])


def test_a_rotation_keeps_the_length_of_what_it_turns() -> None:
    x = random(T, 16)
    cos, sin = angles(8)
    turned = layers.rotate(x, cos, sin, num_groups=1, head_dim=8)
    torch.testing.assert_close(turned.norm(dim=-1)[..., 0].T, x.view(T, 2, 8).norm(dim=-1))
