"""Engines that write answers: ids in, text out.

`transformers` runs the base in memory with any number of adapters beside it, switched by name. Prompts come as ids,
already rendered by `pangzhu.template`, never as text.
"""

from collections.abc import Callable
from dataclasses import dataclass

Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer. `ended` tells whether it closed by itself or ran into `max_new_tokens`."""

    text: str
    token_ids: tuple[int, ...]
    ended: bool
