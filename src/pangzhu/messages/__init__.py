"""Every sentence a user reads, in two languages, under one key.

`text(key, **values)` gives the sentence in the language in force; `say(key, **values)` hands it to whoever listens
(by default: standard error). Layers below the command line never print: they say, and the command line decides
how it looks. The sentences stand in `messages.zh` and `messages.en`, one file an area, the same keys in both.

Keys: `error.AREA.NAME` with its remedy `error.AREA.NAME.fix`; `finding.NAME` and `finding.NAME.fix` for rows of a dataset;
`option.NAME` for a flag; `verb.NAME` for a command; everything else `AREA.NAME`.
"""

import locale
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, get_args

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_language: ContextVar[Language] = ContextVar("language", default="en")


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


_listener: ContextVar[Callable[[str], None]] = ContextVar("listener", default=_to_stderr)


@cache
def catalogue(language: Language) -> Mapping[str, str]:
    """All sentences of one language by key.

    Raises:
        ValueError: two areas give the same key.
    """
    package = import_module(f"pangzhu.messages.{language}")
    sentences: dict[str, str] = {}
    for module in iter_modules(package.__path__):
        area: dict[str, str] = import_module(f"{package.__name__}.{module.name}").MESSAGES
        if twice := sentences.keys() & area.keys():
            raise ValueError(f"{language}/{module.name}: keys given twice: {sorted(twice)}")
        sentences |= area
    return sentences


def language() -> Language:
    """The language in force."""
    return _language.get()


def set_language(chosen: Language) -> None:
    """Choose the language of everything said from here on."""
    _language.set(chosen)


def detect_language(environ: Mapping[str, str] = os.environ) -> Language:
    """The user's language: `zh` where the locale is Chinese, else `en`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return "zh" if value.lower().startswith(("zh", "chinese")) else "en"
    system_locale = locale.getlocale()[0] or ""
    return "zh" if system_locale.lower().startswith(("zh", "chinese")) else "en"


def text(key: str, /, **values: object) -> str:
    """The sentence under `key` with `values` filled in.

    Raises:
        KeyError: no such key, or a value the sentence needs is missing.
    """
    return catalogue(language())[key].format(**values)


def say(key: str, /, **values: object) -> None:
    """Tell the user the sentence under `key`."""
    _listener.get()(text(key, **values))


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Send what is said inside the block to `listener` instead of standard error."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
