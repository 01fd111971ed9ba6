"""Rows left out with `--skip_bad` are not lost: training goes on without them, and a file beside the record lists each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.data.findings import TooManyBadRowsError
from pangzhu.train import REJECTED, train
from tests.conftest import silently, train_config

pytestmark = [pytest.mark.fault("C4"), pytest.mark.usefixtures("one_core")]
GOOD = json.dumps({"instruction": "q", "output": "a"}) + "\n"
BAD = '{"instruction": "q" "output": "a"}\n'


def test_rows_left_out_of_a_training_are_kept_in_a_file_with_line_reason_and_remedy(
    model_folder: Callable[[str], Path], tmp_path: Path, said: list[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(GOOD * 60 + BAD + GOOD * 60, encoding="utf-8")
    train(train_config(model_folder("qwen2"), rows, tmp_path / "out", skip_bad=True, max_steps=1), on_step=silently)
    kept = tmp_path / "out" / "run" / REJECTED
    assert kept.read_text(encoding="utf-8").startswith(f"{rows}:61: ")
    assert "→" in kept.read_text(encoding="utf-8")
    assert any(str(kept) in sentence for sentence in said)


def test_two_bad_rows_of_a_hundred_and_twenty_are_too_many(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(BAD + GOOD * 118 + BAD, encoding="utf-8")
    with pytest.raises(TooManyBadRowsError):
        train(train_config(model_folder("qwen2"), rows, tmp_path / "out", skip_bad=True), on_step=silently)
    assert not (tmp_path / "out" / "run").exists()
