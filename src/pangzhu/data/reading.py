"""A file to raw rows: its bytes, its encoding, its layout, then row by row with the place of each.

The layout is told by content: a list, a list under `data`, one object a line, objects one after another, or CSV. The
extension decides nothing; where it says something else, a notice says so. What the fields of a row mean is the next
stage's matter (`formats`).

Try it: `source = open_source(Path("data/raw/instruct_tiny.jsonl")); next(read_rows(source)).fields`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pangzhu.data import csv_rows, json_rows
from pangzhu.data.encoding import decode
from pangzhu.data.findings import Notice
from pangzhu.data.raw_row import RawRow
from pangzhu.errors import DataError, nearest

Layout = Literal["JSON list", "JSON data key", "JSON lines", "JSON objects", "CSV", "TSV"]

_EXTENSIONS: dict[str, tuple[Layout, ...]] = {
    ".json": ("JSON list", "JSON data key", "JSON objects"),
    ".jsonl": ("JSON lines",),
    ".ndjson": ("JSON lines",),
    ".csv": ("CSV",),
    ".tsv": ("TSV",),
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file read and decoded, its line ends all `\\n`.

    Args:
        path: the file.
        text: all of it.
        encoding: what it was encoded in.
        sha256: of its bytes, in hexadecimal.
        layout: how its rows are laid out.
    """

    path: Path
    text: str = field(repr=False)
    encoding: str
    sha256: str
    layout: Layout

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What its owner should know about how the file was read."""
        return notices_of(self.path, self.encoding, self.layout)


def open_source(path: Path) -> Source:
    """Read and decode a file and tell its layout.

    Raises:
        DataError: there is no such file, it cannot be read, it is empty, or it is no text of a known layout.
    """
    raw = _read_bytes(path)
    decoded, encoding = decode(raw, path)
    text = decoded.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip(json_rows.BLANK):
        raise DataError("error.data.empty", where=str(path))
    return Source(path, text, encoding, hashlib.sha256(raw).hexdigest(), tell_layout(text, path))


def notices_of(path: Path, encoding: str, layout: Layout) -> tuple[Notice, ...]:
    """What is worth knowing of a file's encoding, and of an extension that says something else than its content."""
    notices = []
    if encoding != "UTF-8":
        notices.append(Notice("data.read_as", {"file": path.name, "encoding": encoding}))
    extension = path.suffix.lower()
    if layout not in _EXTENSIONS.get(extension, (layout,)):
        notices.append(Notice("data.wrong_extension", {"extension": extension, "layout": layout}))
    return tuple(notices)


def read_rows(source: Source) -> Iterator[RawRow]:
    """The rows in file order, bad ones with their findings; what is wrong with the file itself comes last as row 0."""
    text, path = source.text, source.path
    match source.layout:
        case "JSON list":
            return json_rows.list_rows(text, path, opening=json_rows.skip_blanks(text, 0))
        case "JSON data key":
            return json_rows.list_rows(text, path, opening=json_rows.find_data_list(text) or 0)
        case "JSON lines":
            return json_rows.line_rows(text, path)
        case "JSON objects":
            return json_rows.object_rows(text, path)
        case "CSV" | "TSV":
            return csv_rows.csv_rows(text, path)


def tell_layout(text: str, path: Path) -> Layout:
    """How the rows of a text are laid out.

    Raises:
        DataError: neither JSON nor a CSV with a known field in its header.
    """
    start = text[json_rows.skip_blanks(text, 0)]
    if start == "[":
        return "JSON list"
    if start == "{" and json_rows.find_data_list(text) is not None:
        return "JSON data key"
    if start == "{" or json_rows.has_mostly_objects(text):
        return "JSON lines" if json_rows.is_one_object_a_line(text) else "JSON objects"
    csv_rows.read_header(text, path)
    return "TSV" if csv_rows.delimiter_of(text) == "\t" else "CSV"


def _read_bytes(path: Path) -> bytes:
    where = str(path)
    if path.is_dir():
        raise DataError("error.data.is_folder", where=where)
    try:
        return path.read_bytes()
    except FileNotFoundError as missing:
        raise DataError("error.data.not_found", where=where, hint=_nearest_file(path)) from missing
    except PermissionError as refused:
        raise DataError("error.data.no_permission", where=where) from refused
    except OSError as unreadable:
        raise DataError("error.data.unreadable", where=where, reason=unreadable.strerror) from unreadable


def _nearest_file(path: Path) -> str:
    try:
        return nearest(path.name, [sibling.name for sibling in path.parent.iterdir()])
    except OSError:
        return ""
