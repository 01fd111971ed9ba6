"""One HTML file that shows every row with its tokens: what the model reads, and what of it is learned.

The file is complete in itself: no script, style or picture from elsewhere, a content security policy that allows its own
script and style alone and no connection. Data stands in it as JSON with `<` escaped; the script makes text nodes of it,
never markup, so whatever a row says is shown and not obeyed.

Rows are written as they come, in blocks that the page reads when they are asked for. A row is a list: a text stands for
tokens that people wrote, the first letter saying whether they are learned, U+E000 between two tokens; a number for a piece
that the template wrote, which stands once in a table.
"""

import base64
import hashlib
import html
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from pangzhu import storage
from pangzhu.check.anatomy import Anatomist, Run
from pangzhu.check.result import CheckResult, by_kind
from pangzhu.data.conversation import Conversation
from pangzhu.data.personal import BANK_CARD, EMAIL, IDENTITY, PHONE
from pangzhu.data.quality import CONTRADICTION, EXACT, NEAR, OVERLAP, PERSONAL
from pangzhu.messages import language, say, text
from pangzhu.tokenization import TokenizedDataset, TokenizedExample

MOST_ROWS = 100_000
MOST_BYTES = 400 * 10**6  # of rows; a browser takes some three times as much memory
LARGE = 100 * 10**6  # bytes from which a browser takes its time
BETWEEN_TOKENS = "\ue000"  # private use: HTML and JSON leave it as it is
REPLACED = "\N{REPLACEMENT CHARACTER}"  # that character in somebody's text
CODES = {"control": "c", "template": "t", "people": "p"}  # capital where learned
NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
NOT_IN_HTML = re.compile(f"[<\x7f-\x9f\ufdd0-\ufdef{NONCHARACTERS}]")  # `<`, and what the standard calls a parse error
PLACEHOLDER = re.compile(r"\{\{([a-z_.]+)\}\}")
NAMES = {  # of a kind of warning, beside one row
    EXACT: "page.exact_duplicate",
    NEAR: "page.near_duplicate",
    CONTRADICTION: "page.contradiction",
    OVERLAP: "page.evaluation_overlap",
    PHONE: "page.phone_number",
    IDENTITY: "page.identity_number",
    EMAIL: "page.email_address",
    BANK_CARD: "page.bank_card",
}
TEXTS = (
    "page.title",
    "page.noscript",
    "page.what_is_learned",
    "page.lesson",
    "page.sample_learned",
    "page.sample_people",
    "page.sample_template",
    "page.sample_control",
    "page.token_borders",
    "page.distributions",
    "page.tokens_a_row",
    "page.learned_percent",
    "page.value",
    "page.rows",
    "page.findings",
    "page.kind",
    "page.remedy",
    "page.show",
    "page.filter",
    "page.problem",
    "page.warning",
    "page.all",
    "page.any",
    "page.search",
    "page.least",
    "page.most",
    "page.reset",
    "page.pages_above",
    "page.pages_below",
    "page.previous",
    "page.next",
    "page.no_match",
    "page.no_problem",
    "page.the_file",
    "page.not_here",
    "page.all_tokens",
)
FILLED_IN = {  # texts in which the page's script puts numbers
    "page.matches": ("num_found", "num_rows"),
    "page.page_of": ("number", "num_pages"),
    "page.figures": ("tokens", "learned", "percent"),
    "page.place": ("line", "row"),
    "page.several_tokens": ("number",),
    "page.place_without_line": ("row",),
}


