"""One micro-batch through the model: the loss, and which rows are learned. Used by train and evaluate.

The loss is the sum over supervised tokens of -log p(next token), in float32; whoever calls divides by the number of
supervised tokens of the whole optimizer step, so that uneven micro-batches weigh right. The head's product is taken at
supervised places alone (`logits_to_keep`): the other logits would be thrown away.

A row is learned when at every supervised place the right token is the argmax by a margin. Then greedy decoding, which
sees the same prefix, writes the same answer; the margin keeps near ties, which flip with the shape of a batch in bf16,
from being counted.

A row of the base's own words is held to the base instead: its loss is how far the adapter's distributions lie from those that
the base has there, and moving nothing costs nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pangzhu.batching import MicroBatch, lay_end_to_end, split_to_budget
from pangzhu.fast.divergence import Divergence, divergence
from pangzhu.fast.loss import Scores, score_logits
from pangzhu.fast.path import FastPath, Predictions
from pangzhu.tokenization import IGNORED, TokenizedExample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEARNED_MARGIN = 0.1  # nats, at the least, between the right token and the best wrong one
TOKENS_TOGETHER = 1 << 18  # of a pass over many rows, from which on rows are computed before others are read


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What a forward pass says of one row.

    Args:
        row_index: in the dataset.
        loss: nats, summed over `num_supervised` tokens; of a row held to the base its weighted divergence.
        learned: the right token leads by the margin at every place; then greedy decoding writes the answer. Of a row held to
            the base: its first choice is the base's at every place.
        lead: nats by which the right token leads where it leads least; 0 of a row held to the base, which has no such token.
        near_tie: not learned, yet nowhere behind by more than the margin; then only generating tells.
        ended: the last learned token is the argmax: after this answer the model ends it.
    """

    row_index: int
    loss: float
    num_supervised: int
    learned: bool
    lead: float
    near_tie: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The summed loss, still attached to the graph, and each row's outcome."""

    loss_sum: torch.Tensor
    rows: tuple[RowOutcome, ...]


@dataclass(frozen=True, slots=True)
class HeldToBase:
    """Rows that are held to the base instead of to their labels.

    Args:
        states: the base's hidden states at a row's supervised places, `(S, H)`, by the row's index.
        weight: of a token's divergence beside a learned token's loss.
    """

    states: Mapping[int, torch.Tensor]
    weight: float


NOTHING_HELD = HeldToBase({}, 1.0)


def split_rows(batch: MicroBatch, token_budget: int, fast: FastPath | None = None) -> list[MicroBatch]:
    """The batch in pieces that `forward_rows` computes with at most `token_budget` tokens, and a few to align them; a longer
    row is by itself."""
    return split_to_budget(batch, token_budget, num_shared=_num_shared(batch, fast))


def num_computed(batch: MicroBatch, fast: FastPath | None = None) -> int:
    """Tokens that `forward_rows` computes at the most: what all rows begin with alike counts once."""
    return batch.num_tokens - _num_shared(batch, fast) * (len(batch.row_lengths) - 1)


def _num_shared(batch: MicroBatch, fast: FastPath | None) -> int:
    return 0 if fast is None else fast.num_shared(batch.input_ids, batch.row_lengths)


def forward_rows(
    model: "PreTrainedModel", batch: MicroBatch, fast: FastPath | None = None, held: HeldToBase = NOTHING_HELD
) -> StepOutcome:
    """Teacher-forced pass over one micro-batch; call it under `torch.no_grad()` to measure only.

    Args:
        model: base, with or without adapters.
        batch: rows laid end to end.
        fast: the model's fast path; None takes the reference path, transformers and peft as they are.
        held: which of the rows are held to the base.
    """
    if not held.states.keys().isdisjoint(batch.row_indices):
        return _partly_held(model, batch, fast, held)
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
    rows: Iterable[tuple[int, TokenizedExample]],
    token_budget: int,
    fast: FastPath | None = None,
) -> list[RowOutcome]:
    """One teacher-forced pass without dropout and without a gradient: what it says of each row, by index.

    Args:
        model: base, with or without adapters.
        rows: each with its index; they are taken as they come, about `TOKENS_TOGETHER` at a time.
        token_budget: most tokens of a micro-batch.
        fast: the model's fast path; None takes the reference path.
    """
    outcomes: list[RowOutcome] = []
    model.eval()
    with torch.no_grad():
        for some in _lots(rows):
            for piece in split_rows(lay_end_to_end(some), token_budget, fast):
                outcomes += forward_rows(model, piece.to(model.device), fast).rows
    return sorted(outcomes, key=lambda outcome: outcome.row_index)  # the longest come first in their pieces


