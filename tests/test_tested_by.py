"""README's "Tested by": made of what runs counted, and of nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import results
from tests.docs_scripts import docs_script

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).resolve().parents[1]
CRASHES = "crash points, the same command ends with the same bytes"
HERE = {"system": "Linux x86_64", "python": "3.11", "instruction_sets": "avx2"}
THERE = HERE | {"system": "Windows AMD64"}
CONFTEST = """
from pathlib import Path
from tests.counting import Counting

def pytest_configure(config):
    config.pluginmanager.register(Counting(config, Path("counts.json")))
"""
TESTS = """
import pytest
from hypothesis import given, settings, strategies

@pytest.mark.parametrize("step", [2, 1])
def test_states(step, record_property):
    record_property("crash points, nothing harmed", 12 // step)

@pytest.mark.fault("A1", "B2")
@pytest.mark.parametrize("byte", range(3))
def test_damage(byte): ...

@pytest.mark.fault("A1")
def test_fault(): ...

@pytest.mark.fault("B3")
@pytest.mark.skip
def test_skipped(): ...

@pytest.mark.fault("C5")
@settings(max_examples=20, derandomize=True, database=None)
@given(strategies.binary())
def test_inputs(content): ...
"""


def script() -> ModuleType:
    """docs/tested_by.py."""
    return docs_script("tested_by")


def torture(on: dict[str, str], **counts: int) -> dict[str, Any]:
    return {"on": on, "counts": counts}


def fuzz(inputs: int, on: dict[str, str] = HERE) -> dict[str, Any]:
    return {"on": on, "target": "reader", "seeds": [1, 1], "inputs": inputs, "outcomes": {"accepted": inputs}}


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_is_the_generated_one(language: str) -> None:
    page = script().PAGES[language].read_text(encoding="utf-8")
    assert page == script().TABLE.renewed(language), "run: python docs/tested_by.py"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_was_never_run_has_no_column_and_without_runs_there_is_no_table(language: str) -> None:
    assert script().counts_table(language, {"torture": [], "fuzz": []}) == ""
    head, *_ = script().counts_table(language, {"torture": [], "fuzz": [fuzz(1200)]}).splitlines()
    assert head == f"| {script().PLATFORM[language]} | {script().COLUMNS[script().FUZZ_INPUTS][language]} |"


def test_each_platform_has_its_row_and_its_campaigns_are_added_up() -> None:
    runs = {
        "torture": [torture(HERE, **{CRASHES: 1612}), torture(THERE, **{CRASHES: 40})],
        "fuzz": [fuzz(1200), fuzz(1_000_000)],
    }
    assert script().counts_table("en", runs).splitlines() == [
        "| on | crash points | fuzz inputs |",
        "|---|---|---|",
        "| Linux x86_64, Python 3.11, `avx2` | 1,612 | 1,001,200 |",
        "| Windows AMD64, Python 3.11, `avx2` | 40 |  |",
    ]


def test_a_column_is_of_something_that_tests_count() -> None:
    counting = (ROOT / "tests" / "counting.py").read_text(encoding="utf-8")
    recorded = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "torture").glob("*.py"))
    names = [name for name in script().COLUMNS if name != script().FUZZ_INPUTS]
    assert [name for name in names if f'"{name}"' not in counting + recorded] == []
    assert script().RESULTS == results.RESULTS


# --- the counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_cases_are_added_up_and_of_states_the_most_counts(words: tuple[str, ...], tmp_path: Path) -> None:
    assert counted(tmp_path, TESTS, *words) == {
        "cases of damaged files": 3,
        "cases of faults": 5,
        "crash points, nothing harmed": 12,
        "hypothesis cases": 20,
    }


def test_a_run_in_which_a_test_fails_counts_for_nothing(tmp_path: Path) -> None:
    assert counted(tmp_path, TESTS + "\ndef test_broken(): assert False\n") is None


def counted(folder: Path, tests: str, *words: str) -> dict[str, int] | None:
    """What a suite's run writes, or None where it writes nothing."""
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_it.py").write_text(tests, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  fault\n", encoding="utf-8")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "xdist",
            "-p",
            "hypothesispytest",
            "-p",
            "no:cacheprovider",
            *words,
        ],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    file = folder / "counts.json"
    if not file.exists():
        return None
    (run,) = json.loads(file.read_text(encoding="utf-8"))["torture"]
    counts: dict[str, int] = run["counts"]
    return counts


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_later_run_on_the_same_platform_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results.keep_torture({CRASHES: 10}, file)
    results.keep_torture({CRASHES: 9}, file)
    assert [run["counts"] for run in json.loads(file.read_text())["torture"]] == [{CRASHES: 9}]


@pytest.mark.parametrize(
    ("campaigns", "kept"),
    [
        ([("reader", 1, 2000), ("reader", 3, 500)], [2000, 500]),
        ([("reader", 1, 2000), ("weights", 1, 500)], [2000, 500]),
        ([("reader", 1, 2000), ("reader", 2, 500)], [2000]),
        ([("reader", 1, 500), ("reader", 1, 2000)], [2000]),
        ([("reader", 1, 500), ("reader", 2, 500), ("reader", 1, 2000)], [2000]),
    ],
)
def test_the_same_inputs_are_counted_once(
    campaigns: list[tuple[str, int, int]], kept: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    for target, seed, num in campaigns:
        results.keep_campaign(target, {"accepted": num}, seeds=range(seed, seed + -(-num // 1000)), file=file)
    assert [run["inputs"] for run in json.loads(file.read_text())["fuzz"]] == kept


def test_a_campaign_writes_what_it_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import campaign

    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["campaign", "prompt", "--num", "30", "--seed", "5", "--results", str(file)])
    campaign.main()
    (run,) = json.loads(file.read_text())["fuzz"]
    assert (run["target"], run["seeds"], run["inputs"]) == ("prompt", [5, 5], sum(run["outcomes"].values()))
    assert run["inputs"] >= 30


def test_what_is_kept_names_no_path_no_host_and_no_time() -> None:
    kept = results.RESULTS.read_text(encoding="utf-8")
    assert not re.search(r"/|\\|\d{4}-\d{2}|:\d{2}", kept)
    for run in [run for runs in json.loads(kept).values() for run in runs]:
        assert run["on"].keys() == HERE.keys()
