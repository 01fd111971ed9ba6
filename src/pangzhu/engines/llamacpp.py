"""The llama.cpp engine: a GGUF base in memory, LoRA-GGUFs beside it, switched by name without loading anything.

The same prompts, stop tokens and whole characters as with transformers, since ids go in and ids come out: the template is the
contract's and not the GGUF's, an answer ends at the contract's tokens, and text is what the base's own tokenizer makes of the
ids. An answer is asked for in rounds of as many tokens as come in a moment: between two of them it is shown, or given up.
Each round goes on where the last one stopped, and so does the next turn of a conversation, as long as the same adapter answers
(`pangzhu.engines.slots`).

Left to others: llama.cpp itself (`pangzhu.engines.llama_server`), making GGUF files (`GgufConverter`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Protocol

from pangzhu.config import GenerationOptions
from pangzhu.engines import Answer, EndAnswerError, Schema, Write
from pangzhu.engines.llama_server import LlamaServer, Place
from pangzhu.engines.named_models import ChosenModels, LoadedAdapter, NamedModels
from pangzhu.engines.schemas import require_fit, require_sound
from pangzhu.engines.slots import Slots
from pangzhu.engines.streaming import Characters
from pangzhu.errors import ModelError, PangzhuError, UsageError
from pangzhu.preparation import PreparedBase

MOST_TOKENS = 8192  # of all conversations kept: 100 MB of keys and values for a 0.5B Qwen
NUM_AT_ONCE = 4  # answers computed side by side: the weights are read once for all of them
MOST_SLOTS = 16
STREAMED_SECONDS = 0.1  # a round of an answer that is shown as it comes
SAME_TOKENS = 4  # a round of one that can be drawn again
SILENT_SECONDS = 1.0  # of one that is not

Receive = Callable[[Sequence[int]], None]


class GgufConverter(Protocol):
    """Makes GGUF files of folders, once: asked again for the same, it gives the same file."""

    def obstacle(self, base: PreparedBase) -> PangzhuError | None:
        """Why none can be made of a base; None where one can be, or is here."""

    def base(self, base: PreparedBase) -> Path:
        """The GGUF file of a base."""

    def adapter(self, adapter: LoadedAdapter, base: PreparedBase) -> Path:
        """The LoRA-GGUF file of an adapter of that base."""


class LlamaCppEngine(NamedModels):
    """A base and its adapters, ready to answer; safe to ask from several threads.

    Args:
        server: base and adapters, loaded in the order of `adapters`.
        slots: the places the server has.
        base: tokenizer and the base's own contract.
        adapters: in the order they were named.
    """

    def __init__(
        self, server: LlamaServer, slots: Slots, base: PreparedBase, adapters: Sequence[LoadedAdapter] = ()
    ) -> None:
        super().__init__(base, adapters)
        self._server = server
        self._context_length = min(_num_tokens(base), server.context_length)
        self._slots = slots
        self._numbers = {adapter.name: number for number, adapter in enumerate(adapters)}

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_length

    def generate(
        self,
        prompt: Sequence[int],
        name: str,
        options: GenerationOptions,
        *,
        write: Write | None = None,
        schema: Schema | None = None,
    ) -> Answer:
        """Answer one prompt; `write` gets the text as it comes, of one that fits a schema all at once."""
        if schema is not None:
            answer = self._answer(self._fit(prompt, name, options, schema), self.contract(name), options)
            require_fit(answer, schema)
            if write is not None:
                with suppress(EndAnswerError):
                    write(answer.text)
            return answer
        if write is None:
            ids = self._write(prompt, name, options, receive=_ignore, seconds=SILENT_SECONDS)
            return self._answer(ids, self.contract(name), options)
        characters = Characters(self.tokenizer, self.contract(name), write)
        try:
            ids = self._write(prompt, name, options, receive=characters.add, seconds=STREAMED_SECONDS)
            characters.close()
        except EndAnswerError:
            return characters.answer()
        return self._answer(ids, self.contract(name), options)

    def generate_many(
        self, prompts: Sequence[Sequence[int]], name: str, options: GenerationOptions
    ) -> Iterator[tuple[int, Answer]]:
        """Answer prompts side by side; gives `(index, answer)` as they are done, not in order."""
        given_up = Event()

        def write(index: int) -> tuple[int, list[int]]:
            receive = _unless(given_up)
            return index, self._write(prompts[index], name, options, receive=receive, seconds=SILENT_SECONDS)

        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            writing = [pool.submit(write, index) for index in range(len(prompts))]
            try:
                for written in as_completed(writing):
                    index, ids = written.result()
                    yield index, self._answer(ids, self.contract(name), options)
            finally:
                given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Unload base and adapters and end llama.cpp's threads."""
        self._server.close()

    def _fit(self, prompt: Sequence[int], name: str, options: GenerationOptions, schema: Schema) -> list[int]:
        """The ids of an answer that fits a schema, in one round: what fits is known from its beginning on.

        Raises:
            UsageError: prompt and longest answer do not fit, or llama.cpp cannot keep an answer to this schema.
        """
        self._require_room(prompt, options)
        require_sound(schema)
        try:
            with self._slots.taken(name, len(prompt) + options.max_new_tokens) as (slot, own):
                place = Place(slot, own, self._numbers.get(name))
                found = self._server.continuation(prompt, options.max_new_tokens, place, options, schema=schema)
        except ModelError as refused:
            raise UsageError("error.engine.bad_schema", reason=refused.values["reason"]) from refused
        return [] if found.lost else _up_to_stop(found.token_ids, self.contract(name).stop_token_ids)

    def _require_room(self, prompt: Sequence[int], options: GenerationOptions) -> None:
        room = self.context_length - options.max_new_tokens
        if len(prompt) > room:
            raise UsageError("error.chat.too_long", tokens=len(prompt), room=max(0, room))

    def _write(
        self, prompt: Sequence[int], name: str, options: GenerationOptions, *, receive: Receive, seconds: float
    ) -> list[int]:
        """The ids of an answer, a stop token included. With neither a stop token nor as many ids as it may have, it broke off.

        Args:
            prompt: ids.
            name: who answers.
            options: how tokens are drawn, and how many at the most.
            receive: gets the new ids after each round; what it raises ends the answer.
            seconds: how long a round is to take.

        Raises:
            UsageError: prompt and longest answer do not fit.
        """
        self._require_room(prompt, options)
        stops = self.contract(name).stop_token_ids
        pace = _Pace(seconds, same=options.draw_seed is not None)
        ids: list[int] = []
        with self._slots.taken(name, len(prompt) + options.max_new_tokens) as (slot, own):
            place = Place(slot, own, self._numbers.get(name))
            while len(ids) < options.max_new_tokens and not (ids and ids[-1] in stops):
                num_tokens = min(pace.num_tokens, options.max_new_tokens - len(ids))
                started = time.perf_counter()
                found = self._server.continuation([*prompt, *ids], num_tokens, place, _for_round(options, len(ids)))
                pace.took(time.perf_counter() - started, len(found.token_ids), self._slots.num_busy)
                place = replace(place, reuse=True)
                if found.lost and num_tokens == 1:
                    break
                if found.lost:
                    pace = _Pace(seconds=0.0, same=False)  # token by token to where it happened
                    continue
                new = _up_to_stop(found.token_ids, stops)
                ids += new
                receive(new)
        return ids


