"""Which rows share a prefix: the most tokens saved, every row once, nothing shared for the sake of a few tokens."""

import random
from itertools import combinations

import pytest

from pangzhu.fast.prefix import LEAST_TOKENS, Group, group_rows

SYSTEM = tuple(range(100, 100 + 2 * LEAST_TOKENS))
OTHER = tuple(range(500, 500 + LEAST_TOKENS))


def grouped(*rows: tuple[int, ...]) -> list[Group]:
    return group_rows(rows)


def num_saved(groups: list[Group]) -> int:
    return sum(group.num_saved for group in groups)


def test_rows_that_begin_alike_are_one_group() -> None:
    assert grouped((*SYSTEM, 1), (*SYSTEM, 2), (*SYSTEM, 3, 4)) == [Group(len(SYSTEM), (0, 1, 2))]


def test_a_row_by_itself_is_a_group_of_one() -> None:
    assert grouped((*SYSTEM, 1)) == [Group(0, (0,))]


def test_rows_with_nothing_in_common_stay_alone() -> None:
    assert grouped((1, 2), (3, 4)) == [Group(0, (0,)), Group(0, (1,))]


def test_a_few_tokens_in_common_are_not_worth_sharing() -> None:
    few = SYSTEM[: LEAST_TOKENS - 1]
    assert all(group.prefix_length == 0 for group in grouped((*few, 1), (*few, 2)))


def test_two_system_texts_make_two_groups() -> None:
    groups = grouped((*SYSTEM, 1), (*OTHER, 1), (*SYSTEM, 2), (*OTHER, 2), (9, 9))
    assert sorted(group.rows for group in groups) == [(0, 2), (1, 3), (4,)]


def test_the_longer_prefix_of_fewer_rows_wins_where_it_saves_more() -> None:
    """Two rows go on alike for long; sharing the short prefix among all four would save less."""
    long = (*OTHER, *range(1000, 1100))
    groups = grouped((*OTHER, 1), (*OTHER, 2), (*long, 1), (*long, 2))
    assert Group(len(long), (2, 3)) in groups
    assert Group(len(OTHER), (0, 1)) not in groups or num_saved(groups) > 3 * len(OTHER)


def test_a_row_that_is_the_beginning_of_another_is_shared_whole() -> None:
    assert grouped(SYSTEM, (*SYSTEM, 1)) == [Group(len(SYSTEM), (0, 1))]


def test_the_same_row_several_times_is_computed_once() -> None:
    assert grouped(SYSTEM, SYSTEM, SYSTEM) == [Group(len(SYSTEM), (0, 1, 2))]


def test_short_rows_that_are_the_same_stay_alone() -> None:
    assert grouped((1, 2), (1, 2)) == [Group(0, (0,)), Group(0, (1,))]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_group_and_begins_with_its_prefix(seed: int) -> None:
    draw = random.Random(seed)
    heads = [tuple(draw.choices(range(3), k=draw.randint(0, 30))) for _ in range(4)]
    rows = [draw.choice(heads) + tuple(draw.choices(range(3), k=draw.randint(1, 12))) for _ in range(9)]
    groups = group_rows(rows)
    assert sorted(number for group in groups for number in group.rows) == list(range(9))
    for group in groups:
        assert len({rows[number][: group.prefix_length] for number in group.rows}) == 1
        assert group.prefix_length == 0 or group.prefix_length >= LEAST_TOKENS
    best_pair = max(
        (sum(1 for _ in _common(a, b)) for a, b in combinations(rows, 2)),
        default=0,
    )
    assert num_saved(groups) >= (best_pair if best_pair >= LEAST_TOKENS else 0)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> list[int]:
    shared = []
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        shared.append(a)
    return shared
