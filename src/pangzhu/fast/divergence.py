"""How far the adapter's distributions lie from the base's: KL(base || adapter), word by word, and its gradient.

Both distributions come from hidden states and the one frozen head, so the base's are kept as hidden states, a few kilobytes
a token, and no word of the vocabulary is left out. As with the loss, a few places go through the head at a time, and the
gradient of the hidden states, (p_adapter - p_base) times the head, is made in the forward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PLACES = 64  # whose logits are held at a time, twice: 39 MB of float32 each over 150,000 words


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(base || adapter) at S places; `total` alone is attached to the graph.

    Args:
        total: `()`, nats.
        each: `(S,)`, nats.
        agreeing: `(S,)`, whether both would write the same word.
    """

    total: Tensor
    each: Tensor
    agreeing: Tensor


def divergence(hidden: Tensor, reference: Tensor, head: Tensor) -> Divergence:
    """The divergence of what the head makes of two sets of hidden states.

    Args:
        hidden: `(S, H)`, the adapter's, after the last norm.
        reference: `(S, H)`, the base's.
        head: `(V, H)`, frozen.
    """
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    return Divergence(*_Divergence.apply(hidden, reference, head, with_gradient))


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, reference: Tensor, head: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        each, agreeing = [], []
        gradient = torch.empty_like(hidden) if with_gradient else None
        for start in range(0, hidden.shape[0], PLACES):
            here = slice(start, start + PLACES)
            adapter, base = _log_probs(hidden[here], head), _log_probs(reference[here], head)
            agreeing.append(adapter.argmax(dim=-1) == base.argmax(dim=-1))
            likely = base.exp()
            each.append((likely * base.sub_(adapter)).sum(dim=-1))
            if gradient is not None:
                gradient[here] = adapter.exp_().sub_(likely).to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        divergences, same = torch.cat(each), torch.cat(agreeing)
        ctx.mark_non_differentiable(divergences, same)
        return divergences.sum(), divergences, same

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_total.to(gradient.dtype), None, None, None


def _log_probs(hidden: Tensor, head: Tensor) -> Tensor:
    """`(C, H)` to `(C, V)`, float32 or wider."""
    logits = hidden @ head.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
