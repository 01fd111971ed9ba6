"""Sequences of rows that are not in memory: what is often asked of all of them is known without reading them.

Planning asks for lengths and learned tokens of every row, training for a few rows at a time. A tuple of rows answers both by
itself; rows that are read when they are asked for (`pangzhu.token_store`) keep the numbers beside them. Several sequences
are put one behind another by `joined_rows`, and none of them is read for it.
"""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Protocol, TypeVar, overload


class Row(Protocol):
    """Something of a length, part of which is learned."""

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Its tokens."""

    @property
    def num_supervised(self) -> int:
        """Of these, learned."""


R = TypeVar("R", bound=Row)


class MeasuredRows(Sequence[R]):
    """Rows that are read when they are asked for; a slice of them is read at once."""

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """Tokens of each."""

    @property
    @abstractmethod
    def supervised(self) -> Sequence[int]:
        """Learned tokens of each."""

    @property
    def sha256(self) -> str | None:
        """The fingerprint of their ids and labels, where it is known without reading them."""
        return None

    @abstractmethod
    def row(self, index: int) -> R:
        """The row at an index from 0 on."""

    @overload
    def __getitem__(self, at: int) -> R: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[R, ...]: ...
    def __getitem__(self, at: int | slice) -> R | tuple[R, ...]:
        places = range(len(self))[at]
        return self.row(places) if isinstance(places, int) else tuple(map(self.row, places))


class JoinedRows(MeasuredRows[R]):
    """Sequences one behind another."""

    def __init__(self, parts: Sequence[Sequence[R]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[R]:
        return chain.from_iterable(self._parts)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each."""
        return [length for part in self._parts for length in lengths_of(part)]

    @property
    def supervised(self) -> Sequence[int]:
        """Learned tokens of each."""
        return [number for part in self._parts for number in supervised_of(part)]

    def row(self, index: int) -> R:
        """The row at an index from 0 on."""
        part = bisect_right(self._ends, index)
        return self._parts[part][index - self._ends[part]]  # counted from the part's end


def lengths_of(rows: Sequence[R]) -> Sequence[int]:
    """Tokens of each row."""
    return rows.lengths if isinstance(rows, MeasuredRows) else [len(row.input_ids) for row in rows]


def supervised_of(rows: Sequence[R]) -> Sequence[int]:
    """Learned tokens of each row."""
    return rows.supervised if isinstance(rows, MeasuredRows) else [row.num_supervised for row in rows]


def joined_rows(parts: Sequence[Sequence[R]]) -> Sequence[R]:
    """All rows, in order: a tuple, unless some of them are not in memory."""
    if any(isinstance(part, MeasuredRows) for part in parts):
        filled = [part for part in parts if part]
        return filled[0] if len(filled) == 1 else JoinedRows(filled)
    return tuple(chain.from_iterable(parts))
