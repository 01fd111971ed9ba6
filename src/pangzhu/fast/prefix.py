"""Shared prefixes: which rows of a micro-batch begin alike, and with how many tokens.

Rows of a chat dataset begin with the same system text and template head: 10 to 25% of all tokens. Their hidden states
are the same in every row, since no token sees what comes after it. So they are computed once: `pangzhu.fast.stream` lays
the prefix down once, `pangzhu.fast.attention` lets each row's own tokens see it, and the gradients of all rows add up
in it by themselves. Exact.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

LEAST_TOKENS = 8  # a shorter prefix saves less than the gathering of its keys costs


@dataclass(frozen=True, slots=True)
class Group:
    """Rows, by number, and how many tokens they begin with alike; 0 for a row by itself."""

    prefix_length: int
    rows: tuple[int, ...]

    @property
    def num_saved(self) -> int:
        """Tokens that need not be computed again."""
        return self.prefix_length * (len(self.rows) - 1)


def group_rows(rows: Sequence[Sequence[int]]) -> list[Group]:
    """Groups that together hold every row once and save the most tokens, each row sharing one prefix at the most."""
    return _best(rows, tuple(range(len(rows))))


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with; the first and the last in order differ soonest."""
    first, last = min(rows, key=tuple), max(rows, key=tuple)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _best(rows: Sequence[Sequence[int]], numbers: tuple[int, ...]) -> list[Group]:
    """One group of all, or the best groups of those parts that go on alike after the common prefix."""
    if len(numbers) == 1:
        return [Group(0, numbers)]
    length = common_length([rows[number] for number in numbers])
    parts: dict[int | None, list[int]] = defaultdict(list)
    for number in numbers:
        parts[rows[number][length] if len(rows[number]) > length else None].append(number)
    together = Group(length, numbers)
    if len(parts) == 1:  # the same row several times
        return [together] if length >= LEAST_TOKENS else _alone(numbers)
    apart = [group for part in parts.values() for group in _best(rows, tuple(part))]
    if length < LEAST_TOKENS or together.num_saved < sum(group.num_saved for group in apart):
        return apart
    return [together]


def _alone(numbers: Sequence[int]) -> list[Group]:
    return [Group(0, (number,)) for number in numbers]
