"""Whether vLLM takes an adapter is told from its file, by vLLM's own rules."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pangzhu.messages import set_language
from pangzhu.vetting import CONFIG, MOST_RANK, check_config
from pangzhu.vllm import RANKS, REFUSED, vllm_fit
from tests.conftest import build_lora

EMPTY: dict[str, Any] = {"modules_to_save": []}


def write_config(folder: Path, **fields: Any) -> Path:
    """A folder with the adapter_config.json of plain LoRA, and these fields changed."""
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "target_modules": ["q_proj"], "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(plain | fields), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("r", "rank"), [(1, 1), (2, 8), (8, 8), (9, 16), (32, 32), (65, 128), (257, 320), (321, 512), (512, 512)]
)
def test_the_least_rank_that_vllm_knows_and_that_holds_the_adapter_is_named(tmp_path: Path, r: int, rank: int) -> None:
    fit = vllm_fit(write_config(tmp_path, r=r))
    assert (fit.max_lora_rank, fit.refused) == (rank, {})
    assert fit.render().endswith(f"--max-lora-rank {rank}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("bias", None),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("r", RANKS[-1] + 1),
        ("r", MOST_RANK),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_vllm_refuses_is_named_with_its_value_and_the_way_out(
    tmp_path: Path, name: str, value: object, language: Any
) -> None:
    set_language(language)
    fit = vllm_fit(write_config(tmp_path, **{name: value}))
    assert fit.refused == {name: value}
    assert fit.max_lora_rank is None
    assert f"{name}={json.dumps(value)}" in fit.render()
    assert "pangzhu merge" in fit.render()


def test_everything_refused_is_told_at_once(tmp_path: Path) -> None:
    fit = vllm_fit(write_config(tmp_path, r=1000, use_dora=True))
    assert fit.as_json() == {"suits": False, "max_lora_rank": None, "refused": {"r": 1000, "use_dora": True}}


@pytest.mark.parametrize(
    "fields", [EMPTY, {"use_rslora": True}, {"lora_bias": False}, {"modules_to_save": None}, {"use_dora": False}]
)
def test_what_vllm_computes_is_not_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert vllm_fit(write_config(tmp_path, **fields)).as_json() == {"suits": True, "max_lora_rank": 8, "refused": {}}


def test_a_field_that_older_files_lack_is_not_held_against_them(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('{"r": 4}', encoding="utf-8")
    assert vllm_fit(tmp_path).max_lora_rank == 8


@pytest.mark.parametrize(("options", "suits"), [({}, True), ({"use_rslora": True}, True), ({"use_dora": True}, False)])
def test_an_adapter_as_peft_writes_it_is_judged_by_how_it_was_trained(
    tmp_path: Path, options: dict[str, bool], suits: bool
) -> None:
    build_lora(**options).peft_config["default"].save_pretrained(str(tmp_path))
    assert check_config(tmp_path).r == 8
    assert vllm_fit(tmp_path).as_json()["suits"] is suits


def test_every_field_that_counts_is_one_that_peft_writes() -> None:
    assert REFUSED.keys() <= LoraConfig().to_dict().keys()
