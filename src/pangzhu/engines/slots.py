"""Places for conversations in llama.cpp, and whose keys and values each of them holds.

A place (llama.cpp calls it a slot) keeps the keys and values of the last prompt it computed, so that the next turn of a
conversation computes only what is new. Those of one adapter are wrong for every other: a place remembers who used it last,
and only for the same one may what it holds be used again. All places share one pool of tokens; who would not fit beside those
at work waits for them.

Left to others: what is computed in a place (`pangzhu.engines.llama_server`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition


@dataclass(slots=True)
class _Place:
    number: int
    owner: str | None = None
    busy: bool = False
    last_used: int = 0


class Slots:
    """Hands out places, each to one answer at a time; safe to use from many threads.

    Args:
        num_slots: how many places there are.
        num_tokens: how many tokens fit into all of them together.
    """

    def __init__(self, num_slots: int, num_tokens: int) -> None:
        self._places = [_Place(number) for number in range(num_slots)]
        self._room = num_tokens
        self._changed = Condition()
        self._num_given = 0

    @property
    def num_busy(self) -> int:
        """Answers at work."""
        return sum(place.busy for place in self._places)

    @contextmanager
    def taken(self, owner: str, num_tokens: int) -> Iterator[tuple[int, bool]]:
        """A place for one answer: its number, and whether what it holds is of the same owner. It is the owner's once the answer
        is whole; before, nobody knows how much of another's it still holds.

        Args:
            owner: who answers.
            num_tokens: of prompt and longest answer; no more than fit into all places together.
        """
        with self._changed:
            self._changed.wait_for(lambda: num_tokens <= self._room and not all(place.busy for place in self._places))
            place = min((place for place in self._places if not place.busy), key=lambda place: _rank(place, owner))
            own = place.owner == owner
            self._num_given += 1
            place.owner, place.busy, place.last_used = owner if own else None, True, self._num_given
            self._room -= num_tokens
        try:
            yield place.number, own
            place.owner = owner
        finally:
            with self._changed:
                place.busy = False
                self._room += num_tokens
                self._changed.notify_all()


def _rank(place: _Place, owner: str) -> tuple[bool, bool, int]:
    """The owner's own first, its latest before others; then those nobody has used; then the one unused for longest."""
    own = place.owner == owner
    return not own, place.owner is not None, -place.last_used if own else place.last_used
