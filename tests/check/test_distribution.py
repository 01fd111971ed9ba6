"""A distribution counts every row once, and its histogram can be read."""

import random
from itertools import pairwise

import pytest

from pangzhu.check.distribution import MOST_BARS, Distribution


def test_the_figures_are_those_of_the_sorted_values() -> None:
    found = Distribution.of([10, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert (found.least, found.median, found.p90, found.most) == (1, 5, 9, 10)


@pytest.mark.parametrize("seed", range(20))
def test_every_value_is_in_exactly_one_bar_and_bars_leave_no_gap(seed: int) -> None:
    draw = random.Random(seed)
    values = [int(draw.lognormvariate(4, 1.5)) for _ in range(draw.randint(1, 500))]
    bars = Distribution.of(values).bars
    assert sum(bar.num_rows for bar in bars) == len(values)
    assert all(bar.num_rows == sum(bar.low <= value <= bar.high for value in values) for bar in bars)
    assert all(left.high + 1 == right.low for left, right in pairwise(bars))
    assert len(bars) <= MOST_BARS


def test_one_huge_value_does_not_hide_the_others() -> None:
    bars = Distribution.of([*range(100, 300), 10_000]).bars
    assert len(bars) > 4
    assert (bars[-1].high, bars[-1].num_rows) == (10_000, 1)


@pytest.mark.parametrize("values", [[0], [7, 7, 7], [0, 100]])
def test_few_values_are_no_matter(values: list[int]) -> None:
    found = Distribution.of(values)
    assert (found.least, found.most) == (min(values), max(values))
    assert sum(bar.num_rows for bar in found.bars) == len(values)


def test_a_bar_is_drawn_for_every_line_and_a_few_rows_can_still_be_seen() -> None:
    lines = Distribution.of([1] * 1000 + [2]).histogram()
    assert len(lines) == 2
    assert "█" * 24 in lines[0]
    assert "▏" in lines[1]
    assert lines[1].endswith(" 1")


def test_a_distribution_comes_back_from_its_json() -> None:
    found = Distribution.of([1, 5, 5, 90, 1000])
    assert Distribution.from_json(found.as_json()) == found


def test_bars_are_as_long_as_there_is_room_for() -> None:
    found = Distribution.of([1] * 4 + [30] * 2 + [60])
    assert max(map(len, found.blocks(columns=10))) == 10
    assert sum(drawn.count("█") for drawn in found.blocks(columns=10)) == 10 + 5 + 2
