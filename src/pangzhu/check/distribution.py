"""How many rows have how much of something: least, middle, most, and a histogram of a few bars.

Values are whole numbers of zero or more: tokens a row, learned tokens in a hundred.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BARS = 12
BAR_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Bar:
    """So many rows have a value from `low` to `high`, both included."""

    low: int
    high: int
    num_rows: int

    @property
    def name(self) -> str:
        """Its values, for a reader."""
        return f"{self.low}–{self.high}" if self.low < self.high else str(self.low)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some values in a few figures: half of the rows have at most `median`, nine in ten at most `p90`."""

    least: int
    median: int
    p90: int
    most: int
    bars: tuple[Bar, ...]

    @classmethod
    def of(cls, values: Sequence[int]) -> "Distribution":
        """The distribution of one value or more."""
        ordered = sorted(values)
        return cls(ordered[0], _quantile(ordered, 0.5), _quantile(ordered, 0.9), ordered[-1], _bars(ordered))

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        bars = [{"from": bar.low, "to": bar.high, "rows": bar.num_rows} for bar in self.bars]
        return {"min": self.least, "median": self.median, "p90": self.p90, "max": self.most, "histogram": bars}

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> "Distribution":
        """What `as_json` gave.

        Raises:
            KeyError: a figure is missing.
        """
        bars = tuple(Bar(bar["from"], bar["to"], bar["rows"]) for bar in known["histogram"])
        return cls(known["min"], known["median"], known["p90"], known["max"], bars)

    def blocks(self, *, columns: int = BAR_COLUMNS) -> list[str]:
        """Each bar drawn with blocks, the longest one with `columns` of them."""
        longest = max(bar.num_rows for bar in self.bars)
        return [_blocks(bar.num_rows, longest, columns) for bar in self.bars]

    def histogram(self) -> list[str]:
        """A line a bar: its values, a bar of blocks, its rows."""
        width = max(len(bar.name) for bar in self.bars)
        return [
            f"  {bar.name:>{width}}  {blocks}  {bar.num_rows}"
            for bar, blocks in zip(self.bars, self.blocks(), strict=True)
        ]


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The least value that at least this share of the values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _bars(ordered: Sequence[int]) -> tuple[Bar, ...]:
    """Bars of one round width up to the longest hundredth; one more for what is longer, so that it does not hide the rest."""
    low, high = ordered[0], _quantile(ordered, 0.99)
    width = _round_width((high - low) / (MOST_BARS - 2))
    edges = list(range(low // width * width, high + 1, width))
    if ordered[-1] >= edges[-1] + width:
        edges.append(edges[-1] + width)
    counts = Counter(bisect_right(edges, value) for value in ordered)
    ends = [*(edge - 1 for edge in edges[1:]), ordered[-1]]
    return tuple(
        Bar(edge, end, counts[number]) for number, (edge, end) in enumerate(zip(edges, ends, strict=True), start=1)
    )


def _round_width(wanted: float) -> int:
    """The first of 1, 2, 5, 10, 20, 50 … that is not less."""
    scale = int(10 ** math.floor(math.log10(max(wanted, 1))))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= wanted)


def _blocks(count: int, longest: int, columns: int) -> str:
    length = round(columns * count / longest)
    return ("█" * length if length or not count else "▏").ljust(columns)