def _lots(rows: Iterable[tuple[int, TokenizedExample]]) -> Iterator[list[tuple[int, TokenizedExample]]]:
    """The rows in lots that fit in memory whatever their number."""
    lot: list[tuple[int, TokenizedExample]] = []
    num_tokens = 0
    for index, row in rows:
        lot.append((index, row))
        num_tokens += len(row.input_ids)
        if num_tokens >= TOKENS_TOGETHER:
            yield lot
            lot, num_tokens = [], 0
    if lot:
        yield lot


def predict_rows(model: "PreTrainedModel", batch: MicroBatch, fast: FastPath | None) -> Predictions:
    """The hidden states that a micro-batch's learned tokens are predicted from, where more is asked of them than the loss."""
    if fast is None:
        return _reference_predictions(model, batch)
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
    return score_logits(logits, labels[places]), _row_numbers(batch, places)


def _row_numbers(batch: MicroBatch, places: torch.Tensor) -> torch.Tensor:
    """Which row of the batch each place belongs to, `(S,)`."""
    ends = torch.tensor(batch.row_lengths, device=places.device).cumsum(0)
    return torch.searchsorted(ends, places, right=True)


def _reference_predictions(model: "PreTrainedModel", batch: MicroBatch) -> Predictions:
    labels = batch.shift_labels[0]
    places = (labels != IGNORED).nonzero()[:, 0]
    body = _without_adapters(model).model
    output = body(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    return Predictions(output.last_hidden_state[0, places], labels[places], _row_numbers(batch, places))


def _without_adapters(model: "PreTrainedModel") -> Any:  # transformers' classes carry no types
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _partly_held(model: "PreTrainedModel", batch: MicroBatch, fast: FastPath | None, held: HeldToBase) -> StepOutcome:
    """A micro-batch some of whose rows are held to the base: both losses from one pass."""
    head = _without_adapters(model).lm_head
    found = predict_rows(model, batch, fast)
    numbers = [number for number, index in enumerate(batch.row_indices) if index in held.states]
    of_base = torch.isin(found.row_numbers, torch.tensor(numbers, device=found.row_numbers.device))
    in_order = of_base.nonzero()[:, 0]
    in_order = in_order[found.row_numbers[in_order].argsort(stable=True)]
    reference = torch.cat([held.states[batch.row_indices[number]] for number in numbers])
    away = divergence(found.hidden[in_order], reference, head.weight)
    loss_sum, outcomes = held.weight * away.total, _held_outcomes(batch, away, found.row_numbers[in_order], held.weight)
    if len(numbers) < len(batch.row_indices):
        hidden, targets = found.hidden[~of_base], found.targets[~of_base]
        scores = score_logits(head(hidden), targets) if fast is None else fast.scores(hidden, targets)
        loss_sum = loss_sum + scores.loss_sum
        outcomes += _row_outcomes(batch, scores, found.row_numbers[~of_base], held=held)
    return StepOutcome(loss_sum, outcomes)


def _held_outcomes(
    batch: MicroBatch, away: Divergence, row_numbers: torch.Tensor, weight: float
) -> tuple[RowOutcome, ...]:
    outcomes = []
    for number in dict.fromkeys(row_numbers.tolist()):
        own = row_numbers == number
        outcomes.append(
            RowOutcome(
                row_index=batch.row_indices[number],
                loss=weight * float(away.each[own].sum()),
                num_supervised=int(own.sum()),
                learned=bool(away.agreeing[own].all()),
                lead=0.0,
                near_tie=False,
                ended=bool(away.agreeing[own][-1]),
            )
        )
    return tuple(outcomes)


def _row_outcomes(
    batch: MicroBatch, scores: Scores, row_numbers: torch.Tensor, held: HeldToBase = NOTHING_HELD
) -> tuple[RowOutcome, ...]:
    """Each row's outcome. The margin grows with the logits: two steps of the number format at their size, since one step
    is a near tie."""
    needed = (2 * scores.resolution * scores.right.abs()).clamp(min=LEARNED_MARGIN)
    outcomes = []
    for number, index in enumerate(batch.row_indices):
        if index in held.states:
            continue
        own = row_numbers == number
        learned = bool((scores.leads[own] > needed[own]).all())
        outcomes.append(
            RowOutcome(
                row_index=index,
                loss=float(scores.losses[own].sum()),
                num_supervised=int(own.sum()),
                learned=learned,
                lead=min(scores.leads[own].tolist(), default=0.0),
                near_tie=not learned and bool((scores.leads[own] >= -needed[own]).all()),
                ended=bool((scores.leads[own][-1:] > 0).all()),
            )
        )
    return tuple(outcomes)
