"""JSON text to rows: one object a line, one list, a list under `data`, or objects one after another.

Text here has `\n` line ends only; U+2028, U+2029 and U+0085 are ordinary characters. A broken row does not end the
reading where the next one can be found safely: in JSON lines at the next line, elsewhere at a `{` that opens a line no
deeper than the broken row did. Where it cannot, a finding of the whole file (row 0) says so, and nothing may skip it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

from pangzhu.data.conversation import Location
from pangzhu.data.fields import ROW_FIELDS
from pangzhu.data.findings import Finding, visible_value
from pangzhu.data.raw_row import RawRow
from pangzhu.data.strict_json import Decoded, StrictDecoder, is_cut_off, pointer, syntax_finding

BLANK = " \t\n\ufeff"
"""What may stand between rows; U+FEFF is what is left where files with a byte order mark were put together."""

_BLANKS = re.compile(f"[{BLANK}]*")
_LINE_OPENING = re.compile(r"\n([ \t]*)\{")
_DATA_KEY = re.compile(r'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*')


def line_rows(text: str, file: Path) -> Iterator[RawRow]:
    """The rows of JSON lines. Blank lines are no rows."""
    decoder = StrictDecoder()
    row = 0
    for number, line in enumerate(StringIO(text), start=1):
        if line.strip(BLANK):
            row += 1
            yield line_row(decoder, line, location=Location(file, number, row))


def line_row(decoder: StrictDecoder, line: str, *, location: Location) -> RawRow:
    """The row that one line of JSON lines is."""
    start = skip_blanks(line, 0)
    try:
        decoded = decoder.decode(line, start, location=location)
    except json.JSONDecodeError as broken:
        return RawRow(location, {}, (syntax_finding(broken, location),))
    except RecursionError:
        return RawRow(location, {}, (Finding("finding.too_deep", location),))
    after = skip_blanks(line, decoded.end)
    if after < len(line):
        values: dict[str, object] = {"column": after + 1, "picture": pointer(line, after)}
        return RawRow(location, {}, (*decoded.findings, Finding("finding.extra_text", location, None, values)))
    return _as_row(decoded, location)


def list_rows(text: str, file: Path, *, opening: int) -> Iterator[RawRow]:
    """The rows of the list whose bracket stands at `opening`, then what is wrong with the list itself."""
    walk = _Walk(text, file)
    position = _unless_closed(walk, skip_blanks(text, opening + 1))
    while position is not None:
        row, end = walk.row_at(position)
        yield row
        position = walk.find_again(position) if end is None else _next_item(walk, end)
    if walk.closed_at is not None:
        _check_around_list(walk, opening, walk.closed_at + 1)
    yield from walk.faults()


def object_rows(text: str, file: Path) -> Iterator[RawRow]:
    """The rows of a text of objects one after another, pretty-printed or not."""
    walk = _Walk(text, file)
    position: int | None = skip_blanks(text, 0)
    while position is not None and position < len(text):
        row, end = walk.row_at(position)
        yield row
        position = walk.find_again(position) if end is None else _next_object(walk, end)
    yield from walk.faults()


class _Walk:
    """Goes through a text from row to row, and finds its way again after a broken one."""

    def __init__(self, text: str, file: Path) -> None:
        self.text = text
        self.closed_at: int | None = None
        self._file = file
        self._decoder = StrictDecoder()
        self._num_rows = 0
        self._line, self._line_start, self._counted_to = 1, 0, 0
        self._faults: list[Finding] = []
        self._lost_at: int | None = None
        self._is_cut = False
        self._has_crowded_lines = False

    def row_at(self, position: int) -> tuple[RawRow, int | None]:
        """The row that begins at `position`, and the position after it, or None where it is broken."""
        self._num_rows += 1
        if self._num_rows > 1 and not self._opens_line(position):
            self._has_crowded_lines = True
        location = Location(self._file, self._line_at(position), self._num_rows)
        try:
            decoded = self._decoder.decode(self.text, position, location=location)
        except json.JSONDecodeError as broken:
            self._is_cut = is_cut_off(broken)
            return RawRow(location, {}, (syntax_finding(broken, replace(location, line=1)),)), None
        except RecursionError:
            return RawRow(location, {}, (Finding("finding.too_deep", location),)), None
        return _as_row(decoded, location), decoded.end

    def find_again(self, position: int) -> int | None:
        """The row after the broken one at `position`: the next `{` that opens a line no deeper than that one."""
        depth = position - self._line_start_of(position)
        for opening in _LINE_OPENING.finditer(self.text, position):
            if len(opening[1]) <= depth:
                self._lost_at = position
                return opening.end() - 1
        if not self._opens_line(position) and not self._is_cut:
            self.report(Finding("finding.reading_stopped", self.place(position)))
        return None

    def faults(self) -> Iterator[RawRow]:
        """What is wrong with the file rather than with a row."""
        if self._lost_at is not None and self._has_crowded_lines:
            self.report(Finding("finding.reading_stopped", self.place(self._lost_at)))
        for fault in self._faults:
            yield RawRow(fault.location, {}, (fault,))

    def report(self, fault: Finding) -> None:
        """Keep a fault of the file for the end."""
        self._faults.append(fault)

    def place(self, position: int) -> Location:
        """The line of `position`, as a place that belongs to no row."""
        return Location(self._file, self._line_at(position), 0)

    def picture(self, position: int) -> dict[str, object]:
        """What a sentence needs to point at `position`."""
        return {
            "column": position - self._line_start_of(position) + 1,
            "picture": pointer(self.text, position),
        }

    def _line_at(self, position: int) -> int:
        self._count_to(position)
        return self._line

    def _line_start_of(self, position: int) -> int:
        self._count_to(position)
        return self._line_start

    def _count_to(self, position: int) -> None:
        """Count lines from where the last count ended: a list of a million rows may stand on one line."""
        if position >= self._counted_to:
            self._line += self.text.count("\n", self._counted_to, position)
            self._line_start = max(self._line_start, self.text.rfind("\n", self._counted_to, position) + 1)
        else:
            self._line -= self.text.count("\n", position, self._counted_to)
            self._line_start = self.text.rfind("\n", 0, position) + 1
        self._counted_to = position

    def _opens_line(self, position: int) -> bool:
        return skip_blanks(self.text, self._line_start_of(position)) >= position


def _next_item(walk: _Walk, end: int) -> int | None:
    """The row after the one that ended at `end`, or None where the list ends, well or not."""
    mark = skip_blanks(walk.text, end)
    if walk.text.startswith(",", mark):
        after = skip_blanks(walk.text, mark + 1)
        if walk.text.startswith("]", after):
            walk.report(Finding("finding.trailing_comma", walk.place(mark), None, walk.picture(mark)))
        return _unless_closed(walk, after)
    if walk.text.startswith("{", mark):
        walk.report(Finding("finding.comma_between_rows", walk.place(mark), None, walk.picture(mark)))
        return mark
    if mark < len(walk.text) and walk.text[mark] != "]":
        walk.report(Finding("finding.text_outside_rows", walk.place(mark), None, walk.picture(mark)))
        return None
    return _unless_closed(walk, mark)


def _unless_closed(walk: _Walk, position: int) -> int | None:
    if walk.text.startswith("]", position):
        walk.closed_at = position
        return None
    if position < len(walk.text):
        return position
    end = len(walk.text.rstrip())
    walk.report(Finding("finding.list_not_closed", walk.place(end), None, walk.picture(end)))
    return None


def _next_object(walk: _Walk, end: int) -> int:
    mark = skip_blanks(walk.text, end)
    if not walk.text.startswith(",", mark):
        return mark
    walk.report(Finding("finding.text_outside_rows", walk.place(mark), None, walk.picture(mark)))
    return skip_blanks(walk.text, mark + 1)


def _check_around_list(walk: _Walk, opening: int, closed: int) -> None:
    """Nothing may follow a list; one under `data` stands in an object, which has to be right too."""
    is_under_data = walk.text.startswith("{", skip_blanks(walk.text, 0))
    end = _check_envelope(walk, opening, closed) if is_under_data else closed
    if end is None:
        return
    rest = skip_blanks(walk.text, end)
    if rest < len(walk.text):
        walk.report(Finding("finding.text_outside_rows", walk.place(rest), None, walk.picture(rest)))


def _check_envelope(walk: _Walk, opening: int, closed: int) -> int | None:
    """The position after the object around a list that goes from `opening` to `closed`, or None where it is broken.

    A key given twice is a fault: a second `data` would hold rows that nobody reads.
    """
    before = walk.text[:opening] + "[]"
    envelope = before + walk.text[closed:]
    try:
        decoded = StrictDecoder().decode(envelope, skip_blanks(envelope, 0), location=walk.place(opening))
    except json.JSONDecodeError as broken:
        if broken.pos < opening:
            walk.report(syntax_finding(broken, replace(walk.place(0), line=1)))
        else:
            walk.report(Finding("finding.list_not_closed", walk.place(closed), None, walk.picture(closed)))
        return None
    except RecursionError:
        walk.report(Finding("finding.too_deep", walk.place(opening)))
        return None
    for finding in decoded.findings:
        walk.report(finding)
    return closed + decoded.end - len(before)


def find_data_list(text: str) -> int | None:
    """Where the list under a top-level `data` key opens, or None where the text is something else."""
    decoder = json.JSONDecoder()
    position = skip_blanks(text, 0)
    try:
        while key := _DATA_KEY.match(text, position):
            if key[1] == "data":
                return key.end() if text.startswith("[", key.end()) else None
            if key[1] in ROW_FIELDS:
                return None
            _, position = decoder.raw_decode(text, key.end())
    except (ValueError, RecursionError):
        pass
    return None


def is_one_object_a_line(text: str) -> bool:
    """Whether a text that begins with `{` or holds such lines is JSON lines, rather than objects over several lines."""
    start = skip_blanks(text, 0)
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return has_mostly_objects(text)
    rest, _, _ = text[end:].partition("\n")
    return "\n" not in text[start:end] and not rest.strip(BLANK).startswith("{")


def has_mostly_objects(text: str) -> bool:
    """Whether more than half of the lines begin with an object that goes on in the same line."""
    lines = [line.strip(BLANK) for line in StringIO(text) if line.strip(BLANK)]
    return sum(line.startswith("{") and len(line) > 1 for line in lines) * 2 > len(lines)


def skip_blanks(text: str, position: int) -> int:
    """The first position from `position` on that is not blank."""
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position


def _as_row(decoded: Decoded, location: Location) -> RawRow:
    if isinstance(decoded.value, dict):
        return RawRow(location, decoded.value, decoded.findings)
    values: dict[str, object] = {"value": visible_value(decoded.value)}
    return RawRow(location, {}, (*decoded.findings, Finding("finding.not_object", location, None, values)))
