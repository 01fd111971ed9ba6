"""What every dataset row becomes: a conversation, with the place it came from.

Nothing below this stage knows alpaca, ShareGPT or CSV; nothing above it knows token ids.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where a row stands. `line` counts from 1 (None in a file without lines of its own), `row` from 1."""

    file: Path
    line: int | None
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line is not None else f"{self.file}[{self.row}]"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, ending with the assistant for training; `extra` keeps fields a row has beside its text
    (`fact`, `kind`, `split` of the law example), as strings."""

    turns: tuple[Turn, ...]
    location: Location
    extra: tuple[tuple[str, str], ...] = ()

    def field(self, name: str) -> str | None:
        """A field the row has beside its text, or None."""
        return dict(self.extra).get(name)

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns before the last assistant turn."""
        return self.turns[:-1] if self.turns[-1].role == "assistant" else self.turns

    @property
    def answer(self) -> str | None:
        """The last assistant turn's text, or None where the conversation ends with a question."""
        return self.turns[-1].content if self.turns[-1].role == "assistant" else None
