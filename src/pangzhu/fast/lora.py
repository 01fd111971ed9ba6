"""LoRA without its side traffic: all linear layers that read one input, and their adapters, in one step.

peft computes every adapter on its own, on a float32 copy of the input, and adds a float32 output of full width. Here the
frozen product stays in the model's number format and the adapter is added to it in place:

    y = x W^T + bias;   y += (x A^T) (s B)^T

The masters A and B stay peft's own float32 parameters. Their working copies in the model's format are made anew in every
forward pass, so none can be stale after a step, a load or a merge. The frozen weight needs no gradient. With

    g = dy (s B):   dx = dy W + g A,   dA = g^T x,   dB = s (dy^T x A^T)

every product has the model's format, and dA and dB are handed to the float32 masters.

What an adapter is at this moment (merged, switched off, DoRA) is read from peft's module in every pass; what this file
does not compute runs peft's own forward (`read_linear` gives None).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, linear


@dataclass(frozen=True, slots=True)
class Linear:
    """A frozen linear layer, and the plain LoRA adapter on it where there is one.

    Args:
        weight: `(out, in)`.
        bias: `(out,)` or None.
        lora_a: `(r, in)`, the master; None without an adapter.
        lora_b: `(out, r)`, the master.
        scaling: s, alpha / r or alpha / sqrt(r).
        dropout: share of the adapter's input that is set to zero.
    """

    weight: Tensor
    bias: Tensor | None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scaling: float = 1.0
    dropout: float = 0.0


def read_linear(module: torch.nn.Module) -> Linear | None:
    """What a layer computes now, or None where only its own forward knows: DoRA, several adapters, a merged one, hooks."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is torch.nn.Linear:
        return None if module.weight.requires_grad else Linear(module.weight, module.bias)
    from peft.tuners.lora.layer import Linear as LoraLayer

    if type(module) is not LoraLayer or module.merged or module.fan_in_fan_out:
        return None
    layer: Any = module
    base = read_linear(layer.get_base_layer())
    return base if base is None or layer.disable_adapters else _with_adapter(base, layer)


def _with_adapter(base: Linear, layer: Any) -> Linear | None:
    """The frozen layer with peft's one active adapter on it, or as it is where none is active."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if not names:
        return base
    name = names[0]
    if len(names) > 1 or name in layer.lora_variant or layer.lora_bias[name]:
        return None
    return replace(
        base,
        lora_a=layer.lora_A[name].weight,
        lora_b=layer.lora_B[name].weight,
        scaling=float(layer.scaling[name]),
        dropout=float(getattr(layer.lora_dropout[name], "p", 0.0)) if layer.training else 0.0,
    )


def project(modules: Sequence[torch.nn.Module], x: Tensor, gain: Tensor | None = None) -> list[Tensor]:
    """Outputs of linear layers that read the same `x` `(T, in)`, each `(T, out)`.

    Args:
        modules: the layers.
        x: what they read, or what they read but for `gain`.
        gain: `(in,)`, frozen: the layers read x * gain.
    """
    layers = [read_linear(module) for module in modules]
    known = [layer for layer in layers if layer is not None and not layer.dropout]
    fused = iter(apply_linears(known, x, gain) if known else ())
    if len(known) == len(layers):
        return list(fused)
    read = x if gain is None else x * gain
    outputs = []
    for module, layer in zip(modules, layers, strict=True):
        if layer is None:
            outputs.append(module(read))
        else:
            outputs.append(_with_dropout(layer, read) if layer.dropout else next(fused))
    return outputs


def apply_linears(layers: Sequence[Linear], x: Tensor, gain: Tensor | None = None) -> tuple[Tensor, ...]:
    """The layers' outputs for x * gain, `x` `(T, in)`; differentiable in `x` and in the adapters' masters."""
    masters = [master for layer in layers for master in (layer.lora_a, layer.lora_b)]
    outputs: tuple[Tensor, ...] = _Linears.apply(x, gain, tuple(layers), *masters)
    return outputs


def _with_dropout(layer: Linear, x: Tensor) -> Tensor:
    """As peft: the adapter's own input loses some of its numbers, the frozen product's does not."""
    if layer.lora_a is None or layer.lora_b is None:
        raise AssertionError("dropout without an adapter")
    (frozen,) = apply_linears([Linear(layer.weight, layer.bias)], x)
    narrow = linear(dropout(x, layer.dropout), layer.lora_a.to(x.dtype))
    return frozen + linear(narrow, (layer.lora_b * layer.scaling).to(x.dtype))


@dataclass(frozen=True, slots=True)
class WorkingCopies:
    """Adapters in the model's number format.

    Args:
        a: `(R, in)`, the A of all adapters below each other; R is the sum of their ranks.
        scaled_b: s B of each layer, `(out, r)`; None without an adapter.
        columns: where each adapter's r columns lie among the R.
    """

    a: Tensor | None
    scaled_b: tuple[Tensor | None, ...]
    columns: tuple[slice, ...]


def working_copies(layers: Sequence[Linear], dtype: torch.dtype) -> WorkingCopies:
    """The adapters of `layers` as they are now."""
    columns, start = [], 0
    for layer in layers:
        rank = 0 if layer.lora_a is None else layer.lora_a.shape[0]
        columns.append(slice(start, start + rank))
        start += rank
    adapted = [layer.lora_a.to(dtype) for layer in layers if layer.lora_a is not None]
    return WorkingCopies(
        a=torch.cat(adapted) if adapted else None,
        scaled_b=tuple(None if layer.lora_b is None else (layer.lora_b * layer.scaling).to(dtype) for layer in layers),
        columns=tuple(columns),
    )


def forward_linears(
    layers: Sequence[Linear], copies: WorkingCopies, x: Tensor, *, out: Sequence[Tensor] | None = None
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Outputs `(T, out)` of each layer, written into `out` where it is given, and x A^T `(T, R)` for the backward pass."""
    narrow = None if copies.a is None else x @ copies.a.T
    outputs = []
    places: Sequence[Tensor | None] = out or [None] * len(layers)
    for layer, scaled_b, columns, place in zip(layers, copies.scaled_b, copies.columns, places, strict=True):
        output = _frozen(layer, x, place)
        if scaled_b is not None and narrow is not None:
            output.addmm_(narrow[:, columns], scaled_b.T)
        outputs.append(output)
    return tuple(outputs), narrow


