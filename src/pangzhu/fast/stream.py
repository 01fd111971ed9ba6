"""A micro-batch as one stream of tokens for the fast path: what is computed, and where the learned tokens lie in it.

Three things differ from rows laid end to end. A prefix that rows share stands once, before them (`pangzhu.fast.prefix`).
What follows a row's last learned token is left out, since nothing learned depends on it; so is the last learned token
itself, which predicts nothing. And a place may predict several tokens: the last token of a prefix predicts the first
token of each row that goes on from it.

The last row may be followed by a few more tokens, which nothing sees and nothing is asked of: oneDNN multiplies 1,003 rows
a quarter more slowly than 1,008 (`benchmarks/shapes.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pangzhu.fast.attention import Segment
from pangzhu.fast.prefix import Group, group_rows

IGNORED = -100
ALIGNMENT = 8  # tokens; 4 and 8 gain the most, above it what is added costs more than it gains


@dataclass(frozen=True, slots=True)
class Stream:
    """T tokens to compute, S predictions to learn at W different places.

    Args:
        input_ids: `(T,)`.
        position_ids: `(T,)`, each token's position in its own row.
        segments: together they hold every token once.
        places: `(W,)`, ascending: where a learned token is predicted.
        place_of: `(S,)`, ascending: for each prediction its index in `places`.
        targets: `(S,)`: the token to predict.
        row_numbers: `(S,)`: which row of the micro-batch it belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[Segment, ...]
    places: Tensor
    place_of: Tensor
    targets: Tensor
    row_numbers: Tensor

    def spread(self, x: Tensor) -> Tensor:
        """`(W, ...)` at the places to `(S, ...)`, one for each prediction."""
        return x if self.places.shape == self.place_of.shape else x[self.place_of]

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.input_ids.shape[0]

    def aligned(self) -> "Stream":
        """With T a multiple of `ALIGNMENT`: the last segment goes on by as many tokens as that takes."""
        missing = -self.num_tokens % ALIGNMENT
        if not missing:
            return self
        *before, last = self.segments
        filled = self.input_ids[-1:].expand(missing)
        again = self.position_ids[-1:].expand(missing)  # no further: some rotations look at the largest position
        return replace(
            self,
            input_ids=torch.cat((self.input_ids, filled)),
            position_ids=torch.cat((self.position_ids, again)),
            segments=(*before, replace(last, length=last.length + missing)),
        )


def lay_out(
    input_ids: Tensor,
    shift_labels: Tensor,
    row_lengths: Sequence[int],
    *,
    share_prefixes: bool = True,
    drop_tails: bool = True,
) -> Stream:
    """Plan the stream of a micro-batch.

    Args:
        input_ids: `(T,)`, rows end to end.
        shift_labels: `(T,)`, the next token of the same row where it is learned, else -100.
        row_lengths: tokens of each row.
        share_prefixes: compute a common prefix once.
        drop_tails: leave out what no learned token depends on.
    """
    rows = [_Row(ids.tolist(), labels.tolist()) for ids, labels in _split(input_ids, shift_labels, row_lengths)]
    if drop_tails:
        rows = [row.without_tail() for row in rows]
    numbers = [number for number, row in enumerate(rows) if row.ids]
    groups = group_rows([rows[number].ids for number in numbers]) if share_prefixes and numbers else None
    builder = _Builder()
    for group in groups or [Group(0, (index,)) for index in range(len(numbers))]:
        builder.add(group.prefix_length, {numbers[index]: rows[numbers[index]] for index in group.rows})
    return builder.stream(input_ids.device)


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    labels: list[int]

    def without_tail(self) -> "_Row":
        """Up to the place that predicts the last learned token; nothing where none is learned."""
        end = next((place for place in range(len(self.labels), 0, -1) if self.labels[place - 1] != IGNORED), 0)
        return _Row(self.ids[:end], self.labels[:end])


class _Builder:
    """Lays down groups of rows one after the other."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._segments: list[Segment] = []
        self._predictions: list[tuple[int, int, int]] = []  # place, target, row

    def add(self, prefix_length: int, rows: dict[int, _Row]) -> None:
        """A prefix, where there is one, then each row's own tokens."""
        prefix_start = len(self._ids)
        if prefix_length:
            self._put(next(iter(rows.values())).ids[:prefix_length], 0, Segment(prefix_start, prefix_length))
        for number, row in rows.items():
            own = row.ids[prefix_length:]
            start = len(self._ids)
            if own:
                prefix = (prefix_start, prefix_length) if prefix_length else (0, 0)
                self._put(own, prefix_length, Segment(start, len(own), *prefix))
            for place, target in enumerate(row.labels):
                if target != IGNORED:
                    first = prefix_start if place < prefix_length else start - prefix_length
                    self._predictions.append((first + place, target, number))

    def stream(self, device: torch.device) -> Stream:
        """What was laid down."""
        predictions = torch.tensor(sorted(self._predictions), dtype=torch.long, device=device).reshape(-1, 3)
        places, place_of = torch.unique(predictions[:, 0], return_inverse=True)
        return Stream(
            torch.tensor(self._ids, dtype=torch.long, device=device),
            torch.tensor(self._positions, dtype=torch.long, device=device),
            tuple(self._segments),
            places,
            place_of,
            predictions[:, 1].contiguous(),
            predictions[:, 2].contiguous(),
        )

    def _put(self, ids: Sequence[int], first_position: int, segment: Segment) -> None:
        self._ids += ids
        self._positions += range(first_position, first_position + len(ids))
        self._segments.append(segment)


def _split(input_ids: Tensor, shift_labels: Tensor, row_lengths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    lengths = list(row_lengths)
    return list(zip(input_ids.split(lengths), shift_labels.split(lengths), strict=True))
