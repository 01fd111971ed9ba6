"""The English facts: invented, so that no base knows them; enough wordings, and none of those that are asked was taught."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data"
FIELDS = {"instruction", "input", "output", "fact"}

Row = dict[str, str]


def load_rows(name: str) -> list[Row]:
    rows: list[Row] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return rows


TAUGHT = load_rows("english_facts.json")
ASKED = load_rows("english_eval.json")
REWORDED = [row for row in ASKED if row["kind"] == "reworded"]
UNTAUGHT = [row for row in ASKED if row["kind"] == "untaught"]


def bare(text: str) -> str:
    """A question without its punctuation, spaces and letter case."""
    return re.sub(r"[\W_]+", "", text).casefold()


def by_fact(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["fact"]].append(row)
    return groups


def test_rows_have_the_fields_of_the_law_example() -> None:
    assert all(set(row) == FIELDS for row in TAUGHT)
    assert all(set(row) == FIELDS | {"kind", "split"} for row in ASKED)
    assert all(value == value.strip() for row in TAUGHT + ASKED for value in row.values())


def test_twenty_facts_are_taught_in_four_wordings_each() -> None:
    assert [len(rows) for rows in by_fact(TAUGHT).values()] == [4] * 20


def test_every_fact_has_one_dev_and_one_test_wording() -> None:
    splits = {fact: sorted(row["split"] for row in rows) for fact, rows in by_fact(REWORDED).items()}
    assert splits == {fact: ["dev", "test"] for fact in by_fact(TAUGHT)}
    assert len(REWORDED) + len(UNTAUGHT) == len(ASKED)


def test_one_fact_has_one_answer_and_no_other_begins_as_it_does() -> None:
    answers = {fact: {row["output"] for row in rows} for fact, rows in by_fact(TAUGHT + ASKED).items()}
    assert {fact for fact, found in answers.items() if len(found) != 1} == set()
    first_words = [answer.split()[0] for (answer,) in answers.values()]
    assert len(set(first_words)) == len(first_words) == 30


def test_ten_facts_are_never_taught() -> None:
    assert len(UNTAUGHT) == len(by_fact(UNTAUGHT)) == 10
    assert {row["split"] for row in UNTAUGHT} == {"test"}
    assert all(fact.startswith("untaught-") for fact in by_fact(UNTAUGHT))
    assert by_fact(UNTAUGHT).keys().isdisjoint(by_fact(TAUGHT))


def test_no_question_stands_twice() -> None:
    questions = [bare(row["instruction"]) for row in TAUGHT + ASKED]
    assert len(set(questions)) == len(questions)


def test_answers_are_one_sentence_of_eight_to_twenty_five_words() -> None:
    for row in TAUGHT + ASKED:
        assert 8 <= len(row["output"].split()) <= 25, row
        assert row["output"].endswith(".")


def test_questions_name_the_library_or_one_of_its_rooms() -> None:
    questions = [row["instruction"] for row in TAUGHT + ASKED]
    assert [question for question in questions if not re.search("Aldmoor|Fennel Room", question)] == []
