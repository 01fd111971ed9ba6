"""Help pages in the user's language, laid out for Chinese as well as for English.

A page is a usage line, a sentence, and sections of rows: a name at the left, its sentence at the right, broken where
Chinese may break. typer's own layout cuts long Chinese sentences and speaks English, so it only parses. Nothing here
imports typer: the overview of all verbs appears at once.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from pangzhu.messages import text

INDENT = 2
MOST_NAME_COLUMNS = 31  # the longest option, and two blanks
PAGE_COLUMNS = 100  # longer lines are hard to read
# Blanks; or a run of Latin text, or one wide character, with the punctuation that may not end or begin a line.
PIECE = re.compile(r"\s+|[（“\[]*(?:[!-\u2bff]+|[\u2c00-\uffff])[，。；：、）”？\]]*")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its rows of name and sentence."""

    title: str
    rows: Sequence[tuple[str, str]]


def overview(panels: Mapping[str, Sequence[str]]) -> str:
    """The page of `pangzhu` itself: every verb with its sentence, by panel (`panel.NAME` -> verbs)."""
    sections = [
        Section(text(panel), [(verb, text(f"verb.{verb}")) for verb in verbs]) for panel, verbs in panels.items()
    ]
    general = [*shared_rows(), ("--version", text("cli.help.version"))]
    body = page(
        "pangzhu " + text("cli.verb_word"), text("cli.about"), [*sections, Section(text("panel.general"), general)]
    )
    return body + "\n\n" + "\n".join(wrap(text("cli.epilog"), page_width()))


def page(usage: str, about: str, sections: Sequence[Section]) -> str:
    """One help page."""
    longest = max(len(name) for section in sections for name, _ in section.rows)
    columns = min(longest + 2, MOST_NAME_COLUMNS)
    lines = [text("cli.usage", usage=usage), "", *wrap(about, page_width())]
    for section in sections:
        lines += ["", section.title]
        for name, sentence in section.rows:
            lines += _row_lines(name, sentence, name_columns=columns)
    return "\n".join(lines)


def shared_rows() -> list[tuple[str, str]]:
    """The rows of the options that every verb takes."""
    return [
        ("--lang zh|en", text("cli.help.lang")),
        ("--json", text("cli.help.json")),
        ("--debug", text("cli.help.debug")),
        ("--help, -h", text("cli.help.help")),
    ]


def page_width() -> int:
    """Columns of a page: the terminal's, within reason."""
    return max(50, min(shutil.get_terminal_size().columns, PAGE_COLUMNS))


def wrap(sentence: str, width: int) -> list[str]:
    """Break a sentence into lines of at most `width` columns, where a wide character counts as two."""
    lines = [""]
    for piece in PIECE.findall(sentence):
        if cell_len(lines[-1] + piece.rstrip()) > width and lines[-1]:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def _row_lines(name: str, sentence: str, *, name_columns: int) -> list[str]:
    left = INDENT + name_columns
    sentence_lines = wrap(sentence, page_width() - left)
    beside = [" " * left + line for line in sentence_lines]
    filled = " " * INDENT + name
    return [filled.ljust(left) + sentence_lines[0], *beside[1:]] if len(filled) < left else [filled, *beside]
