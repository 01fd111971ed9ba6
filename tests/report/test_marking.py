"""The pieces of a marked answer put both texts together again."""

from __future__ import annotations

import pytest

from pangzhu.report.marking import mark_differences

PAIRS = [
    ("试用期至多六个月。", "试用期至多三个月。"),
    ("same", "same"),
    ("", "something"),
    ("something", ""),
    ("", ""),
    ("abcabc", "xabcaybc"),
    ("依据《民法典》第十九条。", "依据《劳动法》第十九条，第二十条。"),
    ("a" * 500, "b" * 500),
]


@pytest.mark.parametrize(("expected", "answer"), PAIRS)
def test_without_what_is_missing_it_is_the_answer_and_without_what_was_added_the_expected_text(
    expected: str, answer: str
) -> None:
    pieces = mark_differences(expected, answer)
    assert "".join(piece.text for piece in pieces if piece.mark != "missing") == answer
    assert "".join(piece.text for piece in pieces if piece.mark != "added") == expected
    assert all(piece.text for piece in pieces)


def test_equal_texts_have_nothing_to_mark() -> None:
    (piece,) = mark_differences("民法典", "民法典")
    assert piece.mark == "same"


def test_one_other_character_is_marked_alone() -> None:
    marks = [(piece.text, piece.mark) for piece in mark_differences("至多六个月", "至多三个月")]
    assert marks == [("至多", "same"), ("六", "missing"), ("三", "added"), ("个月", "same")]
