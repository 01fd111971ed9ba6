"""What stands between the matrix products of a decoder layer, in few passes: RMSNorm and RoPE.

Run by autograd, each of them makes a chain of full-size tensors and keeps most of them for the backward pass. Here each
is one function that keeps as little as it can and computes the rest again, in place. RMSNorm is computed in float32, as the
model families do, rotations and products in the model's format.
"""

from typing import Any

import torch
from torch import Tensor

from pangzhu.fast.workspace import Place, fresh


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, place: Place = fresh) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension; `weight` is frozen. What is kept lies in `place`."""
    return normalize(x, epsilon, place=place) * weight


def normalize(x: Tensor, epsilon: float, *, place: Place = fresh) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) over the last dimension: RMSNorm before its weight.

    The result alone is kept, which the projections that read it keep too; `x` is not. It lies in `place`.
    """
    normed: Tensor = _Normalize.apply(x, epsilon, place)
    return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, num_groups: int, head_dim: int, place: Place = fresh) -> Tensor:
    """Rotary position embedding, laid out for attention.

    Args:
        x: `(T, K * G * D)`: K key-value heads, G query heads to each, D numbers a head.
        cos: `(T, R)`, its second half the same as its first; the first R <= D numbers of a head are turned.
        sin: as `cos`.
        num_groups: G; 1 for keys.
        head_dim: D.
        place: where the result lies.

    Returns:
        `(K, T, G, D)`.
    """
    rotated: Tensor = _Rotate.apply(_by_head(x, num_groups, head_dim), cos, sin, place)
    return rotated


def rotate_by_autograd(x: Tensor, cos: Tensor, sin: Tensor, *, num_groups: int, head_dim: int) -> Tensor:
    """As `rotate`, of torch's own operations."""
    heads = _by_head(x, num_groups, head_dim)
    width = cos.shape[-1]
    turned, kept = heads[..., :width], heads[..., width:]
    first, second = turned.chunk(2, dim=-1)
    across = torch.cat((-second, first), dim=-1)
    rotated: Tensor = torch.cat((turned * cos[:, None] + across * sin[:, None], kept), dim=-1)
    return rotated


def _by_head(x: Tensor, num_groups: int, head_dim: int) -> Tensor:
    """`(T, K * G * D)` to `(K, T, G, D)`, a view."""
    by_head: Tensor = x.unflatten(-1, (-1, num_groups, head_dim)).transpose(0, 1)
    return by_head


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float, place: Place) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(epsilon).rsqrt_()
        normed = torch.mul(wide, scale, out=place(x.shape, x))
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, None, None]:
        kept, scale = ctx.saved_tensors
        normed, gradient = kept.to(scale.dtype), d_output.to(scale.dtype)
        shared = torch.linalg.vecdot(gradient, normed).unsqueeze_(-1).div_(kept.shape[-1])
        return torch.addcmul(gradient, normed, shared, value=-1).mul_(scale).to(d_output.dtype), None, None


class _Rotate(torch.autograd.Function):
    """(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) for the halves of each head; backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor, place: Place) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(heads, cos[:, None], sin[:, None], out=place(heads.shape, heads))

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        num_heads, num_tokens, num_groups, head_dim = d_output.shape
        by_token = torch.empty((num_tokens, num_heads, num_groups, head_dim), dtype=d_output.dtype)
        gradient = by_token.transpose(0, 1)  # contiguous for the product that follows
        return _turn(d_output, cos[:, None], -sin[:, None], out=gradient), None, None, None


def _turn(heads: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor) -> Tensor:
    width = cos.shape[-1]
    half = width // 2
    torch.mul(heads[..., :width], cos, out=out[..., :width])
    out[..., :half].addcmul_(heads[..., half:width], sin[..., :half], value=-1)
    out[..., half:width].addcmul_(heads[..., :half], sin[..., half:])
    out[..., width:] = heads[..., width:]
    return out
