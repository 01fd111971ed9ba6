"""A tiny base and an adapter that has learned its questions, for every family whose GGUF files are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from pangzhu.config import TrainConfig
from pangzhu.export.options import ExportConfig, MergeConfig
from pangzhu.messages import listening
from pangzhu.train import train
from tests.conftest import build_model, build_tokenizer, silently
from tests.use_helpers import ENGLISH, rows_of, write_rows

NUM_GENERAL = 6  # questions in place of 20
MATRIX = ("qwen2", "qwen3", "llama", "mistral", "gemma3")

every_family = pytest.mark.parametrize("family", MATRIX)


@dataclass(frozen=True)
class Adapted:
    """A base folder, bf16, and an adapter on it, float32 as trained and bf16 as published."""

    base: Path
    adapter: Path

    def config(self, output_dir: Path, **options: Any) -> MergeConfig:
        """What merging it needs; few questions of its own, since there are few."""
        return MergeConfig(adapter=(f"law={self.adapter}",), output_dir=output_dir, device="cpu", **options)

    def gguf(self, output_dir: Path, **options: Any) -> ExportConfig:
        """What exporting it as GGUF needs."""
        adapter = () if options.get("content") == "base" else (f"law={self.adapter}",)
        given = {"format": "gguf", "device": "cpu", "model_name_or_path": str(self.base)}
        return ExportConfig(adapter=adapter, output_dir=output_dir, **(given | options))


Adapt = Callable[..., Adapted]


@pytest.fixture(autouse=True)
def _few_and_short(monkeypatch: pytest.MonkeyPatch, one_core: None, tmp_path: Path) -> None:
    """Random models say nothing new in the twentieth answer, nor at its end. What a test locks is in a cache of its own."""
    monkeypatch.setenv("PANGZHU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pangzhu.export.questions.NUM_GENERAL", NUM_GENERAL)
    monkeypatch.setattr("pangzhu.export.parity.LEAST_TOKENS", 16)


def write_base(folder: Path, family: str, **saving: Any) -> Path:
    """The tiny model of a family, stored in bf16."""
    build_model(family).to(torch.bfloat16).save_pretrained(folder, **saving)
    build_tokenizer().save_pretrained(folder)
    return folder


def teach(base: Path, folder: Path, answers: Sequence[str] = ENGLISH, **options: Any) -> Path:
    """An adapter that has learned the questions."""
    return teach_rows(base, folder, rows_of(answers), **options)


def teach_rows(base: Path, folder: Path, rows: Sequence[dict[str, object]], **options: Any) -> Path:
    """An adapter that has learned these rows."""
    given: dict[str, Any] = {
        "r": 64,
        "lora_alpha": 128,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 300,
        "precision": "float32",
        "until_learned": True,
        "save_steps": 1000,
        "logging_steps": 100,
    }
    file = write_rows(folder.with_suffix(".jsonl"), rows)
    config = TrainConfig(model_name_or_path=str(base), dataset_path=file, output_dir=folder, **(given | options))
    with listening(silently), patch("pangzhu.machine.num_physical_cores", lambda: 1):
        result = train(config, on_step=silently)
    assert result.num_learned == len(rows)
    return folder


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapt:
    """Base and adapter of a family, made once."""
    made: dict[tuple[object, ...], Adapted] = {}

    def find(family: str = "qwen2", **options: Any) -> Adapted:
        key = (family, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            base = write_base(folder / "base", family)
            made[key] = Adapted(base, teach(base, folder / "adapter", **options))
        return made[key]

    return find
