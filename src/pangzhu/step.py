"""One micro-batch through the model: the loss, and which rows are learned. Used by train and evaluate.

The loss is the sum over supervised tokens of -log p(next token), in float32; whoever calls divides by the number of
supervised tokens of the whole optimizer step, so that uneven micro-batches weigh right. The head's product is taken at
supervised places alone (`logits_to_keep`): the other logits would be thrown away.

A row is learned when at every supervised place the right token is the argmax by a margin. Then greedy decoding, which
sees the same prefix, writes the same answer; the margin keeps near ties, which flip with the shape of a batch in bf16,
from being counted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from pangzhu.batching import MicroBatch
from pangzhu.tokenization import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEARNED_MARGIN = 0.1  # nats, at the least, between the right token and the best wrong one


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What a forward pass says of one row.

    Args:
        row_index: in the dataset.
        loss: nats, summed over `num_supervised` tokens.
        learned: the right token leads by the margin at every place; then greedy decoding writes the answer.
        near_tie: not learned, yet nowhere behind by more than the margin; then only generating tells.
    """

    row_index: int
    loss: float
    num_supervised: int
    learned: bool
    near_tie: bool


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The summed loss, still attached to the graph, and each row's outcome."""

    loss_sum: torch.Tensor
    rows: tuple[RowOutcome, ...]


def forward_rows(model: "PreTrainedModel", batch: MicroBatch) -> StepOutcome:
    """Teacher-forced pass over one micro-batch; call it under `torch.no_grad()` to measure only."""
    labels = batch.shift_labels[0]
    places = (labels != IGNORED).nonzero()[:, 0]
    targets = labels[places]
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,  # a cache would switch packed-row detection off, and rows would see each other
        logits_to_keep=places,
    ).logits[0]
    scores = logits.float()
    losses = cross_entropy(scores, targets, reduction="none")
    with torch.no_grad():
        leads, needed = _leads(scores.detach(), targets, resolution=torch.finfo(logits.dtype).eps)
        rows = _row_outcomes(batch, places, losses, leads=leads, needed=needed)
    return StepOutcome(losses.sum(), rows)


def _leads(scores: torch.Tensor, targets: torch.Tensor, *, resolution: float) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the right token leads the best other one, and how far it must to count; both `(S,)`, nats.

    The margin grows with the logits: two steps of the number format at their size, since one step is a near tie.
    `scores` is changed and put back, which spares a copy of `(S, V)`; the loss keeps no reference to it.
    """
    right = scores.gather(1, targets[:, None])
    scores.scatter_(1, targets[:, None], -torch.inf)
    best_other = scores.amax(dim=-1)
    scores.scatter_(1, targets[:, None], right)
    needed = (2 * resolution * right[:, 0].abs()).clamp(min=LEARNED_MARGIN)
    return right[:, 0] - best_other, needed


def _row_outcomes(
    batch: MicroBatch, places: torch.Tensor, losses: torch.Tensor, *, leads: torch.Tensor, needed: torch.Tensor
) -> tuple[RowOutcome, ...]:
    ends = torch.tensor(batch.row_lengths, device=places.device).cumsum(0)
    row_of_place = torch.searchsorted(ends, places, right=True)
    outcomes = []
    for number, index in enumerate(batch.row_indices):
        own = row_of_place == number
        learned = bool((leads[own] > needed[own]).all())
        outcomes.append(
            RowOutcome(
                row_index=index,
                loss=float(losses[own].sum()),
                num_supervised=int(own.sum()),
                learned=learned,
                near_tie=not learned and bool((leads[own] >= -needed[own]).all()),
            )
        )
    return tuple(outcomes)
