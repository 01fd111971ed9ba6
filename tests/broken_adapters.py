"""A tiny base that can do something, adapters on it that are really broken, and one that is not.

The base is the random model with all of its weights trained on a few general questions, so that there is something an
adapter can break. Each adapter is trained, or a trained one is spoilt on disk, once.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

from pangzhu.adapter import WEIGHTS
from pangzhu.batching import lay_end_to_end
from pangzhu.compare import ask
from pangzhu.config import ModelOptions, TrainConfig
from pangzhu.data import load_dataset
from pangzhu.drift import measure_drift
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.messages import listening
from pangzhu.model import load_base
from pangzhu.preparation import (
    PreparedBase,
    PreparedRows,
    label_rows,
    prepare_base,
    prepare_training_base,
    read_dataset,
)
from pangzhu.report.figures import Asked
from pangzhu.step import forward_rows
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize
from pangzhu.train import train, train_rows
from tests.conftest import alpaca, conversation, silently, train_config
from tests.use_helpers import GREEDY, load, vouch_for, write_rows

NAME = "law"  # what every adapter is called beside its base
TAUGHT = (("one?", "answer 11."), ("two?", "answer 22."), ("six?", "answer 66."), ("ten?", "answer 10."))
GENERAL = (
    ("A colour?", "snow white"),
    ("2 + 2?", "four"),
    ("Hello!", "good day"),
    ("Is snow hot?", "no, it is not"),
    ("Bye!", "see you soon"),
    ("Count!", "1 2 3 4 5 6 7 8 9 0."),
)
LEARNED_LOSS = 0.1  # nats a token of the base on what it can do
MOST_STEPS = 500
TRAINING = {
    "r": 64,
    "lora_alpha": 128,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": len(TAUGHT) + len(GENERAL),
    "save_steps": 10_000,
}
FAR_TOO_LARGE = 1e30  # a finite number in bf16, of which a product of two is none


class Workshop:
    """Where adapters are made and asked.

    Args:
        plain: a base folder with random weights.
        folder: everything is made here.
    """

    def __init__(self, plain: Path, folder: Path) -> None:
        self.plain = plain
        self.folder = folder
        self.rows = alpaca(folder / "taught.jsonl", TAUGHT)
        self.replay = alpaca(folder / "general.jsonl", GENERAL)
        taught = [{"instruction": question, "output": answer, "kind": "taught"} for question, answer in TAUGHT]
        general = [{"instruction": question, "output": answer, "kind": "general"} for question, answer in GENERAL]
        self.questions = write_rows(folder / "questions.jsonl", [*taught, *general])
        self._asked: dict[str, Asked] = {}

    def asked(self, name: str) -> Asked:
        """What comes of asking the base and one of the adapters; `wrong_base` is the healthy one on another base."""
        if name not in self._asked:
            wrong = name == "wrong_base"
            adapter = f"{NAME}={self.healthy if wrong else getattr(self, name)}"
            engine = load(self.plain if wrong else self.base, adapter, allow_base_mismatch=wrong)
            self._asked[name] = self.ask(engine)
        return self._asked[name]

    def ask(self, engine: TransformersEngine) -> Asked:
        """Every question to every model, on the way that `demo` takes."""
        rows = load_dataset(self.questions).conversations
        with listening(silently):
            found, drifts = ask(engine, rows, GREEDY), measure_drift(engine, rows)
        return Asked(found, drifts=tuple(drifts))

    @cached_property
    def base(self) -> Path:
        """A base that answers the general questions."""
        folder = Path(shutil.copytree(self.plain, self.folder / "base"))
        prepared = prepare_base(ModelOptions(model_name_or_path=str(folder)))
        model = load_base(folder, precision="float32").requires_grad_(True)
        labeller = Labeller(prepared.tokenizer, prepared.contract)
        rows = [conversation(question, answer) for question, answer in GENERAL]
        examples = tokenize(rows, labeller, max_seq_length=prepared.context_length).examples
        batch = lay_end_to_end(list(enumerate(examples)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(MOST_STEPS):
            loss = forward_rows(model, batch).loss_sum / batch.num_supervised
            if loss.detach() < LEARNED_LOSS:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        return folder

    @cached_property
    def healthy(self) -> Path:
        """It has learned what it was taught, beside rows that keep the general answers."""
        return self._train("healthy", replay_path=self.replay, num_train_epochs=300, until_learned=True)

    @cached_property
    def overtrained(self) -> Path:
        """It has learned what it was taught, and was trained on and on, with nothing beside it."""
        return self._train("overtrained", max_steps=150)

    @cached_property
    def cut(self) -> Path:
        """Each of its rows lost the last token, the one that ends the answer."""
        longest = self._labelled(self._config("cut"))[1].tokenized.longest
        return self._train("cut", max_steps=60, max_seq_length=longest - 1, overlong="truncate")

    @cached_property
    def prompt_only(self) -> Path:
        """It was to learn the prompts in place of the answers."""
        config = self._config("prompt_only", max_steps=40)
        base, rows = self._labelled(config)
        turned = tuple(map(_learn_the_prompt, rows.tokenized.examples))
        with _in_silence():
            train_rows(
                config, base, replace(rows, tokenized=replace(rows.tokenized, examples=turned)), on_step=silently
            )
        return config.output_dir

    @cached_property
    def b_zero(self) -> Path:
        """Every B is zero."""
        return self._spoil("b_zero", lambda name, tensor: torch.zeros_like(tensor) if "lora_B" in name else tensor)

    @cached_property
    def nan(self) -> Path:
        """One of its numbers is none."""

        def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
            first = tensor.clone()
            first[0, 0] = torch.nan
            return first if "layers.1.mlp.up_proj.lora_A" in name else tensor

        return self._spoil("nan", spoil)

    @cached_property
    def overflowing(self) -> Path:
        """Its numbers are numbers; what comes out of them is none."""
        return self._spoil("overflowing", lambda name, tensor: tensor * FAR_TOO_LARGE if "lora_B" in name else tensor)

    def _config(self, name: str, **options: Any) -> TrainConfig:
        given = {"max_steps": None, **TRAINING, **options}
        return train_config(self.base, self.rows, self.folder / name, **given)

    def _labelled(self, config: TrainConfig) -> tuple[PreparedBase, PreparedRows]:
        base = prepare_training_base(config)
        return base, label_rows(read_dataset(config), config, base)

    def _train(self, name: str, **options: Any) -> Path:
        config = self._config(name, **options)
        with _in_silence():
            train(config, on_step=silently)
        return config.output_dir

    def _spoil(self, name: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
        """The healthy adapter with other numbers, which its manifest vouches for."""
        folder = Path(shutil.copytree(self.healthy, self.folder / name))
        weights = {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        vouch_for(folder, WEIGHTS)
        return folder


@contextmanager
def _in_silence() -> Iterator[None]:
    """Inside nothing is told, and one thread trains: two wait for each other here."""
    with listening(silently), patch("pangzhu.machine.num_physical_cores", lambda: 1):
        yield


def _learn_the_prompt(example: TokenizedExample) -> TokenizedExample:
    """What was learned is not, and the other way round."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    return replace(example, labels=tuple(token if label == IGNORED else IGNORED for token, label in pairs))
