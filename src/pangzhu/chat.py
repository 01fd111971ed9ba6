"""Chat with the base or an adapter: one answer (`--prompt`) or a session in the terminal.

A session is turns so far, a system text, and which model answers next; `/use`, `/base` and `/compare` change models
without loading anything. When the conversation outgrows the model's context, its oldest exchange is left out and said so.

Left to others: generation (`pangzhu.engines`), looks (`pangzhu.cli`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, Write
from pangzhu.engines.transformers import BASE, load_engine
from pangzhu.errors import PangzhuError, UsageError, nearest
from pangzhu.messages import say, text

if TYPE_CHECKING:
    from pangzhu.engines.transformers import TransformersEngine


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

    engine: "TransformersEngine"
    options: GenerationOptions
    name: str
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, write: Write | None = None) -> Answer:
        """Put a question and keep it and its answer."""
        self.turns.append(Turn("user", question))
        answer = self.engine.generate(self._prompt(self.name), self.name, self.options, write=write)
        self.turns.append(Turn("assistant", answer.text))
        return answer

    def compare(self, question: str) -> list[tuple[str, Answer]]:
        """Every model's answer to a question, after the conversation so far; nothing is kept."""
        self.turns.append(Turn("user", question))
        try:
            names = self.engine.names
            return [(name, self.engine.generate(self._prompt(name), name, self.options)) for name in names]
        finally:
            self.turns.pop()

    def last_question(self) -> str | None:
        """What was asked last."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "user"), None)

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns.clear()

    def _prompt(self, name: str) -> list[int]:
        """Ids of the conversation, its oldest exchanges left out where it would not fit."""
        room = self.engine.context_length - self.options.max_new_tokens
        while len(ids := self.engine.prompt(self._with_system(), name)) > room:
            if len(self.turns) < 2:
                raise UsageError("error.chat.too_long", tokens=len(ids), room=room)
            del self.turns[:2]
            say("chat.forgot")
        return ids

    def _with_system(self) -> list[Turn]:
        return [Turn("system", self.system), *self.turns] if self.system else self.turns


def run(config: ChatConfig, *, read: Callable[[str], str] = input, write: Write | None = None) -> ChatAnswer | None:
    """Answer `--prompt`, or hold a session until the user leaves.

    Args:
        config: models and sampling.
        read: asks the user for a line; EOFError ends the session.
        write: gets text as it is generated; None keeps it for the result.

    Raises:
        PangzhuError: base or adapter cannot be used.
    """
    engine = load_engine(config, config.adapter, system=config.system, allow_base_mismatch=config.allow_base_mismatch)
    options = GenerationOptions(**config.model_dump(include=set(GenerationOptions.model_fields)))
    session = Session(engine, options, name=engine.names[-1] if len(engine.names) == 2 else engine.names[0])
    if len(engine.names) > 2:
        session.name = engine.names[1]
    if config.prompt is not None:
        return _one_answer(session, config.prompt, write)
    say("chat.welcome", names=", ".join(engine.names), name=session.name)
    converse(session, read=read, write=write or _discard)
    return None


def converse(session: Session, *, read: Callable[[str], str], write: Write) -> None:
    """Read, answer, repeat; a fault is told and the session goes on."""
    while True:
        try:
            line = read(f"{session.name}> ").strip()
        except EOFError:
            return
        try:
            if line.startswith("/"):
                if not command(session, line, write):
                    return
            elif line:
                session.ask(line, write)
                write("\n")
        except KeyboardInterrupt:
            _drop_unanswered(session)
            write("\n")
        except PangzhuError as fault:
            _drop_unanswered(session)
            write(f"{fault}\n")


def command(session: Session, line: str, write: Write) -> bool:
    """Carry out a `/command`; False leaves the session.

    Raises:
        UsageError: no such command, or it needs something it was not given.
    """
    word, _, rest = line.partition(" ")
    argument = rest.strip()
    match word:
        case "/exit" | "/quit":
            return False
        case "/base":
            session.name = BASE
        case "/use":
            session.name = session.engine.require(argument)
        case "/system":
            session.system = argument or None
            say("chat.system_set" if argument else "chat.system_cleared")
        case "/reset":
            session.reset()
            say("chat.reset")
        case "/compare":
            _compare(session, argument, write)
        case "/help":
            write(text("chat.help", names=", ".join(session.engine.names)) + "\n")
        case _:
            commands = ("/use", "/base", "/compare", "/system", "/reset", "/help", "/exit")
            raise UsageError("error.chat.no_such_command", name=word, hint=nearest(word, commands))
    return True


def _compare(session: Session, question: str, write: Write) -> None:
    asked = question or session.last_question()
    if asked is None:
        raise UsageError("error.chat.nothing_to_compare")
    for name, answer in session.compare(asked):
        write(f"── {name}\n{answer.text}\n")


def _one_answer(session: Session, prompt: str, write: Write | None) -> ChatAnswer:
    if not prompt.strip():
        raise UsageError("error.chat.empty_prompt", where="--prompt")
    answer = session.ask(prompt, write)
    return ChatAnswer(
        model=session.name,
        base_name=session.engine.base_name,
        prompt=prompt,
        answer=answer.text,
        ended=answer.ended,
        streamed=write is not None,
    )


def _drop_unanswered(session: Session) -> None:
    if session.turns and session.turns[-1].role == "user":
        session.turns.pop()


def _discard(_: str) -> None:
    """Write nowhere."""
