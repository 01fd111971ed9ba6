"""The account of the errors that tests raise: what counts, what does not, and who is judged by it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.errors_raised import SOURCE, TOLD, error_classes, keys, places

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
from tests.errors_raised import ErrorsRaised

def pytest_configure(config):
    config.pluginmanager.register(ErrorsRaised(config, lambda: (set(), {keys})))
"""
TEST = """
from pathlib import Path
import pytest
from pangzhu import gate
from pangzhu.config import DoctorConfig, load_config
from pangzhu.data.line_file import LineFile, changed
from pangzhu.errors import DataError, UsageError
from pangzhu.intervals import Share

@pytest.mark.real
def test_it():
    {body}
"""
UNREADABLE, CHANGED, FELL_SHORT = "error.config.unreadable", "error.data.changed", "error.gate.fell_short"
RAISES = "with pytest.raises(UsageError): load_config(DoctorConfig, {}, config_file=Path('none.yaml'))"
RETURNED_AND_RAISED = "with pytest.raises(DataError): next(LineFile(Path(__file__), 'UTF-8', '', 0, (0, 0)).lines())"
TOLD_BESIDE = "gate.report(gate.find_shortfalls({'taught': 1.0}, [Share('m', 'taught', 0, 1)], base=''))"


def suite(folder: Path, keys: set[str], *bodies: str) -> Path:
    """A suite that is to raise these errors, a file for each of its tests."""
    (folder / "tests").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers =\n  real\n", encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST.format(keys=keys), encoding="utf-8")
    for number, body in enumerate(bodies):
        (folder / "tests" / f"test_{number}.py").write_text(TEST.format(body=body), encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(SOURCE.parent)])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "no:cacheprovider", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


def test_an_error_counts_that_is_raised_or_returned_to_be_raised_or_told(tmp_path: Path) -> None:
    done = run(suite(tmp_path, {UNREADABLE, CHANGED, FELL_SHORT}, RAISES, RETURNED_AND_RAISED, TOLD_BESIDE))
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_an_error_that_only_the_tests_make_or_raise_does_not_count(tmp_path: Path) -> None:
    bodies = [
        f"UsageError('{UNREADABLE}')",
        f"with pytest.raises(UsageError): raise UsageError('{UNREADABLE}')",
        "changed(Path('rows.jsonl'))",
        "with pytest.raises(DataError): raise changed(Path('rows.jsonl'))",
    ]
    done = run(suite(tmp_path, {UNREADABLE, CHANGED}, *bodies))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "errors that no test raises" in done.stdout
    assert {UNREADABLE, CHANGED} <= set(done.stdout.splitlines())


@pytest.mark.parametrize("words", [(), ("-m", "not real")])
def test_what_several_workers_raised_is_put_together(words: tuple[str, ...], tmp_path: Path) -> None:
    folder = suite(tmp_path, {UNREADABLE, CHANGED}, RAISES, RETURNED_AND_RAISED)
    (folder / "tests" / "test_plain.py").write_text("def test_it(): pass\n", encoding="utf-8")
    done = run(folder, "-n", "2", "--dist", "loadfile", *words)
    assert done.returncode == (pytest.ExitCode.TESTS_FAILED if words else pytest.ExitCode.OK), done.stdout


@pytest.mark.parametrize("words", [["tests/test_0.py"], ["-k", "it"], ["-m", "real"]])
def test_a_part_of_the_suite_is_not_judged(words: list[str], tmp_path: Path) -> None:
    done = run(suite(tmp_path, {UNREADABLE}, "pass", "pass"), *words)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_where_a_test_fails_that_is_what_is_told(tmp_path: Path) -> None:
    done = run(suite(tmp_path, {UNREADABLE}, "assert False"))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "errors that no test raises" not in done.stdout


def test_places_are_the_calls_of_the_error_and_of_its_descendants(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text(
        "class MineError(UsageError): ...\nclass UsageError(errors.PangzhuError): ...\nraise MineError('k')\n",
        encoding="utf-8",
    )
    (tmp_path / "b.py").write_text(
        "class LateError(MineError):\n    def f(self):\n        super().__init__('k')\n        return OSError('k')\n\n"
        "raise errors.UsageError(\n    'k'\n) from LateError('k')\n",
        encoding="utf-8",
    )
    assert places(tmp_path) == {("deep/a.py", 3), ("b.py", 6), ("b.py", 8)}


def test_keys_are_those_of_errors_without_layout_and_remedies() -> None:
    assert {UNREADABLE, CHANGED, FELL_SHORT} <= keys()
    assert not {"error.what", "error.nearest", f"{CHANGED}.fix", "finding.empty_answer"} & keys()


def test_no_place_is_let_off_that_makes_no_error() -> None:
    assert TOLD.keys() <= {file for file, _ in places()}


def renames_an_error(node: ast.AST) -> bool:
    if isinstance(node, ast.alias):
        return node.asname is not None and node.name in error_classes()
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in error_classes()


def test_no_error_goes_by_another_name_by_which_its_places_would_not_be_found() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8"), str(file)) for file in SOURCE.rglob("*.py")]
    assert not any(renames_an_error(node) for tree in trees for node in ast.walk(tree))
