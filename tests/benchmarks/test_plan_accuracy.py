"""Planned beside taken: the table says what the raw figures say, in both languages."""

from typing import get_args

import pytest

from benchmarks.plan_accuracy import FIELDS, NUM_ROWS, PAGES, table
from benchmarks.workloads import WORKLOADS
from pangzhu.messages import Language

ROW = dict.fromkeys(FIELDS, "") | {
    "model": "packaged:tiny",
    "workload": "mixed",
    "rows": "1000",
    "steps": "20",
    "precision": "bf16",
    "planned_seconds": "66.0",
    "seconds": "60.0",
    "planned_peak": "1500000000",
    "peak": "1600000000",
    "plan_seconds": "12.0",
}


def test_planned_stands_beside_taken_with_their_ratio() -> None:
    assert table([ROW]).splitlines()[2] == (
        "| tiny (bf16) | 1000 mixed | 20 | 1.1 | 1.0 | 1.10 | 1.50 GB | 1.60 GB | 0.94 | 12 s |"
    )


@pytest.mark.parametrize("language", get_args(Language))
def test_the_table_has_as_many_columns_in_each_line(language: Language) -> None:
    assert len({line.count("|") for line in table([ROW], language).splitlines()}) == 1


def test_every_dataset_is_a_workload_and_every_page_has_the_place_for_the_table() -> None:
    assert set(NUM_ROWS) <= set(WORKLOADS)
    for page in PAGES.values():
        content = page.read_text(encoding="utf-8")
        assert content.count("<!-- plan:start -->") == content.count("<!-- plan-screen:start -->") == 1