def load_chosen(models: ChosenModels, converter: GgufConverter | None = None) -> LlamaCppEngine:
    """Load what was chosen.

    Args:
        models: base and adapters.
        converter: makes the GGUF files that are not here; None where nothing does.

    Raises:
        ModelError: a file is not here and cannot be made, or llama.cpp cannot load one.
        ResourceError: xllamacpp is not installed.
    """
    base_file = _base_file(models.base, converter)
    adapter_files = [_adapter_file(adapter, models.base, converter) for adapter in models.adapters]
    num_slots = min(MOST_SLOTS, max(NUM_AT_ONCE, 1 + len(models.adapters)))
    num_tokens = _num_tokens(models.base)
    server = LlamaServer(base_file, adapter_files, num_slots=num_slots, num_tokens=num_tokens)
    return LlamaCppEngine(server, Slots(num_slots, num_tokens), models.base, models.adapters)


def _base_file(base: PreparedBase, converter: GgufConverter | None) -> Path:
    if base.source.gguf is not None:
        return base.source.gguf
    if converter is None:
        raise ModelError("error.engine.no_gguf", where=str(base.source.folder), name=base.source.name)
    return converter.base(base)


def _adapter_file(adapter: LoadedAdapter, base: PreparedBase, converter: GgufConverter | None) -> Path:
    if converter is None:
        raise ModelError("error.engine.no_lora_gguf", where=str(adapter.folder), name=adapter.name)
    return converter.adapter(adapter, base)


def _num_tokens(base: PreparedBase) -> int:
    return min(base.context_length, MOST_TOKENS)


class _Pace:
    """How many tokens to ask for in one round.

    Args:
        seconds: how long a round is to take; the first is of one token, since nothing is known of the speed.
        same: every round is of as many tokens: each draws anew, so an answer that is to come again needs the same rounds.
    """

    def __init__(self, seconds: float, *, same: bool) -> None:
        self.num_tokens = SAME_TOKENS if same else 1
        self._seconds = seconds
        self._same = same

    def took(self, seconds: float, num_tokens: int, num_at_once: int) -> None:
        """Let the next round be of as many tokens as come in time at this speed. Of answers side by side each comes slower, and
        between two rounds the others go on without it: so it may take longer."""
        if not self._same:
            wanted = min(self._seconds * num_at_once, SILENT_SECONDS)
            self.num_tokens = max(1, round(wanted * num_tokens / seconds))


def _for_round(options: GenerationOptions, num_written: int) -> GenerationOptions:
    """A round with a seed of its own, told by its place in the answer."""
    if options.draw_seed is None:
        return options
    return options.model_copy(update={"draw_seed": (options.draw_seed + num_written) % 2**31})


class _GivenUpError(Exception):
    """Nobody waits for the answer any more."""


def _unless(given_up: Event) -> Receive:
    def receive(_ids: Sequence[int]) -> None:
        if given_up.is_set():
            raise _GivenUpError

    return receive


def _ignore(_ids: Sequence[int]) -> None:
    """Nobody looks on."""


def _up_to_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Ids to the first token that ends an answer; llama.cpp knows its own end tokens alone."""
    stop = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[: stop + 1])
