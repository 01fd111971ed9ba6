"""Engines that write answers: ids in, text out.

`transformers` runs the base in memory with any number of adapters beside it, switched by name. Prompts come as ids,
already rendered by `pangzhu.template`, never as text.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

Write = Callable[[str], None]

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


def visible(answer: str) -> str:
    r"""An answer fit for a screen: what a terminal would obey, or could not show, is spelled out (`\x1b`, `\ufffd`)."""
    return "".join(char if _has_glyph(char) else char.encode("unicode_escape").decode() for char in answer)


def _has_glyph(char: str) -> bool:
    return char in "\n\t" + JOINERS or (char != REPLACEMENT and unicodedata.category(char) not in UNPRINTABLE)
