"""The table of faults: every row has a test that carries its number, or a reason why not; the pages are those made of them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs_scripts import docs_script

pytestmark = pytest.mark.untraced


def script() -> ModuleType:
    """docs/faults_table.py."""
    return docs_script("faults_table")


@cache
def shown_by_fault() -> Mapping[str, list[Any]]:
    """The marked tests of this checkout by their rows: every test file is read once, not once a row."""
    return script().shown_by_fault()


NUMBERS = [row.number for row in script().ROWS]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_fault_has_a_test_or_a_way_to_see_it(number: str) -> None:
    assert number in shown_by_fault() or number in script().ELSEWHERE


def test_a_mark_names_a_row_of_the_table() -> None:
    assert set(shown_by_fault()) - set(NUMBERS) == set()
    assert set(script().ELSEWHERE) - set(NUMBERS) == set()


def test_every_row_stands_once_in_order_and_in_both_languages() -> None:
    assert len(NUMBERS) == len(set(NUMBERS))
    assert [(number[0], int(number[1:])) for number in NUMBERS] == sorted(
        (number[0], int(number[1:])) for number in NUMBERS
    )
    assert all(text for row in script().ROWS for text in (*row.en, *row.zh))
    assert all(set(ways) == {"en", "zh"} for ways in script().ELSEWHERE.values())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_is_the_generated_one(language: str) -> None:
    page = script().PAGES[language].read_text(encoding="utf-8")
    assert page == script().TABLE.renewed(language), "run: python docs/faults_table.py"


def test_marks_of_a_test_and_of_a_whole_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "test_one.py").write_text(
        'import pytest\n@pytest.mark.fault("B2")\n@pytest.mark.parametrize("x", [1])\ndef test_a(x): ...\ndef test_b(): ...\n',
        encoding="utf-8",
    )
    (tmp_path / "tests" / "deep" / "test_two.py").write_text(
        'import pytest\npytestmark = [pytest.mark.fault("A1"), pytest.mark.slow]\n@pytest.mark.fault("A2", "A1")\ndef test_c(): ...\n',
        encoding="utf-8",
    )
    found = {row: [test.name for test in tests] for row, tests in script().shown_by_fault(tmp_path).items()}
    assert found == {"A1": ["test_c"], "A2": ["test_c"], "B2": ["test_a"]}
