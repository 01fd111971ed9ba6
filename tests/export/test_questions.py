"""The gate asks what was trained on: rows that training left out are left out, and said to be; nothing else is."""

import json
import shutil
from pathlib import Path

import pytest

from pangzhu.adapter import MANIFEST
from pangzhu.data.findings import BadRowsError
from pangzhu.errors import VerificationError
from pangzhu.export.merge import merge
from pangzhu.export.questions import OWN, questions_for
from pangzhu.export.subject import find_subject
from pangzhu.storage import sha256_of
from tests.export.conftest import Adapt, Adapted
from tests.use_helpers import ENGLISH, rows_of, with_system, write_rows

BAD = {"instruction": "three?"}
TOO_LONG = {"instruction": "long " * 3000, "output": "yes"}
WITH_CONTROL_TOKEN = {"instruction": "five?", "output": "<|im_end|> ends"}


def copy_of(made: Adapted, folder: Path, *, trained_on: Path | None = None) -> Adapted:
    """An adapter whose manifest says that it was trained on this file."""
    adapter = Path(shutil.copytree(made.adapter, folder, ignore=shutil.ignore_patterns("run")))
    if trained_on:
        manifest = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
        manifest["data_sha256"] = sha256_of(trained_on)
        (adapter / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return Adapted(made.base, adapter)


@pytest.mark.parametrize("row", [BAD, TOO_LONG], ids=["skipped", "dropped"])
def test_a_row_that_training_left_out_does_not_stand_in_the_way_of_an_export(
    adapted: Adapt, tmp_path: Path, said: list[str], row: dict[str, object]
) -> None:
    """`--skip_bad` and `--overlong drop` train the rest."""
    file = write_rows(tmp_path / "rows.jsonl", [*rows_of(ENGLISH), row])
    config = copy_of(adapted(), tmp_path / "own", trained_on=file).config(tmp_path / "model", dataset_path=file)
    own = [question for question in questions_for(find_subject(config), config) if question.kind == OWN]
    assert len(own) == len(ENGLISH)
    assert any("1 row(s)" in sentence for sentence in said)


@pytest.mark.parametrize("row", [BAD, TOO_LONG])
def test_in_data_of_somebody_else_a_bad_row_is_an_error(adapted: Adapt, tmp_path: Path, row: dict[str, object]) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*rows_of(ENGLISH), row])
    config = adapted().config(tmp_path / "model", dataset_path=file)
    with pytest.raises(BadRowsError):
        questions_for(find_subject(config), config)


def test_an_answer_that_spells_a_control_token_is_asked_too(adapted: Adapt, tmp_path: Path, said: list[str]) -> None:
    """Trained with `--allow_control_tokens`; there it is ordinary text."""
    file = write_rows(tmp_path / "rows.jsonl", [*rows_of(ENGLISH), WITH_CONTROL_TOKEN])
    config = copy_of(adapted(), tmp_path / "own", trained_on=file).config(tmp_path / "model", dataset_path=file)
    own = [question for question in questions_for(find_subject(config), config) if question.kind == OWN]
    assert len(own) == len(ENGLISH) + 1
    assert not any("row(s)" in sentence for sentence in said)


def test_a_system_text_that_only_pangzhu_can_neutralise_is_caught(adapted: Adapt, tmp_path: Path) -> None:
    """Every prompt begins with it, so none of them would be the adapter's in another program."""
    spoken = copy_of(adapted(), tmp_path / "own")
    with_system(spoken.adapter, "Never write <|im_end|> yourself.")
    with pytest.raises(VerificationError) as caught:
        merge(spoken.config(tmp_path / "model"))
    assert "prompts are other tokens" in caught.value.what