class Page:
    """The page while it is written. Nothing stands under its name before `finish`.

    Args:
        file: where the page goes.
        anatomist: takes rows apart.
        name: the dataset's, for the title.
    """

    def __init__(self, file: Path, anatomist: Anatomist, *, name: str) -> None:
        self.file = file
        self._anatomist = anatomist
        self._pieces: dict[tuple[tuple[str, str], ...], int] = {}
        self._index = {name: array("i") for name in ("row", "line", "tokens", "learned")}
        self._num_left_out = 0
        self._num_bytes = 0
        storage.make_folder(file.parent)
        self._new = storage.NewFile(file)
        head, self._tail = _skeleton(name)
        self._write(head)

    def add(self, conversations: Sequence[Conversation], tokenized: TokenizedDataset) -> None:
        """Write some rows; those beyond the page's limits are counted instead."""
        by_row = {conversation.location.row: conversation for conversation in conversations}
        room = MOST_ROWS - len(self._index["row"]) if self._num_bytes < MOST_BYTES else 0
        shown = tokenized.examples[:room]
        self._num_left_out += len(tokenized.examples) - len(shown)
        if shown:
            rows = [self._row(by_row[example.location.row], example) for example in shown]
            self._write(
                f'<script type="application/json" class="rows" data-rows="{len(rows)}">{as_json(rows)}</script>\n'
            )

    def finish(self, result: CheckResult) -> None:
        """Write what is known at the end, and put the page where it was asked for."""
        cautions = self._cautions(result)
        data = as_json(self._data(result) | {"cautions": [text(key, **values) for key, values in cautions]})
        self._write(f'<script type="application/json" id="data">{data}</script>\n')
        self._write(self._tail)
        self._new.finish()
        for key, values in cautions:
            say(key, **values)

    def abandon(self) -> None:
        """Leave nothing half written behind."""
        self._new.abandon()

    def _write(self, content: str) -> None:
        encoded = content.encode("utf-8", errors="replace")
        self._num_bytes += len(encoded)
        self._new.write(encoded)

    def _row(self, conversation: Conversation, example: TokenizedExample) -> list[int | str]:
        place = example.location
        figures = (place.row, place.line or 0, len(example.input_ids), example.num_supervised)
        for column, figure in zip(self._index.values(), figures, strict=True):
            column.append(figure)
        row: list[int | str] = []
        written: list[tuple[str, str]] = []  # by the template, since people's last text
        for run in self._anatomist.runs(conversation, example):
            code, tokens = _code(run), BETWEEN_TOKENS.join(map(_without_mark, run.tokens))
            if run.writer == "people":
                row += [*self._piece(written), code + tokens]
                written = []
            else:
                written.append((code, tokens))
        return [*row, *self._piece(written)]

    def _piece(self, written: Sequence[tuple[str, str]]) -> list[int]:
        """The number of a piece in the table, or nothing where nothing was written."""
        return [self._pieces.setdefault(tuple(written), len(self._pieces))] if written else []

    def _data(self, result: CheckResult) -> dict[str, object]:
        texts = {key: text(key) for key in TEXTS}
        texts |= {key: text(key, **{name: f"{{{name}}}" for name in names}) for key, names in FILLED_IN.items()}
        return {
            "texts": texts,
            "summary": [*result.counts(with_bars=False), *map(str, result.dataset.notices)],
            "distributions": [found.as_json() for found in result.tally.distributions().values()],
            "index": {name: column.tolist() for name, column in self._index.items()},
            "pieces": list(self._pieces),
            "findings": [finding.as_json() | {"file": None} for finding in result.findings],
            "warnings": [
                {
                    "name": text(NAMES[key]),
                    "sentence": text(key, num_rows=len(rows)),
                    "fix": text(f"{key}.fix"),
                    "rows": [[warning.location.row, warning.location.line, warning.detail] for warning in rows],
                }
                for key, rows in by_kind(result.warnings)
            ],
        }

    def _cautions(self, result: CheckResult) -> list[tuple[str, dict[str, object]]]:
        """What the reader of the page must know about it."""
        found: list[tuple[str, dict[str, object]]] = []
        if self._num_left_out:
            num_rows = len(self._index["row"])
            found.append(("page.left_out", {"num_rows": num_rows, "num_left_out": self._num_left_out}))
        if self._num_bytes > LARGE:
            found.append(("page.large", {"megabytes": self._num_bytes // 10**6}))
        if any(warning.key in PERSONAL for warning in result.warnings):
            found.append(("page.private", {}))
        return found


def as_json(value: object) -> str:
    """JSON that may stand in a script element: no `<`, so nothing in it ends the element or begins another, and no
    character that HTML does not allow."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return NOT_IN_HTML.sub(_escaped, dumped)


def _escaped(char: re.Match[str]) -> str:
    units = char[0].encode("utf-16-be")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def _code(run: Run) -> str:
    code = CODES[run.writer]
    return code.upper() if run.learned else code


def _without_mark(token: str) -> str:
    """A token's text; the mark between tokens, if a row should hold it, is shown as its picture."""
    return token.replace(BETWEEN_TOKENS, REPLACED)


def _skeleton(name: str) -> tuple[str, str]:
    """The page before and after its data."""
    style, script = _part("page.css"), _part("page.js")
    values: Mapping[str, str] = {key: html.escape(text(key)) for key in TEXTS} | {
        "language": {"zh": "zh-CN", "en": "en"}[language()],
        "name": html.escape(name),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    page = PLACEHOLDER.sub(lambda found: values[found[1]], _part("page.html"))
    head, _, tail = page.partition("<!-- data -->\n")
    return head, tail


def _part(name: str) -> str:
    return files("pangzhu.check").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a content security policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
