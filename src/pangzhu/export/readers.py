"""How a model is asked by the parity gate: what it writes greedily, and the log-probabilities of a given answer.

A `Reader` names what is to be asked and loads it; a `Voice` is what was loaded. Here stand the adapter itself, on its base,
and a merged folder, both by transformers in float32. One teacher-forced pass over an answer gives its log-probabilities,
and mostly tells what greedy decoding writes too: where each token leads by a margin, it writes this answer.

Left to others: GGUF files (`pangzhu.export.llamacpp`), what is made of the figures (`pangzhu.export.parity`).
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pangzhu.config import Device, GenerationOptions, ModelOptions
from pangzhu.data.conversation import Location, Turn
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine, load_engine
from pangzhu.own_words import as_example
from pangzhu.plan import MAX_TOKEN_BUDGET

if TYPE_CHECKING:
    from pangzhu.batching import MicroBatch
    from pangzhu.export.subject import Subject
    from pangzhu.fast.path import FastPath

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A given answer to one question.

    Args:
        log_probs: of each of its tokens, nats; None where nothing is told of one.
        certain: each token leads every other one by a margin, so that greedy decoding writes this answer.
    """

    log_probs: tuple[float | None, ...]
    certain: bool


class Voice(Protocol):
    """A loaded model that can be asked."""

    @property
    def tied(self) -> bool:
        """Whether one matrix is both embeddings."""

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """A conversation as ids, ready to be answered, by the model's own tokenizer and template."""

    def write(self, prompts: Sequence[Ids], options: GenerationOptions) -> list[Ids]:
        """Greedy answers; with the end-of-turn token where they ended."""

    def score(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Scored]:
        """What is thought of given answers, none of them empty."""


class Reader(Protocol):
    """What is to be asked."""

    @property
    def title(self) -> str:
        """What it is, for a reader."""

    def opened(self, device: Device) -> AbstractContextManager[Voice]:
        """Loaded as long as the block lasts."""


class EngineVoice:
    """A model in transformers' engine.

    Args:
        engine: the model.
        name: the base, or one of its adapters.
    """

    def __init__(self, engine: TransformersEngine, name: str) -> None:
        self._engine = engine
        self._name = name

    @property
    def tied(self) -> bool:
        """Whether one matrix is both embeddings."""
        model = self._engine.model
        return model.get_input_embeddings().weight is model.get_output_embeddings().weight

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """By the engine's contract: of a merged folder it is what tokenizer and template say."""
        return tuple(self._engine.prompt(turns, self._name))

    def write(self, prompts: Sequence[Ids], options: GenerationOptions) -> list[Ids]:
        """In batches of like length."""
        if not prompts:
            return []
        end = self._engine.contract(self._name).end_of_turn_id
        answers = dict(self._engine.generate_many(prompts, self._name, options))
        found = (answers[number] for number in range(len(prompts)))
        return [(*answer.token_ids, *([end] if answer.ended else [])) for answer in found]

    def score(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Scored]:
        """One teacher-forced pass."""
        import torch

        from pangzhu.batching import lay_end_to_end
        from pangzhu.fast.path import FastPath
        from pangzhu.fast.techniques import Techniques
        from pangzhu.step import split_rows

        rows = [as_example(*pair, NOWHERE) for pair in zip(prompts, answers, strict=True)]
        if not rows:
            return []
        fast = FastPath(self._engine.model, Techniques(), longest=max(len(row.input_ids) for row in rows))
        scored: dict[int, Scored] = {}
        with self._engine.using(self._name), torch.no_grad():
            for piece in split_rows(lay_end_to_end(list(enumerate(rows))), MAX_TOKEN_BUDGET, fast):
                scored |= self._score(piece, fast)
        return [scored[number] for number in range(len(rows))]

    def _score(self, piece: "MicroBatch", fast: "FastPath") -> dict[int, Scored]:
        from pangzhu.step import LEARNED_MARGIN, predict_rows

        here = piece.to(self._engine.model.device)
        found = predict_rows(self._engine.model, here, fast)
        scores = fast.scores(found.hidden, found.targets)
        scored = {}
        for number, index in enumerate(here.row_indices):
            own = found.row_numbers == number
            certain = bool((scores.leads[own] > LEARNED_MARGIN).all())
            scored[index] = Scored(tuple((-scores.losses[own]).tolist()), certain)
        return scored


NOWHERE = Location(Path(), None, 0)  # of what stands in no file


@dataclass(frozen=True, slots=True)
class FolderReader:
    """A model folder."""

    folder: Path
    title: str

    @contextmanager
    def opened(self, device: Device) -> Iterator[Voice]:
        """The folder as transformers loads it."""
        with _loaded(self.folder, (), device) as engine:
            yield EngineVoice(engine, BASE)


@contextmanager
def reference(subject: "Subject", device: Device) -> Iterator[Voice]:
    """The adapter beside its base, or the base where there is none, in float32: what an export is held against."""
    adapters = (f"{subject.adapter.name}={subject.adapter.folder}",) if subject.adapter else ()
    with _loaded(subject.base.source.folder, adapters, device) as engine:
        yield EngineVoice(engine, engine.first_name)


@contextmanager
def _loaded(folder: Path, adapters: Sequence[str], device: Device) -> Iterator[TransformersEngine]:
    """An engine that is gone from memory after the block: the next model needs the room."""
    options = ModelOptions(model_name_or_path=str(folder), device=device, precision="float32")
    engine = load_engine(options, adapters)
    try:
        yield engine
    finally:
        del engine
        gc.collect()
