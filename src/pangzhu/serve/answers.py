"""One answer: the engine writes it in a thread, it comes out piece by piece in the server's loop.

Who stops listening, ends it: the engine is told at the next piece it writes. A stop text ends it too, and is not part of it.
"""

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import anyio

from pangzhu.config import GenerationOptions
from pangzhu.engines import Answer, EndAnswerError, Engine, Schema
from pangzhu.errors import PangzhuError, UsageError
from pangzhu.messages import say
from pangzhu.serve.faults import ApiError, is_unfit, refusal, unfit
from pangzhu.serve.models import Models

Reason = Literal["stop", "length"]
Prompt = Callable[[Engine], list[int]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one model.

    Args:
        name: who answers.
        prompt: makes the prompt, by the engine that will answer.
        options: how the answer is drawn.
        stops: texts that end it.
        fits_itself: it may be shorter than `options` say, where the model's context leaves less room.
        schema: that it is to fit; None for text.
    """

    name: str
    prompt: Prompt
    options: GenerationOptions
    stops: tuple[str, ...]
    fits_itself: bool = False
    schema: Schema | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer, and its tokens."""

    reason: Reason
    num_prompt: int
    num_written: int


Event = str | Ended


class StopTexts:
    """Hands text on up to the first of some texts, holding back what could be the beginning of one.

    Args:
        stops: the texts.
        write: gets what is before them.
    """

    def __init__(self, stops: Sequence[str], write: Callable[[str], None]) -> None:
        self._stops = stops
        self._write = write
        self._held = ""
        self.met = False

    def add(self, piece: str) -> None:
        """Take the next piece.

        Raises:
            EndAnswerError: a stop text has come.
        """
        self._held += piece
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self._hand_on(min(places))
            self.met = True
            raise EndAnswerError
        self._hand_on(len(self._held) - _overlap(self._held, self._stops))

    def close(self) -> None:
        """Hand on what was held back, unless a stop text came."""
        if not self.met:
            self._hand_on(len(self._held))

    def _hand_on(self, num: int) -> None:
        if num:
            self._write(self._held[:num])
        self._held = self._held[num:]


async def answered(models: Models, wanted: Wanted, threads: Executor) -> AsyncGenerator[Event]:
    """The pieces of an answer as they come, then its end. Leaving early ends the answer.

    Raises:
        ApiError: there is no such model, or it cannot answer this.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[Event | ApiError] = asyncio.Queue()
    left = threading.Event()

    def put(event: Event | ApiError) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(pieces.put_nowait, event)

    def work() -> None:
        try:
            put(_write(models, wanted, put, left))
        except ApiError as fault:
            put(fault)
        except BaseException as fault:  # noqa: BLE001  # a library's, or its panic: who waits must be told that no answer comes
            put(refusal(500, "serve.refusal.failed", code="engine_failed"))
            say("serve.engine_fault", fault=f"{type(fault).__name__}: {fault}")

    context = contextvars.copy_context()
    working = loop.run_in_executor(threads, context.run, work)
    try:
        while True:
            event = await pieces.get()
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Ended):
                return
    finally:
        left.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({working})


def _write(models: Models, wanted: Wanted, put: Callable[[Event], None], left: threading.Event) -> Ended:
    """Let the engine answer; runs in a thread."""

    def hand_on(piece: str) -> None:
        if left.is_set():
            raise EndAnswerError
        put(piece)

    text = StopTexts(wanted.stops, hand_on)
    with models.asked(wanted.name) as engine:
        try:
            prompt = wanted.prompt(engine)
            options = _fitting(wanted, len(prompt), engine.context_length)
            answer = engine.generate(prompt, wanted.name, options, write=text.add, schema=wanted.schema)
        except PangzhuError as fault:
            if not is_unfit(fault):
                raise
            raise unfit(fault) from fault
    if answer.broke_off:
        raise refusal(500, "serve.refusal.broke_off", code="not_a_number")
    with suppress(EndAnswerError):  # who listened has left with the last piece
        text.close()
    return Ended(_reason(answer), len(prompt), len(answer.token_ids) + (answer.ended and not text.met))


def _fitting(wanted: Wanted, num_prompt: int, context_length: int) -> GenerationOptions:
    """The options with no more tokens than there is room for.

    Raises:
        UsageError: prompt and answer do not fit.
    """
    room = context_length - num_prompt
    if wanted.fits_itself and 0 < room < wanted.options.max_new_tokens:
        return wanted.options.model_copy(update={"max_new_tokens": room})
    if room < wanted.options.max_new_tokens:
        most = max(0, context_length - wanted.options.max_new_tokens)
        raise UsageError("error.chat.too_long", tokens=num_prompt, room=most)
    return wanted.options


def _reason(answer: Answer) -> Reason:
    return "stop" if answer.ended else "length"


def _overlap(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters could begin one of the stop texts."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in stops)), 0)
