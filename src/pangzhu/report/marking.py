"""Where an answer departs from the expected one, character by character, for marking it on a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Mark = Literal["same", "missing", "added"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of characters: in both texts, in the expected one alone, or in the answer alone."""

    text: str
    mark: Mark


def mark_differences(expected: str, answer: str) -> tuple[Piece, ...]:
    """The answer in pieces, with what it lacks put where it is missing.

    The pieces that are not `missing` make up the answer, those that are not `added` the expected text.
    """
    pieces: list[Piece] = []
    for same, lost, gained in _runs(expected, answer):
        found = (Piece(same, "same"), Piece(lost, "missing"), Piece(gained, "added"))
        pieces += [piece for piece in found if piece.text]
    return tuple(pieces)


def _runs(expected: str, answer: str) -> Iterator[tuple[str, str, str]]:
    """Stretches of the two texts in order: in both, in the expected one alone, in the answer alone; each may be empty."""
    for operation, start, end, other_start, other_end in SequenceMatcher(
        None, expected, answer, autojunk=False
    ).get_opcodes():
        same = operation == "equal"
        yield (expected[start:end], "", "") if same else ("", expected[start:end], answer[other_start:other_end])
