"""Chat with the base or an adapter: one answer (`--prompt`) or a session in the terminal.

A session is turns so far, a system text, and which model answers next; `/use`, `/base` and `/compare` change models
without loading anything. When the conversation outgrows the model's context, its oldest exchanges are left out and said
so: as many as halve it, since whatever is left must be read anew. A question that got no whole answer, because of a fault
or Ctrl-C, is not kept.

Left to others: generation (`pangzhu.engines`), where text is written (`pangzhu.cli`).
"""

import io
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, Engine, Write
from pangzhu.engines.choice import load_engine
from pangzhu.engines.llamacpp import GgufConverter
from pangzhu.engines.named_models import BASE
from pangzhu.errors import PangzhuError, UsageError, nearest
from pangzhu.messages import say

COMMANDS = ("/use", "/base", "/compare", "/system", "/reset", "/help", "/exit")

Read = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The answer to `--prompt`: who gave it, and whether it ended by itself."""

    model: str
    base_name: str
    prompt: str
    answer: str
    ended: bool
    streamed: bool

    def as_json(self) -> dict[str, object]:
        """The answer as plain values."""
        return {
            "model": self.model,
            "base": self.base_name,
            "prompt": self.prompt,
            "answer": self.answer,
            "ended": self.ended,
        }

    def render(self) -> str:
        """The answer, unless it has been written as it came."""
        return "" if self.streamed else self.answer


@dataclass
class Session:
    """A conversation under way.

    Args:
        engine: base and adapters.
        options: how answers are drawn.
        name: the model that answers next.
        system: system text, or None for the contract's own.
    """

    engine: Engine
    options: GenerationOptions
    name: str
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, write: Write | None = None) -> Answer:
        """Put a question; it and its answer are kept.

        Raises:
            UsageError: the question alone is too long for the model.
        """
        ids, kept = self._fit([*self.turns, Turn("user", question)], self.name)
        answer = self._answer(ids, self.name, write)
        self.turns = [*kept, Turn("assistant", answer.text)]
        return answer

    def compare(self, question: str | None = None, write: Write | None = None) -> dict[str, Answer]:
        """Every model's answer; nothing is kept.

        Args:
            question: what to ask after the conversation so far; None asks the last question as it was asked.
            write: gets each model's name and its answer as it comes.

        Raises:
            UsageError: there is no last question, or the question is too long.
        """
        turns = self.turns[:-1] if question is None else [*self.turns, Turn("user", question)]
        if not turns:
            raise UsageError("error.chat.nothing_to_compare")
        answers = {}
        for name in self.engine.names:
            ids, _ = self._fit(turns, name)
            if write:
                write(f"── {name}\n")
            answers[name] = self._answer(ids, name, write)
            if write:
                write("\n")
        return answers

    def use(self, name: str) -> None:
        """Let another model answer; the conversation goes along, which is said, since it may repeat what it reads there."""
        self.name = name
        say("chat.switched" if self.turns else "chat.answers_now", name=name)

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns = []

    def _answer(self, ids: list[int], name: str, write: Write | None) -> Answer:
        answer = self.engine.generate(ids, name, self.options, write=write)
        if not answer.ended:
            say("chat.broke_off" if answer.broke_off else "chat.cut", max_new_tokens=self.options.max_new_tokens)
        return answer

    def _fit(self, turns: Sequence[Turn], name: str) -> tuple[list[int], list[Turn]]:
        """Ids of a conversation that ends with a question, and its turns: all of them, or without the oldest exchanges where
        they would not fit, and then no more than half of what would, if the question leaves room for any."""
        room = max(0, self.engine.context_length - self.options.max_new_tokens)
        ids = self._ids(turns, name)
        if len(ids) <= room:
            return ids, list(turns)
        starts = range(2, len(turns), 2)
        place = bisect_left(starts, True, key=lambda start: len(self._ids(turns[start:], name)) <= room // 2)
        start = (*starts, len(turns) - 1)[place]
        ids = self._ids(turns[start:], name)
        if len(ids) > room:
            raise UsageError("error.chat.too_long", tokens=len(ids), room=room)
        say("chat.forgot", num_exchanges=start // 2)
        return ids, list(turns[start:])

    def _ids(self, turns: Sequence[Turn], name: str) -> list[int]:
        system = [] if self.system is None else [Turn("system", self.system)]
        return self.engine.prompt([*system, *turns], name)


def run(
    config: ChatConfig,
    *,
    read: Read | None = None,
    write: Write | None = None,
    converter: GgufConverter | None = None,
) -> ChatAnswer | None:
    """Answer `--prompt`, or hold a session until the user leaves.

    Args:
        config: models, engine and sampling.
        read: asks the user for a line, EOFError ends the session; None reads standard input.
        write: gets text as it is generated; None keeps it for the result.
        converter: makes GGUF files for the llama.cpp engine; None where nothing does.

    Raises:
        PangzhuError: base or adapter cannot be used.
    """
    _check_prompt(config.prompt)
    options = GenerationOptions(**config.model_dump(include=set(GenerationOptions.model_fields)))
    with closing(load_engine(config, converter)) as engine:
        session = Session(engine, options, engine.first_name, config.system)
        if config.prompt is not None:
            return _one_answer(session, config.prompt, write)
        say("chat.welcome", names=", ".join(engine.names), name=session.name)
        converse(session, read=read or _standard_input(), write=write or _discard)
    return None


def converse(session: Session, *, read: Read, write: Write) -> None:
    """Read, answer, repeat; a fault is told, Ctrl-C ends an answer, and the session goes on."""
    while True:
        try:
            line = read(f"{session.name}> ").strip()
        except EOFError:
            return
        try:
            if not respond(session, line, write):
                return
        except KeyboardInterrupt:
            write("\n")
        except PangzhuError as fault:
            say("chat.fault", fault=fault)


def respond(session: Session, line: str, write: Write) -> bool:
    """Answer one line, a question or a `/command`; False leaves the session.

    Raises:
        UsageError: no such command, or it needs something it was not given.
    """
    if line.startswith("/"):
        return command(session, line, write)
    if line:
        session.ask(line, write)
        write("\n")
    return True


def command(session: Session, line: str, write: Write) -> bool:
    """Carry out a `/command`; False leaves the session.

    Raises:
        UsageError: no such command, or it needs something it was not given.
    """
    word, *rest = line.split(maxsplit=1)
    argument = rest[0] if rest else ""
    match word:
        case "/exit" | "/quit":
            return False
        case "/base":
            session.use(BASE)
        case "/use":
            session.use(session.engine.require(argument))
        case "/system":
            session.system = argument or None
            say("chat.system_set" if argument else "chat.system_cleared")
        case "/reset":
            session.reset()
            say("chat.reset")
        case "/compare":
            session.compare(argument or None, write)
        case "/help":
            say("chat.help", names=", ".join(session.engine.names))
        case _:
            raise UsageError("error.chat.no_such_command", name=word, hint=nearest(word, COMMANDS))
    return True


def _check_prompt(prompt: str | None) -> None:
    """Refuse what is no question, before a model is loaded for it."""
    if prompt is None:
        return
    if not prompt.strip():
        raise UsageError("error.chat.empty_prompt", where="--prompt")
    if any("\ud800" <= char <= "\udfff" for char in prompt):  # Python's stand-in for bytes it could not decode
        raise UsageError("error.chat.undecoded_prompt", where="--prompt")


def _one_answer(session: Session, prompt: str, write: Write | None) -> ChatAnswer:
    answer = session.ask(prompt, write)
    return ChatAnswer(
        model=session.name,
        base_name=session.engine.base_name,
        prompt=prompt,
        answer=answer.text,
        ended=answer.ended,
        streamed=write is not None,
    )


def _standard_input() -> Read:
    """`input`, with line editing in a terminal where the system has it; a pipe gets no prompt."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        return lambda _prompt: input()
    with suppress(ImportError):  # Windows edits lines by itself
        import readline  # noqa: F401
    return _ask_in_terminal


def _ask_in_terminal(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        say("chat.left")
        raise


def _discard(_: str) -> None:
    """Write nowhere."""
