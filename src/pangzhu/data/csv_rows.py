"""CSV text to rows: a header of field names, then one row a record; comma, semicolon or tab between the cells.

All cells are texts. A record may span lines (a line break inside quotation marks); its place is its first line.
Records without any text, as spreadsheets leave them at the end, are blank lines. A quotation mark out of place may
swallow the rows that follow; a broken record of several lines is therefore a fault of the file, which nothing may skip.
What the fields mean is not asked here.
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from pangzhu.data.conversation import Location
from pangzhu.data.fields import ROW_FIELDS
from pangzhu.data.findings import Finding, visible
from pangzhu.data.raw_row import RawRow
from pangzhu.errors import DataError, nearest

DELIMITERS = ",;\t"
_LONGEST_CELL = 2**31 - 1


def delimiter_of(text: str) -> str:
    """The delimiter that stands most often in the first line."""
    return max(DELIMITERS, key=text.lstrip("\n").partition("\n")[0].count)


def read_header(text: str, file: Path) -> list[str]:
    """The field names of the first record.

    Raises:
        DataError: the text is no CSV, or its header names no field that is known, or one twice.
    """
    cells = _first_record(text)
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    if set(names).isdisjoint(ROW_FIELDS):
        _refuse_header(names, file)
    if twice := sorted({visible(name) for name in names if names.count(name) > 1}):
        raise DataError("error.data.header_twice", where=f"{file}:1", name=twice[0])
    return names


def _first_record(text: str) -> list[str]:
    with _long_cells():
        try:
            return next(filter(None, csv.reader(StringIO(text), delimiter=delimiter_of(text))), [])
        except csv.Error:
            return []


def _refuse_header(names: list[str], file: Path) -> None:
    shown = ", ".join(visible(name, limit=30) for name in names[:8])
    if len(names) < 2 and not any(nearest(name, ROW_FIELDS) for name in names):
        raise DataError("error.data.unknown_content", where=f"{file}:1", beginning=shown)
    hints = (nearest(name, ROW_FIELDS) for name in names)
    raise DataError("error.data.header_unknown", where=f"{file}:1", names=shown, hint=next(filter(None, hints), ""))


def csv_rows(text: str, file: Path) -> Iterator[RawRow]:
    """The rows of a CSV text, by its header."""
    names = read_header(text, file)
    row = 0
    for record in _records(text):
        if isinstance(record.cells, list) and not any(map(str.strip, record.cells)):
            continue
        row += 1
        yield _as_row(record, names, location=Location(file, record.line, row))


@dataclass(frozen=True, slots=True)
class _Record:
    """The cells of a record, or what csv complains of, and its first and last line."""

    cells: list[str] | csv.Error
    line: int
    last_line: int


def _as_row(record: _Record, names: list[str], *, location: Location) -> RawRow:
    place = location if record.line == record.last_line else replace(location, row=0)
    if isinstance(record.cells, csv.Error):
        values: dict[str, object] = {"reason": str(record.cells), "last_line": record.last_line}
        return RawRow(place, {}, (Finding("finding.csv_broken", place, None, values),))
    if len(record.cells) != len(names):
        values = {"num_cells": len(record.cells), "num_columns": len(names), "last_line": record.last_line}
        return RawRow(place, {}, (Finding("finding.csv_columns", place, None, values),))
    return RawRow(location, dict(zip(names, record.cells, strict=True)))


def _records(text: str) -> Iterator[_Record]:
    """The records below the header."""
    reader = csv.reader(StringIO(text), delimiter=delimiter_of(text), strict=True)
    header_seen = False
    while True:
        line = reader.line_num + 1
        try:
            with _long_cells():
                cells = next(reader)
        except StopIteration:
            return
        except csv.Error as broken:
            yield _Record(broken, line, reader.line_num)
            continue
        if header_seen and cells:
            yield _Record(cells, line, reader.line_num)
        header_seen = header_seen or bool(cells)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be as long as it is; csv's limit of 128 KiB is one for the whole process, so it is put back."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
