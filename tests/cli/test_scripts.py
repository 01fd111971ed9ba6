"""The course's scripts: the lesson's, which take nothing, and the two of src/finetune, which are verbs by another name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pangzhu.cli import run_script
from pangzhu.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
LESSON = REPOSITORY / "第18_19周"


def test_a_script_that_ends_well_gives_0() -> None:
    assert run_script(lambda: None, []) == 0


def test_a_script_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(lambda: None, ["--max_steps", "3"]) == 2
    assert "--max_steps 3" in capsys.readouterr().err


def test_a_fault_in_a_script_is_told_as_a_verb_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DataError("error.data.no_rows", where="rows.json")

    assert run_script(fail, ["--lang", "zh"]) == 3
    assert capsys.readouterr().err.startswith("错误：")


@pytest.mark.parametrize(("script", "verb"), [("train_lora.py", "train"), ("infer_lora.py", "chat")])
def test_the_finetune_scripts_are_a_verb_under_the_courses_name(script: str, verb: str) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "src/finetune" / script, "--help", "--lang", "en"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"pangzhu {verb}" in done.stdout


@pytest.mark.parametrize("script", ["src/finetune/train_lora.py", "src/finetune/infer_lora.py"])
def test_the_finetune_scripts_are_a_path_line_and_one_call(script: str) -> None:
    tree = ast.parse((REPOSITORY / script).read_text(encoding="utf-8"))
    statements = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) == 3  # docstring, path, call


@pytest.mark.parametrize("name", ["MODEL", "MAX_LENGTH", "PER_DEVICE_TRAIN_BATCH_SIZE", "LORA_R", "LORA_ALPHA"])
def test_the_lessons_constants_stand_at_its_head(name: str) -> None:
    tree = ast.parse((LESSON / "train_lora.py").read_text(encoding="utf-8"))
    constants = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
    assert name in constants


def test_the_lesson_and_the_demo_teach_by_the_same_recipe() -> None:
    from pangzhu.demo import LEARNING_RATE, NUM_EPOCHS, ROWS_PER_STEP

    tree = ast.parse((LESSON / "train_lora.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert values["LEARNING_RATE"] == LEARNING_RATE
    assert values["PER_DEVICE_TRAIN_BATCH_SIZE"] == ROWS_PER_STEP
    assert values["NUM_TRAIN_EPOCHS"] == NUM_EPOCHS
