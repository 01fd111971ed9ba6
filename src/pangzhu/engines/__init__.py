"""Engines that write answers: ids in, text out.

`transformers` and `llamacpp` run a base in memory with any number of adapters beside it, switched by name. Prompts come
as ids, already rendered by `pangzhu.template`, never as text. `Engine` is what chat, comparison and server ask of either.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pangzhu.condition import Condition
    from pangzhu.config import GenerationOptions
    from pangzhu.data.conversation import Conversation, Turn
    from pangzhu.template import PromptContract

Write = Callable[[str], None]
Schema = Mapping[str, object]

REPLACEMENT = "\ufffd"  # what decoding gives for bytes that are no character, or not yet
JOINERS = "\u200c\u200d"  # invisible, and part of many emoji
UNPRINTABLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer. `ended` tells whether it closed by itself or ran into `max_new_tokens`; `broke_off`, that it did
    neither, since the probabilities of its next token were no numbers (NaN or infinity)."""

    text: str
    token_ids: tuple[int, ...]
    ended: bool
    broke_off: bool = False


class EndAnswerError(Exception):
    """Raised by who is written to: the answer has all it needs. It ends there as if it had ended by itself."""


class Engine(Protocol):
    """A base and its adapters, ready to answer."""

    @property
    def base_name(self) -> str:
        """How the base was named."""

    @property
    def names(self) -> tuple[str, ...]:
        """The base and every adapter, by name."""

    @property
    def first_name(self) -> str:
        """Who answers where nobody was named: the first adapter, else the base."""

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def conditions(self) -> "dict[str, Condition]":
        """What is known of each adapter before it is asked anything, by name."""

    def contract(self, name: str) -> "PromptContract":
        """The prompt contract to speak by."""

    def prompt(self, turns: "Sequence[Turn]", name: str) -> list[int]:
        """A conversation as ids, ready for `name` to answer."""

    def plain_ids(self, text: str) -> list[int]:
        """A text as ids, with no template around it."""

    def fitting_prompt(self, row: "Conversation", name: str, options: "GenerationOptions") -> list[int]:
        """A row's question as ids, which with the longest answer fit into the model's context."""

    def require(self, name: str) -> str:
        """The name, if there is such a model."""

    def generate(
        self,
        prompt: Sequence[int],
        name: str,
        options: "GenerationOptions",
        *,
        write: Write | None = None,
        schema: Schema | None = None,
    ) -> Answer:
        """Answer one prompt.

        Args:
            prompt: ids; with the longest answer they fit into `context_length`.
            name: who answers.
            options: how tokens are drawn, and how many at the most.
            write: gets the text as it comes, whole characters only. `EndAnswerError` ends the answer; whatever else it raises
                does too, and is passed on.
            schema: JSON schema that the answer is to fit; it is then JSON, unless `max_new_tokens` cut it.

        Raises:
            UsageError: the engine keeps no answer to a schema, or not to this one.
        """

    def generate_many(
        self, prompts: Sequence[Sequence[int]], name: str, options: "GenerationOptions"
    ) -> Iterator[tuple[int, Answer]]:
        """Answer many prompts; gives `(index, answer)` as they are done, not in order."""

    def close(self) -> None:
        """Stop what runs beside this process's own work; the engine answers no more."""


def visible(answer: str) -> str:
    r"""An answer fit for a screen: what a terminal would obey, or could not show, is spelled out (`\x1b`, `\ufffd`)."""
    return "".join(char if _has_glyph(char) else char.encode("unicode_escape").decode() for char in answer)


def _has_glyph(char: str) -> bool:
    return char in "\n\t" + JOINERS or (char != REPLACEMENT and unicodedata.category(char) not in UNPRINTABLE)
