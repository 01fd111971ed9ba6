"""Strict JSON: one value at a time, with everything wrong about it named.

Python's `json` lets through what RFC 8259 leaves undefined and what would spoil a dataset in silence: a key given
twice (the last one wins), NaN, numbers beyond float64, lone surrogates. Here each is a finding of its row. What `json`
refuses becomes a finding with the piece of the line and a caret under the column.

Positions count characters; who decodes decides what a row is (see `json_rows`).
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pangzhu.data.conversation import Location
from pangzhu.data.findings import Finding, visible

_LONGEST_INTEGER = 300
_BEFORE, _AFTER = 40, 24
_BLANK_TO_THE_END = re.compile(r"\s*+\Z")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A value, the position after it, and what is wrong with it although it could be read."""

    value: object
    end: int
    findings: tuple[Finding, ...]


class StrictDecoder:
    """Decodes one value at a time and collects what Python's decoder would let through."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._location: Location
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=self._float,
            parse_int=self._int,
            parse_constant=self._constant,
        )

    def decode(self, document: str, start: int, *, location: Location) -> Decoded:
        """The value that begins at `start`.

        Raises:
            json.JSONDecodeError: the syntax is broken.
            RecursionError: the value is nested too deep.
        """
        self._findings, self._location = [], location
        value, end = self._decoder.raw_decode(document, start)
        if document.find("\\u", start, end) >= 0:
            for place in _lone_surrogates(value, ""):
                self._findings.append(Finding("finding.lone_surrogate", location, visible(place)))
        return Decoded(value, end, tuple(self._findings))

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        collected: dict[str, object] = {}
        for key, value in pairs:
            if key in collected:
                name = visible(key)
                self._findings.append(Finding("finding.duplicate_key", self._location, name, {"name": name}))
            collected[key] = value
        return collected

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._too_large(digits)
        return number

    def _int(self, digits: str) -> int:
        if len(digits) <= _LONGEST_INTEGER:
            return int(digits)
        self._too_large(digits)
        return 0

    def _too_large(self, digits: str) -> None:
        self._findings.append(
            Finding("finding.number_too_large", self._location, None, {"value": visible(digits, limit=20)})
        )

    def _constant(self, name: str) -> None:
        self._findings.append(Finding("finding.not_a_number", self._location, None, {"value": name}))


def _lone_surrogates(value: object, place: str) -> Iterator[str]:
    """The places, as `messages[2].content`, of texts with half a surrogate pair."""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{place}.{key}" if place else key
            yield from _lone_surrogates(key, inner)
            yield from _lone_surrogates(item, inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _lone_surrogates(item, f"{place}[{index}]")


_Maker = Callable[[Location, dict[str, object]], Finding]

_BY_COMPLAINT: dict[str, _Maker] = {
    "Expecting ',' delimiter": lambda place, values: Finding("finding.missing_comma", place, None, values),
    "Expecting ':' delimiter": lambda place, values: Finding("finding.missing_colon", place, None, values),
    "Expecting property name": lambda place, values: Finding("finding.bad_key", place, None, values),
    "Illegal trailing comma": lambda place, values: Finding("finding.bad_key", place, None, values),
    "Invalid control character": lambda place, values: Finding("finding.control_character", place, None, values),
    "Invalid \\": lambda place, values: Finding("finding.bad_escape", place, None, values),
}


def syntax_finding(broken: json.JSONDecodeError, location: Location) -> Finding:
    """The finding for what Python's decoder complained of, with a caret under the column.

    Args:
        broken: the complaint.
        location: the row; its line is that of the document's first character.
    """
    cut = is_cut_off(broken)
    position = len(broken.doc.rstrip()) if cut else broken.pos
    lines_before = broken.doc.count("\n", 0, position) if cut else broken.lineno - 1  # counted by json already
    place = replace(location, line=(location.line or 1) + lines_before)
    column = position - broken.doc.rfind("\n", 0, position)
    values: dict[str, object] = {"column": column, "picture": pointer(broken.doc, position)}
    if cut:
        return Finding("finding.cut_off", place, None, values)
    if broken.doc.startswith("\n", broken.pos):
        return Finding("finding.unclosed_text", place, None, values)
    for complaint, make in _BY_COMPLAINT.items():
        if broken.msg.startswith(complaint):
            return make(place, values)
    return Finding("finding.bad_value", place, None, values)


def is_cut_off(broken: json.JSONDecodeError) -> bool:
    """Whether the text ended before the value did."""
    if broken.msg.startswith("Unterminated string"):
        return True
    return _BLANK_TO_THE_END.match(broken.doc, broken.pos) is not None


def pointer(document: str, position: int) -> str:
    """The piece of the line around `position`, and a caret below it; wide characters count as two columns."""
    furthest = max(0, position - _BEFORE)
    line_start = document.rfind("\n", max(0, furthest - 1), position) + 1  # 0 where the line begins further back
    line_end = document.find("\n", position, position + _AFTER)
    start = max(line_start, furthest)
    stop = line_end if line_end >= 0 else position + _AFTER
    before = ("…" if start > line_start else "") + visible(document[start:position])
    column = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in before)
    return f"\n    {before}{visible(document[position:stop])}\n    {' ' * column}^\n "
