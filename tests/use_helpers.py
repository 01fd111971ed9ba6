"""Questions, answers, and small adapters that know them, for the tests of what is done with an adapter."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from pangzhu.adapter import MANIFEST, PROMPT
from pangzhu.config import GenerationOptions, ModelOptions, TrainConfig
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, Engine
from pangzhu.engines.transformers import TransformersEngine, load_engine
from pangzhu.fast.path import FastPath
from pangzhu.messages import listening
from pangzhu.train import train

QUESTIONS = ("one?", "two?", "three?", "four?")
ENGLISH = ("answer 11.", "answer 22.", "answer 33.", "answer 44.")
CHINESE = ("法律😀。", "合同。", "是的！", "不行")
GREEDY = GenerationOptions(max_new_tokens=24)
SPLIT_TEXTS = (  # whose characters are of several bytes, code points or both
    "法律、合同。",
    "𠮷野家の牛丼",
    "😀!",
    "👨\u200d👩\u200d👧\u200d👦 family",
    "👩🏽\u200d🚀👍🏿",
    "🇨🇳🇩🇪",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "❤\ufe0f\u200d🔥 1\ufe0f\u20e3",
    "e\u0301 a\u0308\u0323 क\u094dषि",
    "\u1112\u1161\u11ab 각",
    "שָׁלוֹם عَرَبِيّ",
    "𝄞 plain , 's text .",
)


@dataclass(frozen=True)
class Trained:
    """A base folder and two adapters on it."""

    base: Path
    english: Path
    chinese: Path

    def engine(self, *adapters: str) -> TransformersEngine:
        """The base, and adapters as `--adapter` would name them."""
        return load(self.base, *adapters)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str


def load(base: Path, *adapters: str, allow_base_mismatch: bool = False) -> TransformersEngine:
    """Base and adapters in float32, in silence."""
    options = ModelOptions(model_name_or_path=str(base), precision="float32")
    with listening(lambda _sentence: None):
        return load_engine(options, adapters, allow_base_mismatch=allow_base_mismatch)


def rows_of(answers: Sequence[str], **fields: str) -> list[dict[str, object]]:
    """The questions with these answers, alpaca."""
    return [
        {"instruction": question, "output": answer, **fields}
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ]


def write_rows(file: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def train_tiny(base: Path, folder: Path, answers: Sequence[str]) -> Path:
    """An adapter that has learned the questions with these answers. One thread: two wait for each other here."""
    config = TrainConfig(
        model_name_or_path=str(base),
        dataset_path=write_rows(folder.with_suffix(".jsonl"), rows_of(answers)),
        output_dir=folder,
        r=64,
        lora_alpha=128,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        num_train_epochs=200,
        precision="float32",
        until_learned=True,
        save_steps=1000,
        logging_steps=100,
    )
    with listening(lambda _sentence: None), patch("pangzhu.machine.num_physical_cores", lambda: 1):
        result = train(config)
    assert result.num_learned == len(answers)
    return folder


def ask(engine: Engine, name: str, question: str, options: GenerationOptions = GREEDY) -> Answer:
    """One question to one model."""
    return engine.generate(engine.prompt([Turn("user", question)], name), name, options)


def vouch_for(adapter: Path, name: str) -> None:
    """Let an adapter's manifest promise a file as it is now, as whoever spoilt it on purpose would."""
    manifest = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = hashlib.sha256((adapter / name).read_bytes()).hexdigest()
    (adapter / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def with_system(adapter: Path, system: str) -> Path:
    """Give an adapter's prompt contract a system text, as if it had been trained with it."""
    contract = json.loads((adapter / PROMPT).read_text(encoding="utf-8"))
    (adapter / PROMPT).write_text(json.dumps(contract | {"system": system}), encoding="utf-8")
    vouch_for(adapter, PROMPT)
    return adapter


class Told:
    """What was said, to be used with `listening`."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def watch_places(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of places that go through the head together, filled as they do."""
    places: list[int] = []
    logits = FastPath.logits

    def watched(self: FastPath, hidden: torch.Tensor) -> torch.Tensor:
        places.append(hidden.shape[0])
        return logits(self, hidden)

    monkeypatch.setattr(FastPath, "logits", watched)
    return places
