"""The head and the loss at learned tokens alone; no logits are kept, nothing is computed twice.

Logits over 150,000 words are the largest tensor of a step. Kept for the backward pass, and once more as float32, and once
more as their gradient, they cost more in fresh memory than in arithmetic. Here a chunk of tokens goes through the head
into a buffer that is used again and again, words by tokens. There, block by block of the vocabulary, the logits become
exp(logit - largest) in place; with the right word's set to minus the sum of the others, the buffer is the gradient of the
logits but for a factor a token, and the head times the buffer that of the hidden states. It is made in the forward pass,
for a loss that counts once, and scaled in the backward pass by what the loss really counts.

How far the right token leads every other one comes on the way: that is what tells whether a row is learned.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from pangzhu.fast.stream import ALIGNMENT
from pangzhu.fast.workspace import Workspace

BYTES_A_CHUNK = 96 * 2**20  # of logits: 331 tokens of bf16 times 150,000 words
FOLDS = 64  # rows side by side fill whole vectors, whatever their width
WORDS_A_BLOCK = 8192  # times the tokens of a chunk: 5 MB, which stay in the cache from the product to the maximum


@dataclass(frozen=True, slots=True)
class Scores:
    """What the head says of S predictions; `loss_sum` alone is attached to the graph.

    Args:
        loss_sum: `()`, nats, float32.
        losses: `(S,)`, nats.
        leads: `(S,)`, nats by which the right token leads the best other one; negative where it trails.
        right: `(S,)`, the right token's logit.
        resolution: smallest relative difference of two logits in the head's number format.
    """

    loss_sum: Tensor
    losses: Tensor
    leads: Tensor
    right: Tensor
    resolution: float


def score(hidden: Tensor, head: Tensor, targets: Tensor, workspace: Workspace) -> Scores:
    """Cross-entropy of the head's product.

    Args:
        hidden: `(S, H)`, after the last norm.
        head: `(V, H)`, frozen.
        targets: `(S,)`.
        workspace: lends the buffer.
    """
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    loss_sum, losses, leads, right = _Score.apply(hidden, head, targets, workspace, with_gradient)
    return Scores(loss_sum, losses, leads, right, torch.finfo(head.dtype).eps)


def score_logits(logits: Tensor, targets: Tensor) -> Scores:
    """As `score`, from logits `(S, V)` that are there already, by autograd."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = cross_entropy(wide, targets, reduction="none")
    with torch.no_grad():
        leads, right = _leads(wide.detach(), targets[:, None])
    resolution = torch.finfo(logits.dtype).eps
    return Scores(losses.sum(), losses.detach(), leads[:, 0], right[:, 0], resolution)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities of every word, `(S, V)`, float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, workspace: Workspace, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_tokens = hidden.shape[0]
        missing = -num_tokens % ALIGNMENT
        hidden, targets = pad(hidden, (0, 0, 0, missing)), pad(targets, (0, missing))
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses, leads, right = torch.empty((3, hidden.shape[0]), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if with_gradient else None
        for chunk in _chunks(hidden.shape[0], head):
            logits = workspace.take("logits", (head.shape[0], chunk.stop - chunk.start), head)
            right[chunk], best_other = _multiply(logits, head, hidden[chunk], targets[chunk])
            largest = torch.maximum(right[chunk], best_other)
            others = _exponentiate(logits, largest)
            total = others + (right[chunk] - largest).exp()
            losses[chunk] = total.log() + largest - right[chunk]
            leads[chunk] = right[chunk] - best_other
            if gradient is not None:
                # softmax minus one-hot, times `total`; the right word's is minus the sum of the others
                each = torch.arange(logits.shape[1], device=logits.device)
                logits[targets[chunk], each] = others.neg().to(logits.dtype)
                gradient[chunk] = (head.T @ logits).div_(total).T
        losses, leads, right = losses[:num_tokens], leads[:num_tokens], right[:num_tokens]
        ctx.save_for_backward(None if gradient is None else gradient[:num_tokens])
        ctx.mark_non_differentiable(losses, leads, right)
        return losses.sum(), losses, leads, right

    @staticmethod
    def backward(ctx: Any, d_sum: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_sum.to(gradient.dtype), None, None, None, None


def _chunks(num_tokens: int, head: Tensor) -> list[slice]:
    """Chunks of about equal size, multiples of `ALIGNMENT`, whose logits stay within `BYTES_A_CHUNK`."""
    most = max(ALIGNMENT, BYTES_A_CHUNK // (head.shape[0] * head.element_size()) // ALIGNMENT * ALIGNMENT)
    num_chunks = max(1, math.ceil(num_tokens / most))
    size = math.ceil(num_tokens / num_chunks / ALIGNMENT) * ALIGNMENT
    return [slice(start, min(num_tokens, start + size)) for start in range(0, num_tokens, size)]


def _blocks(logits: Tensor) -> list[slice]:
    num_words = logits.shape[0]
    return [slice(start, min(num_words, start + WORDS_A_BLOCK)) for start in range(0, num_words, WORDS_A_BLOCK)]


def _multiply(logits: Tensor, head: Tensor, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fill `logits` `(V, C)`, words by tokens: a large matrix times a small one is faster than the other way round.

    Returns:
        The right words' logits and the largest of the others, `(C,)`; in `logits` the right words stand as -inf.
    """
    tokens = hidden.T.contiguous()
    wide = torch.promote_types(logits.dtype, torch.float32)
    right = torch.empty(targets.shape, dtype=wide, device=logits.device)
    best_other = torch.full_like(right, -torch.inf)
    for block in _blocks(logits):
        part = logits[block]
        torch.mm(head[block], tokens, out=part)
        here = ((targets >= block.start) & (targets < block.stop)).nonzero()[:, 0]
        words = targets[here] - block.start
        right[here] = part[words, here].to(wide)
        part[words, here] = -torch.inf
        torch.maximum(best_other, _largest(part).to(wide), out=best_other)
    return right, best_other


def _largest(logits: Tensor) -> Tensor:
    """Largest of each column, `(V, C)` to `(C,)`.

    Rows are laid side by side first: down a matrix whose rows do not fill whole vectors, torch is six times slower.
    """
    folds = math.gcd(logits.shape[0], FOLDS)
    return logits.view(-1, folds * logits.shape[1]).amax(dim=0).view(folds, -1).amax(dim=0)


def _exponentiate(logits: Tensor, largest: Tensor) -> Tensor:
    """exp(logits - largest) in place; their sum over the words, `(C,)`."""
    total = torch.zeros_like(largest)
    for block in _blocks(logits):
        part = logits[block].to(largest.dtype).sub_(largest).exp_()
        total += part.sum(dim=0)
        if part.dtype != logits.dtype:
            logits[block] = part
    return total


def _leads(logits: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """How far the right token leads the best other one, and its logit, both `(S, 1)`.

    `logits` `(S, V)` is changed and put back, which spares a copy.
    """
    right = logits.gather(1, place)
    logits.scatter_(1, place, -torch.inf)
    best_other = logits.amax(dim=1, keepdim=True)
    logits.scatter_(1, place, right)
    return right - best_other, right
