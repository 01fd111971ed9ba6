"""The model card says which base, which settings, what was reached, in the user's language."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pangzhu.adapter import BaseRecord
from pangzhu.card import model_card
from pangzhu.config import TrainConfig
from pangzhu.messages import set_language
from pangzhu.model import BaseFingerprint

RESULT: dict[str, Any] = {"num_learned": 5, "num_rows": 6, "num_steps": 36, "train_loss": 0.125, "output_dir": "x"}
BASE = BaseRecord("models/mine", "Qwen/Qwen2.5-0.5B-Instruct", None, BaseFingerprint("c", "t", "k"))


def card(output_dir: Path = Path("law-lora"), base: BaseRecord = BASE, **result: Any) -> str:
    return model_card(TrainConfig(output_dir=output_dir, learning_rate=0.003), base, RESULT | result)


def test_the_front_matter_is_what_model_hubs_read() -> None:
    _, front, _ = card().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "library_name": "peft",
        "tags": ["lora", "pangzhu"],
    }


def test_a_base_without_public_id_is_named_as_the_user_named_it() -> None:
    local = BaseRecord("models/mine", None, None, BASE.fingerprint)
    assert yaml.safe_load(card(base=local).split("---\n", 2)[1])["base_model"] == "models/mine"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_settings_and_results_stand_in_the_card_in_both_languages(language: Any) -> None:
    set_language(language)
    text = card()
    assert "| learning_rate | 0.003 |" in text
    assert "| r | 8 |" in text
    assert "36" in text
    assert "0.125" in text
    assert 'PeftModel.from_pretrained(base, "law-lora")' in text


def test_a_folder_called_by_a_dot_is_named_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f'from_pretrained(base, "{tmp_path.name}")' in card(Path())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_was_validated_stands_in_the_table_of_results(language: Any) -> None:
    set_language(language)
    validated = {"published_step": 12, "validation_loss": 0.75, "validation_learned": 3, "num_validation_rows": 4}
    text = card(**validated)
    assert "| 0.125 |\n| " in text
    assert [line.split(" | ")[1] for line in text.splitlines() if line.endswith((" 12 |", " 0.75 |"))] == [
        "12 |",
        "0.75 |",
    ]
    assert "0.75" not in card(published_step=None, validation_loss=None)
    assert len(card().splitlines()) == len(text.splitlines()) - 3
