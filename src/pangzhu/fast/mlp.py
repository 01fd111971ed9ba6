"""The gated MLP of a decoder layer, down(silu(gate(x)) * up(x)), with its adapters, as one function.

Its tensors are the widest of the layer. What the backward pass needs of them, gate and up, lies in one buffer for all
layers, the rest in buffers that every layer writes over; silu(gate) * up is cheap to compute again. So nothing of that
width is ever fresh memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pangzhu.fast import lora
from pangzhu.fast.workspace import Room


def gated_mlp(x: Tensor, gain: Tensor | None, opening: Sequence[lora.Linear], down: lora.Linear, room: Room) -> Tensor:
    """`(T, H)` to `(T, H)`.

    Args:
        x: what the MLP reads, but for `gain`.
        gain: `(H,)`, frozen, or None.
        opening: gate and up, or one layer that gives both side by side.
        down: the layer behind them.
        room: lends the wide buffers.
    """
    masters = [master for layer in (*opening, down) for master in (layer.lora_a, layer.lora_b)]
    output: Tensor = _GatedMlp.apply(x, gain, tuple(opening), down, room, *masters)
    return output


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two tensors `(T, I)`, and the same memory as the outputs of one layer `(T, 2 I)` or of two."""

    gate: Tensor
    up: Tensor
    outputs: tuple[Tensor, ...]


def _pair(memory: Tensor, num_tokens: int, *, num_layers: int) -> _Pair:
    if num_layers == 1:
        side_by_side = memory.view(num_tokens, -1)
        gate, up = side_by_side.chunk(2, dim=-1)
        return _Pair(gate, up, (side_by_side,))
    gate, up = memory.view(2, num_tokens, -1)
    return _Pair(gate, up, (gate, up))


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor | None,
        opening: tuple[lora.Linear, ...],
        down: lora.Linear,
        room: Room,
        *_masters: Tensor | None,
    ) -> Tensor:
        num_tokens, width = wide = x.shape[0], down.weight.shape[1]
        memory = room.kept("gate and up")((num_tokens * 2 * width,), x)
        pair = _pair(memory, num_tokens, num_layers=len(opening))
        read = x if gain is None else x * gain
        copies, copies_down = lora.working_copies(opening, x.dtype), lora.working_copies([down], x.dtype)
        narrow = lora.forward_linears(opening, copies, read, out=pair.outputs)[1]
        active = torch.ops.aten.silu.out(pair.gate, out=room.scratch("active")(wide, x)).mul_(pair.up)
        (output,), narrow_down = lora.forward_linears([down], copies_down, active)
        ctx.opening, ctx.down, ctx.copies, ctx.copies_down = opening, down, copies, copies_down
        ctx.pair, ctx.room = pair, room
        ctx.save_for_backward(x, gain, narrow, narrow_down)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, narrow, narrow_down = ctx.saved_tensors
        room: Room = ctx.room
        num_tokens, width = wide = x.shape[0], ctx.down.weight.shape[1]
        d_narrow = lora.narrow_gradient(ctx.copies_down, [d_output])
        d_active = room.scratch("d_active")(wide, x)
        lora.input_gradient([ctx.down], ctx.copies_down, [d_output], d_narrow, out=d_active)

        gate, up = ctx.pair.gate, ctx.pair.up
        opened = torch.ops.aten.silu.out(gate, out=room.scratch("opened")(wide, x))
        active = torch.mul(opened, up, out=room.scratch("active")(wide, x))
        masters_down = lora.adapter_gradients(
            [ctx.down], ctx.copies_down, x=active, narrow=narrow_down, d_outputs=[d_output], d_narrow=d_narrow
        )
        d_memory = room.scratch("d_gate and d_up")((num_tokens * 2 * width,), x)
        d_pair = _pair(d_memory, num_tokens, num_layers=len(ctx.opening))
        torch.mul(opened, d_active, out=d_pair.up)
        torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_pair.gate)

        d_narrow = lora.narrow_gradient(ctx.copies, d_pair.outputs)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = lora.input_gradient(ctx.opening, ctx.copies, d_pair.outputs, d_narrow)
            d_x = d_x if gain is None else d_x.mul_(gain)
        masters = lora.adapter_gradients(
            ctx.opening,
            ctx.copies,
            x=x if gain is None else x * gain,
            narrow=narrow,
            d_outputs=d_pair.outputs,
            d_narrow=d_narrow,
        )
        return d_x, None, None, None, None, *masters, *masters_down
