"""Memory that outlives the step: what a micro-batch makes and keeps is written into the same buffers each time.

Fresh memory costs more than the arithmetic on it: its pages are faulted in one by one. And a heap in which large pieces
come and go among small ones that stay breaks up, differently in every micro-batch, and grows from step to step.

A forward pass lends its buffers to one backward pass. A second forward pass writes over them, so the first one's backward
pass then raises instead of computing with what is no longer there (`Workspace.guard`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

HEADROOM = 1.25  # a little more than is asked for: pages that nothing touches take no memory
Place = Callable[[Sequence[int], Tensor], Tensor]  # shape and a tensor of that format to a buffer, whatever is in it


def fresh(shape: Sequence[int], like: Tensor) -> Tensor:
    """A place that is new each time."""
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)


class Workspace:
    """Buffers by name.

    Args:
        reuses: lend the same memory again; else every buffer is fresh.
    """

    def __init__(self, *, reuses: bool = True) -> None:
        self._reuses = reuses
        self._buffers: dict[str, Tensor] = {}
        self._num_passes = 0

    def begin_pass(self) -> None:
        """What was lent before may be written over from now on."""
        self._num_passes += 1

    def release(self) -> None:
        """Give the memory back, as far as nothing else holds it."""
        self._buffers.clear()

    def guard(self, x: Tensor) -> Tensor:
        """`x`, whose backward pass checks that no other pass has begun since.

        Raises:
            RuntimeError: in the backward pass, where one has.
        """
        guarded: Tensor = _Guard.apply(x, self, self._num_passes)
        return guarded

    def holds(self, number: int) -> bool:
        """Whether what was lent in that pass is still there."""
        return number == self._num_passes or not self._reuses

    def take(self, name: str, shape: Sequence[int], like: Tensor, *, part: int = 0, num_parts: int = 1) -> Tensor:
        """A contiguous buffer in the number format and on the device of `like`, with whatever is in it.

        Args:
            name: whose memory is lent again.
            shape: of the buffer.
            like: a tensor of its format.
            part: which of the buffers of that name.
            num_parts: how many there are.
        """
        if not self._reuses:
            return fresh(shape, like)
        size = math.prod(shape)
        kept = self._buffers.get(name)
        if kept is None or kept.dtype != like.dtype or kept.device != like.device or kept.numel() < size * num_parts:
            self._buffers.pop(name, None)
            kept = None  # given back before the larger one is taken
            self._buffers[name] = kept = fresh((math.ceil(HEADROOM * size) * num_parts,), like)
        strides = [math.prod(shape[dimension + 1 :]) for dimension in range(len(shape))]
        first = part * (kept.numel() // num_parts)  # a part may be smaller than the others
        # `set_` gives each part its own version counter; autograd would take a change of one view for one of all
        own = torch.empty(0, dtype=like.dtype, device=like.device)
        return own.set_(kept.untyped_storage(), first, tuple(shape), strides)


class Room:
    """A workspace as one layer sees it.

    Args:
        workspace: lends the buffers.
        number: of the layer.
        num_layers: that keep what they made for the backward pass; 1 where none does.
    """

    def __init__(self, workspace: Workspace, number: int, num_layers: int) -> None:
        self._workspace = workspace
        self._part = number if num_layers > 1 else 0
        self._num_parts = num_layers

    def kept(self, name: str) -> Place:
        """A place of this layer's own, until the next forward pass."""
        return lambda shape, like: self._workspace.take(name, shape, like, part=self._part, num_parts=self._num_parts)

    def scratch(self, name: str) -> Place:
        """A place until the next layer asks for it."""
        return lambda shape, like: self._workspace.take(name, shape, like)


ROOM = Room(Workspace(reuses=False), 0, 1)  # every place is fresh


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workspace: Workspace, number: int) -> Tensor:
        ctx.workspace, ctx.number = workspace, number
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, None, None]:
        if not ctx.workspace.holds(ctx.number):
            raise RuntimeError("a second forward pass came before this one's backward pass and wrote over its buffers")
        return d_output, None, None
