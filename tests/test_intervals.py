"""How far figures can be trusted: Wilson's interval, the bootstrap over facts, and differences row by row."""

import random

import pytest

from pangzhu.intervals import Estimate, Share, bootstrap_mean, paired_gain, shares_of, shown_share, wilson_interval


@pytest.mark.parametrize(
    ("num_right", "num_rows", "low", "high"),
    [(17, 20, 0.6396, 0.9476), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilson_s(num_right: int, num_rows: int, low: float, high: float) -> None:
    assert wilson_interval(num_right, num_rows) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 34, 170])
def test_the_interval_holds_the_share_and_mirrors_it(num_rows: int) -> None:
    for num_right in range(num_rows + 1):
        low, high = wilson_interval(num_right, num_rows)
        assert 0 <= low <= num_right / num_rows <= high <= 1
        assert wilson_interval(num_rows - num_right, num_rows) == pytest.approx((1 - high, 1 - low), abs=1e-5)


def rows(num_facts: int, wordings: int, seed: int) -> tuple[list[float], list[str]]:
    """Half of the facts are right in every wording."""
    draw = random.Random(seed)
    values, groups = [], []
    for fact in range(num_facts):
        value = float(draw.random() < 0.5)
        values += [value] * wordings
        groups += [f"fact {fact}"] * wordings
    return values, groups


def test_the_mean_is_exact_and_its_interval_around_it_the_same_each_time() -> None:
    values, groups = rows(40, 1, seed=1)
    found = bootstrap_mean(values, [1] * 40, groups)
    assert found.value == pytest.approx(sum(values) / 40)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert bootstrap_mean(values, [1] * 40, groups) == found


def test_the_interval_is_about_that_of_the_normal_distribution() -> None:
    values, groups = [1.0] * 50 + [0.0] * 50, [str(number) for number in range(100)]
    found = bootstrap_mean(values, [1] * 100, groups)
    assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.015)


def test_wordings_of_one_fact_make_no_evidence_of_their_own() -> None:
    """Five wordings that are right or wrong together say what one does; as facts of their own they would seem to say more."""
    few, facts = rows(30, 1, seed=3)
    many, again = rows(30, 5, seed=3)
    alone = bootstrap_mean(few, [1] * 30, facts)
    together = bootstrap_mean(many, [1] * 150, again)
    apart = bootstrap_mean(many, [1] * 150, [str(number) for number in range(150)])
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert width(apart) < 0.6 * width(together)


def width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_the_order_of_the_rows_is_nothing() -> None:
    values, groups = rows(20, 3, seed=4)
    order = random.Random(5).sample(range(60), 60)
    moved = bootstrap_mean([values[place] for place in order], [1] * 60, [groups[place] for place in order])
    assert moved == bootstrap_mean(values, [1] * 60, groups)


def test_a_row_counts_as_much_as_it_holds() -> None:
    assert bootstrap_mean([9.0, 0.0], [9.0, 1.0], ["a", "b"]).value == pytest.approx(0.9)


def test_of_a_single_fact_there_is_a_mean_and_no_interval() -> None:
    assert bootstrap_mean([1.0, 0.0], [1, 1], ["a", "a"]) == Estimate(0.5)
    assert Estimate(0.5).in_points() == "+50"


def test_more_facts_than_are_resampled_at_a_time_give_an_interval_too(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = rows(30, 1, seed=6)
    whole = bootstrap_mean(values, [1] * 30, groups)
    monkeypatch.setattr("pangzhu.intervals.MOST_DRAWN", 10)
    few = bootstrap_mean(values, [1] * 30, groups)
    assert (few.low, few.high) == pytest.approx((whole.low, whole.high), abs=0.05)


def test_a_gain_is_paired() -> None:
    """Both vary much from row to row, and one is better by a quarter in each."""
    base = [number % 2 / 2 for number in range(40)]
    found = paired_gain(base, [value + 0.25 for value in base], [str(number) for number in range(40)])
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.in_points() == "+25 [25,25]"
    assert paired_gain(base, base, ["a", "b"] * 20).in_points() == "+0 [0,0]"


def test_shares_are_counted_by_kind_and_held_against_the_base() -> None:
    right = {"base": [True, False, False], "law": [True, True, False], "tax": [False, False, False]}
    found = shares_of(right, base="base", kinds=["a", "a", "b"], groups=["1", "2", "3"])
    assert [(share.kind, share.model, share.num_right, share.num_rows) for share in found] == [
        ("a", "base", 1, 2), ("a", "law", 2, 2), ("a", "tax", 0, 2),
        ("b", "base", 0, 1), ("b", "law", 0, 1), ("b", "tax", 0, 1),
    ]  # fmt: skip
    gains = [share.gain.value if share.gain else None for share in found]
    assert gains == [None, 0.5, -0.5, None, 0.0, 0.0]


def test_a_share_as_json_and_on_screen_has_its_interval() -> None:
    share = Share("law", "taught", 17, 20, Estimate(0.5, 0.25, 0.75))
    found = share.as_json()
    assert (found["share"], found["low"], found["high"]) == (0.85, *wilson_interval(17, 20))
    assert found["gain"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert shown_share(17, 20) == "85% [64–95]"
    assert shown_share(0, 0) == "–"
    assert Share("law", "taught", 0, 0).value == 0
