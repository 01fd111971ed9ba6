"""The rules of SECURITY.md: each names its tests, and those that are about the source as a whole stand here."""

import ast
import re
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import pangzhu
from pangzhu import cli
from pangzhu.cli import options
from pangzhu.config import TrainConfig
from pangzhu.errors import UsageError
from pangzhu.trainer import training_arguments

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(pangzhu.__file__).parent
PAGES = [ROOT / "SECURITY.md", ROOT / "SECURITY.zh-CN.md"]
RULE = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(test_\w+)`")
LEAST_VERSIONS = {"torch": "2.6", "transformers": "5.3"}  # earlier ones load pickles or code where they should not
FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def named_by(page: Path) -> dict[int, list[str]]:
    """The tests that a page names, by rule."""
    rules = RULE.findall(page.read_text(encoding="utf-8"))
    return {int(number): TEST.findall(tests) for number, _, tests in rules}


def names_of_tests() -> set[str]:
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = set(TEST.findall(page.read_text(encoding="utf-8")))
    assert len(named) > 30
    assert named - names_of_tests() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_of_the_fifteen_rules_has_a_test(page: Path) -> None:
    found = named_by(page)
    assert list(found) == list(range(1, 16))
    assert all(found.values())


def test_both_languages_name_the_same_tests() -> None:
    assert named_by(PAGES[0]) == named_by(PAGES[1])


@pytest.mark.fault("B7")
def test_no_option_lets_a_model_run_code() -> None:
    """Neither by a flag of its own nor by a field in a YAML file, which has the same names."""
    for name, (module, function) in cli.VERBS.items():
        verb = getattr(import_module(f"pangzhu.cli.{module}"), function)
        for word in ("--trust_remote_code", "--trust-remote-code", "--use_kernels", "--custom_generate"):
            with pytest.raises(UsageError):
                options.parse(verb, [word])
        assert not any(re.search("trust|remote|kernel", field) for field in verb.fields), name


def test_the_libraries_are_at_least_those_without_known_holes() -> None:
    needed = {need.name: need.specifier for need in map(Requirement, requires("pangzhu") or [])}
    for name, least in LEAST_VERSIONS.items():
        floors = [Version(bound.version) for bound in needed[name] if bound.operator == ">="]
        assert floors
        assert max(floors) >= Version(least)


def source_files() -> list[Path]:
    return [*sorted(SOURCE.rglob("*.py")), *sorted((ROOT / "src" / "finetune").glob("*.py"))]


@pytest.mark.parametrize("file", source_files(), ids=lambda file: file.name)
def test_no_shell_no_eval_and_no_pickle_in_the_source(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call.func) for call in calls if ast.unparse(call.func) in FORBIDDEN_CALLS] == []
    keywords = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    assert "shell" not in keywords
    trusting = [call for call in calls for word in call.keywords if word.arg == "trust_remote_code"]
    values = [word.value for call in trusting for word in call.keywords if word.arg == "trust_remote_code"]
    assert all(isinstance(value, ast.Constant) and value.value is False for value in values)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & FORBIDDEN_MODULES == set()


@pytest.mark.parametrize(("asked", "told"), [((), []), (("tensorboard",), ["tensorboard"])])
def test_training_reports_to_nobody_but_whom_it_was_asked_to(asked: tuple[Any, ...], told: list[str]) -> None:
    """Trainer by itself would send figures to any service whose package happens to be installed."""
    config = TrainConfig(output_dir=Path("out"), report_to=asked)
    assert training_arguments(config, 10, on_cpu=True).report_to == told
