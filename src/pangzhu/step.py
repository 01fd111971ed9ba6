"""One micro-batch through the model: the loss, and which rows are learned. Used by train and evaluate.

The loss is the sum over supervised tokens of -log p(next token), in float32; whoever calls divides by the number of
supervised tokens of the whole optimizer step, so that uneven micro-batches weigh right. The head's product is taken at
supervised places alone (`logits_to_keep`): the other logits would be thrown away.

A row is learned when at every supervised place the right token is the argmax by a margin. Then greedy decoding, which
sees the same prefix, writes the same answer; the margin keeps near ties, which flip with the shape of a batch in bf16,
from being counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pangzhu.batching import MicroBatch, lay_end_to_end, split_to_budget
from pangzhu.fast.loss import Scores, score_logits
from pangzhu.fast.path import FastPath, Predictions
from pangzhu.tokenization import IGNORED, TokenizedExample

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
        ended: the last learned token is the argmax: after this answer the model ends it.
    """

    row_index: int
    loss: float
    num_supervised: int
    learned: bool
    near_tie: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The summed loss, still attached to the graph, and each row's outcome."""

    loss_sum: torch.Tensor
    rows: tuple[RowOutcome, ...]


def split_rows(batch: MicroBatch, token_budget: int, fast: FastPath | None = None) -> list[MicroBatch]:
    """The batch in pieces that `forward_rows` computes with at most `token_budget` tokens, and a few to align them; a longer
    row is by itself."""
    return split_to_budget(batch, token_budget, num_shared=_num_shared(batch, fast))


def num_computed(batch: MicroBatch, fast: FastPath | None = None) -> int:
    """Tokens that `forward_rows` computes at the most: what all rows begin with alike counts once."""
    return batch.num_tokens - _num_shared(batch, fast) * (len(batch.row_lengths) - 1)


def _num_shared(batch: MicroBatch, fast: FastPath | None) -> int:
    return 0 if fast is None else fast.num_shared(batch.input_ids, batch.row_lengths)


def forward_rows(model: "PreTrainedModel", batch: MicroBatch, fast: FastPath | None = None) -> StepOutcome:
    """Teacher-forced pass over one micro-batch; call it under `torch.no_grad()` to measure only.

    Args:
        model: base, with or without adapters.
        batch: rows laid end to end.
        fast: the model's fast path; None takes the reference path, transformers and peft as they are.
    """
    if fast is None or not batch.num_supervised:  # nothing to learn: a zero that is attached to the graph
        scores, row_numbers = _reference(model, batch)
    else:
        scores, row_numbers = fast.score(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            shift_labels=batch.shift_labels,
            row_lengths=batch.row_lengths,
        )
    return StepOutcome(scores.loss_sum, _row_outcomes(batch, scores, row_numbers))


def measure_rows(
    model: "PreTrainedModel",
    rows: Sequence[tuple[int, TokenizedExample]],
    token_budget: int,
    fast: FastPath | None = None,
) -> list[RowOutcome]:
    """One teacher-forced pass without dropout and without a gradient: what it says of each row, by index.

    Args:
        model: base, with or without adapters.
        rows: each with its index.
        token_budget: most tokens of a micro-batch.
        fast: the model's fast path; None takes the reference path.
    """
    outcomes: list[RowOutcome] = []
    model.eval()
    with torch.no_grad():
        for piece in split_rows(lay_end_to_end(rows), token_budget, fast):
            outcomes += forward_rows(model, piece.to(model.device), fast).rows
    return sorted(outcomes, key=lambda outcome: outcome.row_index)  # the longest come first in their pieces


def predict_rows(batch: MicroBatch, fast: FastPath) -> Predictions:
    """The hidden states that a micro-batch's learned tokens are predicted from, where more is asked of them than the loss."""
    return fast.predictions(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        shift_labels=batch.shift_labels,
        row_lengths=batch.row_lengths,
    )


def _reference(model: "PreTrainedModel", batch: MicroBatch) -> tuple[Scores, torch.Tensor]:
    labels = batch.shift_labels[0]
    places = (labels != IGNORED).nonzero()[:, 0]
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,  # a cache would switch packed-row detection off, and rows would see each other
        logits_to_keep=places,
    ).logits[0]
    ends = torch.tensor(batch.row_lengths, device=places.device).cumsum(0)
    return score_logits(logits, labels[places]), torch.searchsorted(ends, places, right=True)


def _row_outcomes(batch: MicroBatch, scores: Scores, row_numbers: torch.Tensor) -> tuple[RowOutcome, ...]:
    """Each row's outcome. The margin grows with the logits: two steps of the number format at their size, since one step
    is a near tie."""
    needed = (2 * scores.resolution * scores.right.abs()).clamp(min=LEARNED_MARGIN)
    outcomes = []
    for number, index in enumerate(batch.row_indices):
        own = row_numbers == number
        learned = bool((scores.leads[own] > needed[own]).all())
        outcomes.append(
            RowOutcome(
                row_index=index,
                loss=float(scores.losses[own].sum()),
                num_supervised=int(own.sum()),
                learned=learned,
                near_tie=not learned and bool((scores.leads[own] >= -needed[own]).all()),
                ended=bool((scores.leads[own][-1:] > 0).all()),
            )
        )
    return tuple(outcomes)
