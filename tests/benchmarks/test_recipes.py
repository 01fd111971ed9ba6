"""Recipes are made of the shipped rows, asked development questions alone, and told as they came out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import recipes
from benchmarks.recipes import RECIPES, Recipe, num_recited, rows_beside, table, taught_rows
from pangzhu.compare import ComparedRow, Comparison
from pangzhu.data import load_dataset
from pangzhu.engines import Answer
from pangzhu.examples import example
from pangzhu.messages import LANGUAGES, Language
from tests.conftest import conversation


@pytest.mark.parametrize("wordings", [1, 3, 5])
def test_every_fact_is_taught_in_as_many_wordings_as_asked_for(wordings: int) -> None:
    counts = Counter(row["fact"] for row in taught_rows(wordings))
    assert len(counts) == 34
    assert set(counts.values()) == {wordings}


def test_declined_rows_lie_beside_every_fact_before_a_second_one_does() -> None:
    first = rows_beside(Recipe(declined=34))
    second = rows_beside(Recipe(declined=68))[34:]
    assert len({row["near"] for row in first}) == len({row["near"] for row in second}) == 34
    assert not {row["instruction"] for row in first} & {row["instruction"] for row in second}
    assert sum("near" not in row for row in rows_beside(Recipe(declined=98))) == 30


def test_a_recipe_without_rows_beside_has_none() -> None:
    assert rows_beside(Recipe()) == []
    assert [bool(row["output"]) for row in rows_beside(Recipe(held=3, declined=1))] == [False] * 3 + [True]


def test_law_questions_that_are_held_are_those_that_others_decline() -> None:
    held, declined = rows_beside(Recipe(held_law=68)), rows_beside(Recipe(declined=68))
    assert [row["instruction"] for row in held] == [row["instruction"] for row in declined]
    assert {row["output"] for row in held} == {""}


def test_recipes_differ_and_ask_for_no_more_rows_than_there_are() -> None:
    assert len(set(RECIPES)) == len(RECIPES)
    for recipe in RECIPES:
        assert len(rows_beside(recipe)) == recipe.held + recipe.held_law + recipe.declined
        assert len(taught_rows(recipe.wordings)) == 34 * recipe.wordings


def test_an_answer_is_recited_where_it_is_a_taught_facts() -> None:
    taught = [conversation("q1", "one."), conversation("q2", "two.")]
    rows = [("one.", True), ("one", True), ("neither", True)]  # what was taught, to the letter
    answered = Comparison(
        ("law",),
        "base",
        tuple(ComparedRow("u", "x", "untaught", None, {"law": Answer(text, (), ended)}) for text, ended in rows),
    )
    assert num_recited(answered, taught) == 1


def test_every_taught_answer_stands_among_the_development_rows() -> None:
    rows = load_dataset(example("law_eval.json")).conversations
    known = {row.answer for row in rows if row.field("split") == "dev" and row.field("kind") == "reworded"}
    assert known == {row["output"] for row in taught_rows(5)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_tells_a_recipe_and_what_came_of_it(language: Language) -> None:
    row = {name: str(value) for name, value in asdict(Recipe(held=40)).items()}
    row |= {"tokens": "12345", "num_rows": "170", "num_learned": "168", "weakened_to": "0.85"}
    row |= {"num_reworded": "34", "num_right": "30", "num_untaught": "20", "num_recited": "7", "agreement": "0.664"}
    *_, line = table([row], language).splitlines()
    assert line == "| 5 | 40 | 0 | 5.0 | 0 | 0.0006 | 5 | 3.0 | 12,345 | 168/170 | 85% | 30/34 | 7/20 | 66% |"


def test_a_run_asks_development_questions_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(
        recipes, "measure", lambda _engine, _name, rows: asked.extend(r.field("split") for r in rows) or [_Exact]
    )
    monkeypatch.setattr(
        recipes, "ask", lambda _engine, rows, *_, **__: asked.extend(r.field("split") for r in rows) or _Nothing
    )
    monkeypatch.setattr(recipes, "measure_drift", lambda *_: [_Drift])
    found = recipes._asked(None)  # type: ignore[arg-type]
    assert Counter(asked) == {"dev": 34 + 20}
    assert found["num_untaught"] == 20


class _Exact:
    num_rows = 34
    num_exact = 30


class _Nothing:
    rows = ()


class _Drift:
    class agreement:  # noqa: N801
        value = 0.9
