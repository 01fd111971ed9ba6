"""What is trained beside the law facts: everyday questions, which the base answers itself; and what recipes try beside them,
questions of law that are declined in one honest sentence."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from pangzhu.data import load_dataset
from pangzhu.examples import example
from tests.test_law_data import bare, by_fact, evaluation, law_rows, taught

Row = dict[str, str]

FIELDS = {"instruction", "input", "output", "kind"}
NEAR = "near"  # beside a taught fact: the same words, another question of law; names the fact
DECLINED = Path(__file__).parent.parent / "benchmarks" / "data" / "law_declined.json"
FAR_APART = 0.3  # as much as two questions may resemble each other that have nothing to do with one another


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
def everyday() -> tuple[Row, ...]:
    return tuple(read_rows(example("law_replay.json")))


@cache
def declined() -> tuple[Row, ...]:
    return tuple(read_rows(DECLINED))


@cache
def near_rows() -> tuple[Row, ...]:
    return tuple(row for row in declined() if NEAR in row)


def pairs(text: str) -> set[str]:
    """Each two neighbouring characters of a question."""
    return {first + second for first, second in zip(folded(text), folded(text)[1:], strict=False)}


def resemblance(one: str, other: str) -> float:
    """The share of their neighbouring characters that two questions have in common."""
    return len(pairs(one) & pairs(other)) / len(pairs(one) | pairs(other))


def closest(question: str, known: list[str]) -> float:
    return max(resemblance(question, other) for other in known)


def test_a_hundred_everyday_questions_wait_for_the_bases_own_words() -> None:
    read = load_dataset(example("law_replay.json"), require_answer=False).conversations
    assert len(read) == 100
    assert [row for row in read if row.answer is not None] == []


def test_everyday_questions_are_in_both_languages_from_the_first_ones_on() -> None:
    """A recipe may take the first of them alone."""
    for part in (everyday()[:10], everyday()):
        english = sum(not re.search(r"[\u4e00-\u9fff]", row["instruction"]) for row in part)
        assert len(part) / 5 <= english <= len(part) / 2


def test_rows_have_exactly_their_fields_and_a_near_one_its_fact() -> None:
    for row in everyday():
        assert set(row) == {"instruction", "input", "output"}
    for row in declined():
        assert set(row) == FIELDS | ({NEAR} if row in near_rows() else set())
    assert all(value == value.strip() for row in (*everyday(), *declined()) for value in row.values())


@pytest.mark.parametrize("name", ["law_data.json", "law_eval.json", "instruct_tiny.jsonl"])
def test_no_question_beside_the_facts_is_asked_elsewhere(name: str) -> None:
    beside = [folded(row["instruction"] + row["input"]) for row in (*everyday(), *declined())]
    assert len(set(beside)) == len(beside)
    assert set(beside).isdisjoint(questions(name))


def test_every_declined_question_gets_the_same_honest_answer() -> None:
    (answer,) = {row["output"] for row in declined()}
    assert 30 <= len(answer) <= 45
    assert "不在我学过的内容里" in answer
    assert "律师" in answer
    assert "《" not in answer
    assert not [row.answer for row in law_rows() if row.answer[:4] == answer[:4]]


def test_every_taught_fact_has_exactly_two_near_rows() -> None:
    assert Counter(row[NEAR] for row in near_rows()) == dict.fromkeys(by_fact(taught()), 2)


def test_declined_questions_resemble_no_question_of_the_evaluation() -> None:
    asked = [row.question for row in evaluation("reworded") + evaluation("untaught")]
    assert [row for row in declined() if closest(row["instruction"], asked) > FAR_APART] == []


def test_declined_questions_resemble_no_taught_fact_but_the_one_they_stand_beside() -> None:
    for row in declined():
        others = [known.question for known in taught() if known.fact != row.get(NEAR)]
        assert closest(row["instruction"], others) <= FAR_APART, row


def test_near_rows_resemble_their_own_fact_the_most_but_no_more_than_its_wordings_do_each_other() -> None:
    groups = by_fact(taught())
    reworded = [(one.question, other.question) for same in groups.values() for one, other in combinations(same, 2)]
    limit = max(resemblance(one, other) for one, other in reworded)
    for row in near_rows():
        own = closest(row["instruction"], [known.question for known in groups[row[NEAR]]])
        others = [known.question for known in taught() if known.fact != row[NEAR]]
        assert closest(row["instruction"], others) < own <= limit, row


def test_no_two_declined_questions_resemble_each_other() -> None:
    asked = [row["instruction"] for row in declined()]
    assert [pair for pair in combinations(asked, 2) if resemblance(*pair) > FAR_APART] == []


def test_declined_questions_are_asked_as_the_taught_ones_are() -> None:
    asked = [row["instruction"] for row in declined()]
    known = [row.question for row in taught()]
    assert min(map(len, known)) <= min(map(len, asked))
    assert max(map(len, asked)) <= max(map(len, known))
    for shape in (r"[^？]$", r"^我", r"吗？$", r"(多少|什么|哪些|怎么|多久|几)"):
        assert sum(bool(re.search(shape, question)) for question in asked) >= 5, shape
