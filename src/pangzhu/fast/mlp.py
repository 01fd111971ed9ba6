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


def gated_mlp(x: Tensor, gain: Tensor | None, gate_up: Sequence[lora.Linear], down: lora.Linear, room: Room) -> Tensor:
    """`(T, H)` to `(T, H)`.

    Args:
        x: what the MLP reads, but for `gain`.
        gain: `(H,)`, frozen, or None.
        gate_up: gate and up, or one layer that gives both side by side.
        down: the layer behind them.
        room: lends the wide buffers.
    """
    masters = [master for layer in (*gate_up, down) for master in (layer.lora_a, layer.lora_b)]
    output: Tensor = _GatedMlp.apply(x, gain, tuple(gate_up), down, room, *masters)
    return output


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two tensors `(T, I)`, and the same memory as the outputs of one layer `(T, 2 I)` or of two."""

    gate: Tensor
    up: Tensor
    outputs: tuple[Tensor, ...]


def _pair(both: Tensor, num_tokens: int, *, joined: bool) -> _Pair:
    if joined:
        side_by_side = both.view(num_tokens, -1)
        gate, up = side_by_side.chunk(2, dim=-1)
        return _Pair(gate, up, (side_by_side,))
    gate, up = both.view(2, num_tokens, -1)
    return _Pair(gate, up, (gate, up))


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor | None,
        gate_up: tuple[lora.Linear, ...],
        down: lora.Linear,
        room: Room,
        *_masters: Tensor | None,
    ) -> Tensor:
        num_tokens, width = x.shape[0], down.weight.shape[1]
        both = room.kept("gate and up")((num_tokens * 2 * width,), x)
        pair = _pair(both, num_tokens, joined=len(gate_up) == 1)
        read = x if gain is None else x * gain
        copies, copies_down = lora.working_copies(gate_up, x.dtype), lora.working_copies([down], x.dtype)
        narrow = lora.forward_linears(gate_up, copies, read, out=pair.outputs)[1]
        active = torch.ops.aten.silu.out(pair.gate, out=room.scratch("active")((num_tokens, width), x)).mul_(pair.up)
        (output,), narrow_down = lora.forward_linears([down], copies_down, active)
        ctx.gate_up, ctx.down, ctx.copies, ctx.copies_down = gate_up, down, copies, copies_down
        ctx.pair, ctx.room = pair, room
        ctx.save_for_backward(x, gain, narrow, narrow_down)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, narrow, narrow_down = ctx.saved_tensors
        room: Room = ctx.room
        num_tokens, width = shape = (x.shape[0], ctx.down.weight.shape[1])
        d_narrow = lora.narrow_gradient(ctx.copies_down, [d_output])
        d_active = room.scratch("d_active")(shape, x)
        lora.input_gradient([ctx.down], ctx.copies_down, [d_output], d_narrow, out=d_active)

        gate, up = ctx.pair.gate, ctx.pair.up
        opened = torch.ops.aten.silu.out(gate, out=room.scratch("opened")(shape, x))
        active = None if d_narrow is None else torch.mul(opened, up, out=room.scratch("active")(shape, x))
        masters_down = lora.adapter_gradients(
            [ctx.down], ctx.copies_down, x=active, narrow=narrow_down, d_outputs=[d_output], d_narrow=d_narrow
        )
        d_both = room.scratch("d_gate and d_up")((num_tokens * 2 * width,), x)
        d_pair = _pair(d_both, num_tokens, joined=len(ctx.gate_up) == 1)
        torch.mul(opened, d_active, out=d_pair.up)
        torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_pair.gate)

        d_narrow = lora.narrow_gradient(ctx.copies, d_pair.outputs)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = lora.input_gradient(ctx.gate_up, ctx.copies, d_pair.outputs, d_narrow)
            d_x = d_x if gain is None else d_x.mul_(gain)
        masters = lora.adapter_gradients(
            ctx.gate_up,
            ctx.copies,
            x=x if gain is None or d_narrow is None else x * gain,
            narrow=narrow,
            d_outputs=d_pair.outputs,
            d_narrow=d_narrow,
        )
        return d_x, None, None, None, None, *masters, *masters_down