def _frozen(layer: Linear, x: Tensor, out: Tensor | None) -> Tensor:
    """x W^T + bias."""
    if out is None:
        return linear(x, layer.weight, layer.bias)
    if layer.bias is None:
        return torch.mm(x, layer.weight.T, out=out)
    return torch.addmm(layer.bias, x, layer.weight.T, out=out)


def input_gradient(
    layers: Sequence[Linear],
    copies: WorkingCopies,
    d_outputs: Sequence[Tensor],
    d_narrow: Tensor | None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `x`, `(T, in)`, summed over the layers in place, in `out` where it is given."""
    gradient = torch.mm(d_outputs[0], layers[0].weight, out=out)
    for layer, d_output in zip(layers[1:], d_outputs[1:], strict=True):
        gradient.addmm_(d_output, layer.weight)
    if copies.a is not None and d_narrow is not None:
        gradient.addmm_(d_narrow, copies.a)
    return gradient


def narrow_gradient(copies: WorkingCopies, d_outputs: Sequence[Tensor]) -> Tensor | None:
    """Gradient of x A^T, `(T, R)`: g of the formulas above, for all adapters side by side."""
    parts = [dy @ b for dy, b in zip(d_outputs, copies.scaled_b, strict=True) if b is not None]
    return torch.cat(parts, dim=1) if parts else None


def adapter_gradients(
    layers: Sequence[Linear],
    copies: WorkingCopies,
    *,
    x: Tensor | None,
    narrow: Tensor | None,
    d_outputs: Sequence[Tensor],
    d_narrow: Tensor | None,
) -> list[Tensor | None]:
    """Gradients of A and B of each layer, in the masters' format; None, None without an adapter."""
    gradients: list[Tensor | None] = []
    d_a = None if d_narrow is None or x is None else d_narrow.T @ x
    for layer, columns, d_output in zip(layers, copies.columns, d_outputs, strict=True):
        if layer.lora_a is None or layer.lora_b is None or d_a is None or narrow is None:
            gradients += [None, None]
            continue
        d_b = (narrow[:, columns].T @ d_output).T.to(layer.lora_b.dtype) * layer.scaling
        gradients += [d_a[columns].to(layer.lora_a.dtype), d_b]
    return gradients


class _Linears(torch.autograd.Function):
    """`forward_linears` with its gradients; x A^T is kept and, where there are adapters, `x`. Outputs are not, and x * gain is
    made twice."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor | None, layers: tuple[Linear, ...], *_masters: Tensor | None
    ) -> tuple[Tensor, ...]:
        copies = working_copies(layers, x.dtype)
        outputs, narrow = forward_linears(layers, copies, x if gain is None else x * gain)
        ctx.layers, ctx.copies = layers, copies
        ctx.save_for_backward(None if narrow is None else x, gain, narrow)
        return outputs

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, narrow = ctx.saved_tensors
        d_narrow = narrow_gradient(ctx.copies, d_outputs)
        gradient = input_gradient(ctx.layers, ctx.copies, d_outputs, d_narrow) if ctx.needs_input_grad[0] else None
        if gain is not None:
            x = None if x is None else x * gain
            gradient = None if gradient is None else gradient.mul_(gain)
        masters = adapter_gradients(ctx.layers, ctx.copies, x=x, narrow=narrow, d_outputs=d_outputs, d_narrow=d_narrow)
        return gradient, None, None, *masters
