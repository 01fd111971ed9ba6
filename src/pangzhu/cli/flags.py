"""The three flags that every verb takes, read before anything else.

`--lang` decides in which language help and errors are written, `--json` and `--debug` how a mistake on the command
line itself is shown; so they are taken out of the line before typer sees it, wherever they stand in front of `--`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pangzhu.errors import UsageError
from pangzhu.messages import LANGUAGES, Language, detect_language


@dataclass(frozen=True, slots=True)
class Flags:
    """How to speak to the user. `mistake` is what was wrong with the flags themselves, to be raised by who can show it."""

    language: Language
    json: bool = False
    debug: bool = False
    mistake: UsageError | None = None


def read_flags(words: Sequence[str]) -> tuple[Flags, list[str]]:
    """Take the shared flags out of a command line; gives them and the words that remain."""
    flags = Flags(detect_language())
    remaining: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            remaining += [word, *rest]
        elif word == "--json":
            flags = replace(flags, json=True)
        elif word == "--debug":
            flags = replace(flags, debug=True)
        elif name == "--lang":
            flags = _with_language(flags, value if equals else next(rest, ""))
        else:
            remaining.append(word)
    return flags, remaining


def _with_language(flags: Flags, wanted: str) -> Flags:
    for language in LANGUAGES:
        if wanted.lower() == language:
            return replace(flags, language=language)
    return replace(flags, mistake=UsageError("error.cli.no_such_language", where="--lang", name=wanted))
