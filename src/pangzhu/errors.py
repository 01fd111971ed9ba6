"""The error tree: what is wrong, where, and how to fix it.

Every mistake a user can make or meet ends in a `PangzhuError`: it is raised where it is found, caught once in
`pangzhu.cli`, and its class gives the exit code. The sentences stand in the catalogue under the error's key; the
remedy under the key with `.fix`.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from pangzhu.messages import text

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # torch's words, in a RuntimeError


class PangzhuError(Exception):
    """A fault with a name, a place and a remedy.

    Args:
        key: catalogue key, `error.AREA.NAME`.
        where: the file, line, field or folder concerned, if there is one.
        **values: what the sentences under `key` and `key.fix` fill in.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, key: str, /, *, where: str | None = None, **values: object) -> None:
        super().__init__(key)
        self.key = key
        self.where = where
        self.values = values

    @property
    def what(self) -> str:
        """What is wrong, in the language in force."""
        return text(self.key, **self.values)

    @property
    def fix(self) -> str:
        """How to fix it, in the language in force."""
        return text(f"{self.key}.fix", **self.values)

    def __str__(self) -> str:
        return with_remedy(text("error.what", what=self.what), self.where, self.fix)


class UsageError(PangzhuError):
    """The command line or the configuration contradicts itself or names what does not exist."""

    exit_code = 2


class DataError(PangzhuError):
    """A dataset cannot be read, or its rows cannot be trained on."""

    exit_code = 3


class ModelError(PangzhuError):
    """A base model or an adapter cannot be had, read or used."""

    exit_code = 4


class ResourceError(PangzhuError):
    """Disk, memory, permissions: the machine does not let us."""

    exit_code = 5


class DivergedError(PangzhuError):
    """Training produced NaN, infinity or nothing at all."""

    exit_code = 6


class LockedError(PangzhuError):
    """Another run works in the same folder."""

    exit_code = 7


class VerificationError(PangzhuError):
    """What was saved is not what was trained, or what was promised was not reached."""

    exit_code = 8


class InterruptedRunError(PangzhuError):
    """The user or the system asked to stop; what was done is saved."""

    exit_code = 130

    def __init__(self, key: str, /, *, signal_number: int, where: str | None = None, **values: object) -> None:
        super().__init__(key, where=where, **values)
        self.exit_code = 128 + signal_number  # type: ignore[misc]  # 130 for SIGINT, 143 for SIGTERM


def with_remedy(what: str, where: str | None, fix: str) -> str:
    """A sentence, the place it speaks of where there is one, and the remedy, a line each."""
    lines = [what, *([text("error.where", where=where)] if where else []), text("error.fix", fix=fix)]
    return "\n".join(lines)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """A hint naming the candidate closest to `word`, or an empty text where none is close."""
    found = get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return text("error.nearest", word=found[0]) if found else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
