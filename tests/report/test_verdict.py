"""Each way an adapter can be worthless has its own sentence, and praise needs every figure that was taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pangzhu.adapter import BaseMismatch
from pangzhu.messages import LANGUAGES, catalogue
from pangzhu.report.verdict import NOT_ASKED, Counted, Reached, judge

GOOD = Reached(
    taught=Counted(170, 170),
    taught_ended=Counted(170, 170),
    reworded=Counted(33, 34),
    recited=Counted(1, 20),
    agreement=0.95,
    choices_lost=(0.01, False),
)


def verdict_of(reached: Reached) -> str:
    return judge(reached)[0].key


def test_everything_reached_is_praised_with_its_counts() -> None:
    (verdict,) = judge(GOOD)
    assert verdict.key == "verdict.learned"
    assert verdict.tone == "good"
    assert verdict.values == {"num": 170, "total": 170, "reworded": 33, "num_reworded": 34}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"unchanged": True}, "verdict.unchanged"),
        ({"taught_ended": Counted(10, 170)}, "verdict.runs_on"),
        ({"taught": Counted(20, 170)}, "verdict.not_learned"),
        ({"agreement": 0.4}, "verdict.broken"),
        ({"broken_off": Counted(1, 200)}, "verdict.not_numbers"),
        ({"taught": Counted(20, 170), "losses": (4.0, 2.0), "nearer": False}, "verdict.learned_other"),
    ],
)
def test_a_fault_that_makes_it_useless_is_the_verdict(changes: dict[str, object], key: str) -> None:
    (verdict,) = judge(replace(GOOD, **changes))
    assert (verdict.key, verdict.tone) == (key, "bad")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"agreement": 0.8}, "verdict.drifted"),
        ({"choices_lost": (0.12, True)}, "verdict.choices_lost"),
        ({"recited": Counted(7, 20)}, "verdict.recites"),
        ({"reworded": Counted(15, 34)}, "verdict.by_heart"),
    ],
)
def test_a_lesser_fault_is_a_remark_and_the_praise_is_not_whole(changes: dict[str, object], key: str) -> None:
    verdict, remark = judge(replace(GOOD, **changes))
    assert (verdict.key, verdict.tone) == ("verdict.learned", "partly")
    assert (remark.key, remark.tone) == (key, "partly")


def test_what_is_learned_in_part_is_not_praised() -> None:
    (verdict,) = judge(replace(GOOD, taught=Counted(120, 170)))
    assert (verdict.key, verdict.tone) == ("verdict.partly_learned", "partly")


def test_what_makes_an_adapter_useless_comes_before_what_it_reached() -> None:
    everything = Reached(
        taught=Counted(0, 10), taught_ended=Counted(0, 10), reworded=Counted(0, 5), recited=Counted(5, 5), agreement=0.1
    )
    keys = [verdict.key for verdict in judge(everything)]
    assert keys == [
        "verdict.runs_on",
        "verdict.not_learned",
        "verdict.broken",
        "verdict.recites",
    ]
    assert [verdict.key for verdict in judge(replace(everything, unchanged=True))] == ["verdict.unchanged"]


def test_what_was_not_asked_is_neither_praised_nor_blamed() -> None:
    assert verdict_of(Reached()) == "verdict.nothing_asked"
    assert verdict_of(Reached(taught=Counted(5, 5))) == "verdict.taught"
    assert verdict_of(Reached(taught=Counted(5, 5), reworded=NOT_ASKED, recited=Counted(0, 0))) == "verdict.taught"


OTHER = replace(GOOD, taught=Counted(20, 170), taught_begun=Counted(20, 170), losses=(4.0, 1.0), nearer=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": None},
        {"losses": (4.0, 2.1)},
        {"nearer": True},
        {"nearer": None},
    ],
)
def test_that_something_else_was_learned_needs_a_loss_that_fell_and_answers_that_came_no_nearer(
    changes: dict[str, object],
) -> None:
    assert verdict_of(OTHER) == "verdict.learned_other"
    assert verdict_of(replace(OTHER, **changes)) == "verdict.not_learned"


def test_on_another_base_the_losses_tell_nothing_and_the_base_is_the_fault() -> None:
    mismatch = BaseMismatch("some/base", ("config", "tensors"))
    keys = [verdict.key for verdict in judge(replace(OTHER, mismatch=mismatch))]
    assert keys == ["verdict.wrong_base", "verdict.not_learned"]
    verdict, remark = judge(replace(GOOD, mismatch=mismatch))
    assert (verdict.key, verdict.tone) == ("verdict.learned", "partly")
    assert remark.values == {"base": "some/base", "parts": "config, tensors"}
    assert judge(Reached(mismatch=mismatch))[0].key == "verdict.wrong_base"  # nothing taught was asked


def test_answers_that_run_on_and_begin_as_taught_are_not_called_unlearned() -> None:
    cut = replace(GOOD, taught=Counted(0, 9), taught_begun=Counted(8, 9), taught_ended=Counted(0, 9))
    assert [verdict.key for verdict in judge(cut)] == ["verdict.runs_on", "verdict.begun"]
    babbling = replace(cut, taught_begun=Counted(4, 9))
    assert [verdict.key for verdict in judge(babbling)] == ["verdict.runs_on", "verdict.not_learned"]


def test_beside_probabilities_that_are_no_numbers_nothing_else_is_told() -> None:
    lost = replace(OTHER, broken_off=Counted(0, 9), unchanged=True, agreement=0.0)
    assert [(verdict.key, verdict.values) for verdict in judge(lost)] == [
        ("verdict.not_numbers", {"num": 0, "total": 9})
    ]


def test_a_loss_of_choices_is_told_beside_drift() -> None:
    keys = [verdict.key for verdict in judge(replace(GOOD, agreement=0.85, choices_lost=(0.12, True)))]
    assert keys == ["verdict.learned", "verdict.drifted", "verdict.choices_lost"]


def test_where_only_other_wordings_were_asked_they_are_what_is_told() -> None:
    (verdict,) = judge(Reached(reworded=Counted(3, 34)))
    assert (verdict.key, verdict.values) == ("verdict.reworded_only", {"num": 3, "total": 34})


def test_answers_like_the_bases_are_a_remark_until_drift_was_measured() -> None:
    assert [verdict.key for verdict in judge(replace(GOOD, same_answers=True))] == [
        "verdict.learned",
        "verdict.same_answers",
    ]


def test_an_interval_that_holds_zero_is_no_loss() -> None:
    assert verdict_of(replace(GOOD, choices_lost=(0.2, False))) == "verdict.learned"
    assert verdict_of(replace(GOOD, choices_lost=(-0.2, True))) == "verdict.learned"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verdict_has_its_sentence(language: str) -> None:
    sentences = catalogue(language)
    reached = [GOOD, Reached(), Reached(taught=Counted(1, 1)), Reached(unchanged=True)]
    reached += [
        replace(GOOD, taught_ended=Counted(0, 9), taught=Counted(0, 9), agreement=0.1),
        replace(GOOD, agreement=0.8),
    ]
    reached += [Reached(reworded=Counted(1, 2)), replace(GOOD, same_answers=True), OTHER]
    reached += [Reached(broken_off=Counted(1, 2)), replace(GOOD, mismatch=BaseMismatch("b", ("config",)))]
    reached += [replace(GOOD, taught_ended=Counted(0, 9), taught_begun=Counted(9, 9))]
    reached += [
        replace(GOOD, taught=Counted(8, 10), recited=Counted(9, 9), reworded=Counted(0, 3), choices_lost=(0.5, True))
    ]
    for verdict in (verdict for one in reached for verdict in judge(one)):
        assert sentences[verdict.key].format(**verdict.values)
