"""What is trained beside the law facts: everyday instructions, and questions of law that are declined in one honest sentence."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from pangzhu.data import load_dataset
from pangzhu.examples import example
from tests.test_law_data import bare, law_rows, taught

Row = dict[str, str]

FIELDS = {"instruction", "input", "output", "kind"}
LABEL_ALONE = "只回答"  # such an instruction is answered with one of the labels that it names


def folded(text: str) -> str:
    """A question as it is compared: full-width forms, letter case, punctuation and white space set aside."""
    return bare(unicodedata.normalize("NFKC", text).casefold())


def read_rows(file: Path) -> list[Row]:
    """The rows of a JSON list, or of JSON lines."""
    text = file.read_text(encoding="utf-8")
    rows: list[Row] = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return rows


def questions(name: str) -> list[str]:
    """Every question of an example file, with its input, folded."""
    return [folded(row["instruction"] + row.get("input", "")) for row in read_rows(example(name))]


@cache
def rows(kind: str) -> tuple[Row, ...]:
    return tuple(row for row in read_rows(example("law_replay.json")) if row["kind"] == kind)


def pairs(text: str) -> set[str]:
    """Each two neighbouring characters of a question."""
    return {first + second for first, second in zip(folded(text), folded(text)[1:], strict=False)}


def resemblance(one: str, other: str) -> float:
    """The share of their neighbouring characters that two questions have in common."""
    return len(pairs(one) & pairs(other)) / len(pairs(one) | pairs(other))


def test_forty_everyday_rows_and_thirty_declined_ones_stand_beside_the_law_facts() -> None:
    assert (len(rows("replay")), len(rows("boundary"))) == (40, 30)
    assert len(load_dataset(example("law_replay.json")).conversations) == 70


def test_every_row_has_exactly_the_four_fields() -> None:
    for row in (*rows("replay"), *rows("boundary")):
        assert set(row) == FIELDS
        assert all(value == value.strip() for value in row.values()), row


@pytest.mark.parametrize("name", ["law_data.json", "law_eval.json", "instruct_tiny.jsonl"])
def test_no_question_of_the_replay_is_asked_elsewhere(name: str) -> None:
    replayed = questions("law_replay.json")
    assert len(set(replayed)) == len(replayed)
    assert set(replayed).isdisjoint(questions(name))


def test_replay_answers_are_short_and_labels_stand_alone() -> None:
    for row in rows("replay"):
        if LABEL_ALONE in row["instruction"]:
            named = (f"“{row['output']}”", f"\n{row['output']}. ")
            assert any(label in row["instruction"] for label in named), row
        else:
            assert 5 <= len(row["output"]) <= 80, row


def test_replay_answers_that_should_be_json_are() -> None:
    wanted = [row for row in rows("replay") if "JSON" in row["instruction"]]
    assert len(wanted) == 3
    assert all(json.loads(row["output"]) for row in wanted)


def test_sums_of_the_replay_are_right() -> None:
    sums = [found for row in rows("replay") for found in re.findall(r"(\d+) ([-+×÷]) (\d+) = (\d+)(%?)", row["output"])]
    assert len(sums) >= 6
    for left, sign, right, result, percent in sums:
        values = {"+": int(left) + int(right), "-": int(left) - int(right), "×": int(left) * int(right)}
        value = int(left) / int(right) if sign == "÷" else values[sign]
        assert value * (100 if percent else 1) == int(result), (left, sign, right, result)


def test_every_declined_question_gets_the_same_honest_answer() -> None:
    (answer,) = {row["output"] for row in rows("boundary")}
    assert 30 <= len(answer) <= 45
    assert "不在我学过的内容里" in answer
    assert "律师" in answer
    assert "《" not in answer
    assert not [row.answer for row in law_rows() if row.answer[:4] == answer[:4]]


def test_declined_questions_resemble_no_fact_of_the_law_example() -> None:
    declined = [row["instruction"] for row in rows("boundary")]
    close = [(one, row.question) for one in declined for row in law_rows() if resemblance(one, row.question) > 0.3]
    assert close == []


def test_declined_questions_are_asked_as_the_taught_ones_are() -> None:
    declined = [row["instruction"] for row in rows("boundary")]
    known = [row.question for row in taught()]
    assert min(map(len, known)) <= min(map(len, declined))
    assert max(map(len, declined)) <= max(map(len, known))
    for shape in (r"[^？]$", r"^我", r"吗？$", r"(多少|什么|哪些|怎么|多久|几)"):
        assert sum(bool(re.search(shape, question)) for question in declined) >= 5, shape
