"""What a user sees: results on standard output, everything else on standard error.

Below this package nobody prints: stages return results and `messages.say` what happens. Here both get their looks: a
table or one JSON object for the result, a plain line for a message, three lines for an error. No colour where the
stream is not a terminal; Chinese counts as two columns (rich does that).
"""

import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol, TextIO

from rich.console import Console, RenderableType

from pangzhu.data.findings import Finding
from pangzhu.errors import PangzhuError
from pangzhu.json_text import to_json

FILE_WIDTH = 120  # columns for tables in a file or a pipe, where rich would assume 80 and wrap paths

_json: ContextVar[bool] = ContextVar("json", default=False)


class Rendered(Protocol):
    """What a verb returns: the same result for a reader and for a program.

    A result may also carry `exit_code: int`; without it the verb ends with 0.
    """

    def as_json(self) -> dict[str, object]:
        """The result as plain values."""

    def render(self) -> RenderableType:
        """The result as text, a rich table, or a group of them."""


def make_streams_tolerant(platform: str = sys.platform) -> None:
    """Never die of a character that a stream cannot write; see `make_tolerant`."""
    for stream in (sys.stdout, sys.stderr):
        make_tolerant(stream, platform=platform)


def make_tolerant(stream: TextIO, *, platform: str) -> None:
    """Let a stream replace what it cannot encode, and use UTF-8 for files and pipes on Windows.

    Windows gives a redirected stream the legacy code page, which loses Chinese outside China and is not what the
    reader of a log or of JSON expects; a Windows console is UTF-8 already. An encoding the user chose
    (PYTHONIOENCODING) stays.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    legacy = not _is_utf8(stream)
    if legacy and platform == "win32" and not stream.isatty() and not os.environ.get("PYTHONIOENCODING"):
        reconfigure(encoding="utf-8", errors="replace")
    elif stream.errors in ("strict", "surrogateescape"):
        reconfigure(errors="replace")


def want_json(wanted: bool) -> None:
    """Keep standard output free for one JSON object from here on, or not."""
    _json.set(wanted)


def json_is_wanted() -> bool:
    """Whether standard output belongs to one JSON object."""
    return _json.get()


def write_text(text: str) -> None:
    """Write part of an answer as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


def standard_output() -> Console:
    """Where results go."""
    return _console(sys.stdout)


def standard_error() -> Console:
    """Where messages, progress and errors go."""
    return _console(sys.stderr)


def say_line(sentence: str) -> None:
    """Print one message as it is: no markup, no colour, no line break added."""
    _plain_line(standard_error(), sentence)


def print_result(result: Rendered | None) -> int:
    """Show a verb's result and give its exit code."""
    exit_code = int(getattr(result, "exit_code", 0))
    if json_is_wanted():
        print_json({"ok": exit_code == 0} | (result.as_json() if result else {}))
    elif result:
        _print_rendered(result.render())
    return exit_code


def print_json(content: Mapping[str, object]) -> None:
    """One JSON object on one line; NaN and infinity, which JSON has not, become null."""
    ascii_only = not _is_utf8(sys.stdout)
    print(to_json(content, ascii_only=ascii_only), flush=True)


def error_as_json(error: PangzhuError) -> dict[str, object]:
    """The object that `--json` prints for an error, with every finding it carries."""
    fault = {
        "key": error.key,
        "what": error.what,
        "where": error.where,
        "fix": error.fix,
        "exit_code": error.exit_code,
    }
    findings: tuple[Finding, ...] | None = getattr(error, "findings", None)
    listed = {} if findings is None else {"findings": [finding.as_json() for finding in findings]}
    return {"ok": False, "error": fault, **listed}


def _console(stream: TextIO) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        width=None if terminal or "COLUMNS" in os.environ else FILE_WIDTH,
        no_color=None if terminal else True,
        highlight=False,
    )


def _print_rendered(rendered: RenderableType) -> None:
    if isinstance(rendered, str):
        _plain_line(standard_output(), rendered)
    else:
        standard_output().print(rendered)


def _plain_line(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig")
