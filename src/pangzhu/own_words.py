"""The base's own words: what it answers before anything is taught, as rows that are trained beside the dataset.

A replay row without an answer asks for them. They show the adapter where the base is to stay as it is, and cost nobody's
writing; an answer written by hand would teach another manner instead. Only the beginning of an answer is taken. Such a row is
held to the base: its loss is the divergence of the adapter's distributions from the base's (`pangzhu.step`), so that what has
not moved costs nothing, and words the base was unsure of are not learned by heart.

The words depend on base, prompt and number format alone, so they are made once and kept in the cache.
Left to others: which rows ask for them (`pangzhu.preparation`), the words themselves (`pangzhu.engines`).
"""

import gc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import machine, storage
from pangzhu.batching import lay_end_to_end
from pangzhu.config import GenerationOptions, TrainConfig
from pangzhu.decisions import bound_caches, choose_precision
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import DataError
from pangzhu.measured_rows import joined_rows
from pangzhu.messages import say
from pangzhu.model import base_fingerprint, load_base
from pangzhu.preparation import PreparedBase, PreparedRows, decide_device, max_seq_length
from pangzhu.sources.cache import cache_root, disk_errors
from pangzhu.step import NOTHING_HELD, HeldToBase, predict_rows, split_rows
from pangzhu.tokenization import IGNORED, TokenizedDataset, TokenizedExample

if TYPE_CHECKING:
    from peft import PeftModel

    from pangzhu.data.conversation import Conversation, Location
    from pangzhu.fast.path import FastPath

BEGINNING = GenerationOptions(max_new_tokens=32)  # of an answer: docs/decisions.md
Ids = tuple[int, ...]


def add_own_words(rows: PreparedRows, config: TrainConfig, base: PreparedBase) -> PreparedRows:
    """The rows, and behind them those whose answers are the base's own words.

    Args:
        rows: labelled; their replay rows without an answer are asked.
        config: limits, number format and device of the run.
        base: who is asked.

    Raises:
        DataError: a question is longer than a row may be.
    """
    replay = rows.dataset.replay
    asked = [row for row in replay.conversations if row.answer is None] if replay else []
    if not asked:
        return rows
    prompts = _prompts(asked, config, base)
    bound_caches(config, rows)
    answers = _kept_or_made(prompts, config, base)
    limit = max_seq_length(config, base)
    own = [
        as_example(prompt, answer[: limit - len(prompt)], row.location)
        for prompt, answer, row in zip(prompts, answers, asked, strict=True)
    ]
    tokenized = rows.tokenized
    joined = replace(
        tokenized,
        examples=joined_rows((tokenized.examples, tuple(own))),
        num_replay=tokenized.num_replay + len(own),
        num_held=len(own),
    )
    return replace(rows, tokenized=joined)


def hold_to_base(
    model: "PeftModel", tokenized: TokenizedDataset, *, weight: float, token_budget: int, fast: "FastPath | None"
) -> HeldToBase:
    """The base's states on its own words: one pass before training.

    Args:
        model: base with its adapter, which is switched off for the pass.
        tokenized: all rows.
        weight: of a token's divergence beside a learned token's loss.
        token_budget: most tokens of a micro-batch.
        fast: the model's fast path.
    """
    import torch

    first = len(tokenized.examples) - tokenized.num_held
    rows = list(enumerate(tokenized.examples[first:], start=first))
    states: dict[int, torch.Tensor] = {}
    if not rows:
        return NOTHING_HELD
    say("replay.holding", num=len(rows))
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        for piece in split_rows(lay_end_to_end(rows), token_budget, fast):
            found = predict_rows(model, piece.to(model.device), fast)
            for number, index in enumerate(piece.row_indices):
                states[index] = found.hidden[found.row_numbers == number].clone()
    return HeldToBase(states, weight)


def answers_of_base(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> list[Ids]:
    """What the base answers, greedily; with the end-of-turn token where it ended by itself."""
    answers = dict(engine.generate_many(prompts, BASE, options))
    end = engine.contract(BASE).end_of_turn_id
    found = (answers[number] for number in range(len(prompts)))
    return [(*answer.token_ids, *([end] if answer.ended else [])) for answer in found]


def as_example(prompt: Sequence[int], answer: Sequence[int], location: "Location") -> TokenizedExample:
    """A row whose answer, all of it, is supervised."""
    return TokenizedExample((*prompt, *answer), (*[IGNORED] * len(prompt), *answer), location)


def _prompts(asked: "Sequence[Conversation]", config: TrainConfig, base: PreparedBase) -> list[list[int]]:
    from pangzhu.template import render

    limit = max_seq_length(config, base)
    prompts = [render(base.tokenizer, base.contract, row.prompt, add_generation_prompt=True) for row in asked]
    for row, prompt in zip(asked, prompts, strict=True):
        if len(prompt) >= limit:
            where = str(row.location)
            raise DataError("error.replay.too_long", where=where, tokens=len(prompt), limit=limit)
    return prompts


def _kept_or_made(prompts: Sequence[Sequence[int]], config: TrainConfig, base: PreparedBase) -> list[Ids]:
    device = decide_device(config.device)
    machine.use_physical_cores()
    precision, _ = choose_precision(config, base.source.folder, device)
    file = _cache_file(prompts, base, precision)
    if file.exists():
        if (kept := _read(file)) is not None:
            return kept
        say("replay.cache_damaged", file=file)
    say("replay.own_words", num=len(prompts), tokens=BEGINNING.max_new_tokens)
    engine = TransformersEngine(load_base(base.source.folder, precision=precision, device=device).eval(), base)
    answers = answers_of_base(engine, prompts, BEGINNING)
    del engine
    gc.collect()  # the weights are loaded once more for training
    with disk_errors(file.parent):
        storage.make_folder(file.parent)
        storage.write_atomically(file, json.dumps({"answers": answers, "sha256": _hash(answers)}))
    return answers


def _cache_file(prompts: Sequence[Sequence[int]], base: PreparedBase, precision: str) -> Path:
    """Named by the hash of everything that the words depend on."""
    parts = (asdict(base_fingerprint(base.source.folder)), base.contract.stop_token_ids, BEGINNING.max_new_tokens)
    digest = hashlib.sha256(repr((parts, precision, [tuple(prompt) for prompt in prompts])).encode())
    return cache_root() / "own_words" / f"{digest.hexdigest()[:32]}.json"


def _read(file: Path) -> list[Ids] | None:
    """The answers in a file, or None where they are not those that were written."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        answers = [tuple(map(int, answer)) for answer in kept["answers"]]
        whole = kept["sha256"] == _hash(answers)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return answers if whole else None


def _hash(answers: Sequence[Ids]) -> str:
    return hashlib.sha256(repr(list(map(tuple, answers))).encode()).hexdigest()
