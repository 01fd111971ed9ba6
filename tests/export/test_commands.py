"""`pangzhu merge` and `pangzhu export`, from words to exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.cli.export import EXPORT_FIELDS, MERGE_FIELDS
from pangzhu.export import update
from tests.export.conftest import NUM_GENERAL, Adapt
from tests.use_helpers import Outcome

pytest_plugins = ["tests.use_fixtures"]

Command = Callable[..., Outcome]


def test_merge_shows_the_gates_table_and_what_to_do_next(adapted: Adapt, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    outcome = command("merge", "--adapter", str(adapted().adapter), "--output_dir", str(folder), "--device", "cpu")
    assert outcome.exit_code == 0, outcome.err
    assert "4/4" in outcome.out
    assert f"pangzhu chat --model_name_or_path {folder}" in " ".join(outcome.out.split())


def test_an_export_that_differs_ends_with_8_and_its_figures(
    adapted: Adapt, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "scale_of", lambda folder: 0.0)
    words = ("merge", "--adapter", str(adapted().adapter), "--output_dir", str(tmp_path / "model"), "--device", "cpu")
    outcome = command(*words, "--json")
    fault = json.loads(outcome.out)["error"]
    assert (outcome.exit_code, fault["key"]) == (8, "error.export.differs")
    assert Path(fault["where"]).is_file()
    assert "mean |Δ log p|" in outcome.err


def test_export_gives_one_json_object(adapted: Adapt, command: Command, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    words = ("export", "gguf", "--adapter", f"law={adapted().adapter}", "--output_dir", str(tmp_path / "gguf"))
    told = json.loads(command(*words, "--json", "--gate_questions", "2").out)
    assert told["ok"] is True
    assert told["files"] == ["law-q8_0.gguf", "parity.json"]
    assert [part["num_questions"] for part in told["parity"]["compared"]] == [2, NUM_GENERAL]
    assert told["parity"]["faults"] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["export", "ggml", "--output_dir", "x", "--adapter", "a"], "gguf, ollama"),
        (["export", "gguf", "--output_dir", "x"], "--adapter"),
        (["export", "gguf", "--output_dir", "x", "--adapter", "a", "--content", "base"], "--content base"),
        (["export", "gguf", "--output_dir", "x", "--adapter", "a", "--base_gguf", "b"], "--content merged"),
        (["merge", "--output_dir", "x", "--adapter", "a", "--adapter", "b"], "2 adapters"),
    ],
)
def test_a_contradiction_is_a_usage_error_that_names_the_flag(command: Command, words: list[str], named: str) -> None:
    outcome = command(*words)
    assert outcome.exit_code == 2
    assert named in outcome.err


def test_the_number_format_of_the_gate_is_no_option() -> None:
    assert "precision" not in {*MERGE_FIELDS, *EXPORT_FIELDS}
