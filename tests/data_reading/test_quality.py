"""Rows that training accepts and that are worth a look: each is warned of once, by its line, and good rows are not."""

from pathlib import Path

import pytest

from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.data.quality import CONTRADICTION, EXACT, NEAR, OVERLAP, PHONE, RowWarning, find_repeats, find_warnings
from pangzhu.examples import example
from tests.conftest import conversation

ANSWER = "没签书面劳动合同的，从用工超过一个月起到满一年之前，单位应当每月付给员工二倍的工资。"


def rows(*texts: tuple[str, ...]) -> list[Conversation]:
    return [conversation(*turns, line=line) for line, turns in enumerate(texts, start=1)]


def lines(warnings: tuple[RowWarning, ...]) -> list[tuple[str, int | None, int | None]]:
    return [(found.key, found.location.line, found.other and found.other.line) for found in warnings]


def test_good_rows_give_no_warning() -> None:
    found = rows(("What is LoRA?", "An adapter."), ("What is SFT?", "Fine-tuning."), ("Who are you?", "An adapter."))
    assert find_warnings(found) == ()


@pytest.mark.parametrize("name", ["instruct_tiny.jsonl", "law_data.json"])
def test_the_packaged_data_gives_no_warning(name: str) -> None:
    assert [str(warning) for warning in find_warnings(load_dataset(example(name)).conversations)] == []


@pytest.mark.fault("C10")
def test_a_row_again_is_an_exact_duplicate_of_the_first() -> None:
    assert lines(find_warnings(rows(("q", "a"), ("q", "a"), ("q", "a")))) == [(EXACT, 2, 1), (EXACT, 3, 1)]


@pytest.mark.fault("C10")
def test_a_row_that_differs_by_accident_is_a_near_duplicate() -> None:
    assert lines(find_warnings(rows(("What is LoRA?", "An adapter."), ("what is ＬｏＲＡ", "an adapter")))) == [
        (NEAR, 2, 1)
    ]


def test_a_slip_in_question_and_answer_makes_a_near_duplicate() -> None:
    question = "用人单位不签书面劳动合同，劳动者可以要求单位承担什么样的法律责任？"
    again = (question.replace("什么样的", "什么样"), ANSWER.replace("员工", "职工"))
    assert lines(find_warnings(rows((question, ANSWER), again))) == [(NEAR, 2, 1)]


def test_another_wording_of_a_question_is_no_duplicate() -> None:
    assert (
        find_warnings(rows(("不签合同要赔多少？", ANSWER), ("我入职半年没签劳动合同，能要双倍工资吗？", ANSWER))) == ()
    )


def test_like_questions_with_other_answers_are_no_duplicates() -> None:
    assert find_warnings(rows(("Translate into French: dog", "chien"), ("Translate into French: dig", "creuser"))) == ()


@pytest.mark.fault("C10")
def test_another_answer_to_the_same_question_is_a_contradiction_and_is_listed_once() -> None:
    found = rows(
        ("离婚冷静期多少天？", "三十日。"), ("离婚冷静期多少天", "六十日。"), ("离婚冷静期多少天？", "六十日。")
    )
    assert lines(find_warnings(found)) == [(NEAR, 3, 2), (CONTRADICTION, 2, 1)]


def test_the_same_question_after_other_turns_is_another_question() -> None:
    assert find_warnings(rows(("hi", "hello", "and you?", "fine"), ("bye", "so long", "and you?", "sad"))) == ()


def test_the_same_question_under_another_system_text_is_another_question() -> None:
    pirate, poet = (conversation("Who are you?", answer, system=answer) for answer in ("A pirate.", "A poet."))
    assert find_warnings([pirate, poet]) == ()


@pytest.mark.fault("C10")
def test_rows_that_ask_what_the_evaluation_asks_are_named_with_its_line() -> None:
    asked = [
        conversation("什么是合同法？", line=4),
        conversation("How long is the probation period of a contract?", line=9),
    ]
    found = rows(
        ("别的问题", "a"),
        ("什么是 合同法", "b"),
        ("how long is the probation periods of a contract", "c"),
        ("hi", "hello", "什么是合同法？", "d"),
    )
    assert lines(find_warnings(found, asked)) == [(OVERLAP, 2, 4), (OVERLAP, 3, 9), (OVERLAP, 4, 4)]


@pytest.mark.fault("C10")
def test_personal_data_is_warned_of_once_a_row_wherever_it_stands() -> None:
    found = find_warnings([conversation("call 13800138000", "I called 13900139000", system="boss: 13700137000")])
    assert [(warning.key, warning.shown) for warning in found] == [(PHONE, "137******00")]
    assert "13700137000" not in str(found[0])


def test_a_row_that_asks_first_is_a_first() -> None:
    are_first = find_repeats(rows(("q", "a"), ("q", "a"), ("q", "b"), ("r", "a"))).are_first
    assert are_first == [True, False, False, True]


def test_warnings_stand_by_kind_and_then_by_row() -> None:
    found = find_warnings(rows(("q", "13800138000"), ("q", "x"), ("r", "y"), ("r", "y"), ("s", "13800138000")))
    assert lines(found) == [(EXACT, 4, 3), (CONTRADICTION, 2, 1), (PHONE, 1, None), (PHONE, 5, None)]


def test_a_warning_says_its_place_and_the_other_one(tmp_path: Path) -> None:
    [warning] = find_warnings(rows(("q", "a"), ("q", "a")))
    assert str(warning) == "rows.jsonl:2: see rows.jsonl:1"
