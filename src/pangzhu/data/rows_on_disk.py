"""The rows of a large file, which stay in it: a sequence of conversations that are read when they are asked for.

Of each good row three numbers are kept, the byte at which its line begins, the line and the row; so a sequence is small
whatever the texts are, and one that was read before can be put together again without reading (`pangzhu.row_index`).
"""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pangzhu.data import json_rows
from pangzhu.data.conversation import Conversation, Location
from pangzhu.data.formats import convert_row
from pangzhu.data.line_file import LineFile, as_text, changed
from pangzhu.data.raw_row import RawRow
from pangzhu.data.row_check import Rules
from pangzhu.data.strict_json import StrictDecoder

READ_TOGETHER = 4096  # places in the index that are taken out of it at once

Index = NDArray[np.int64]


class RowsOnDisk(Sequence[Conversation]):
    """Good rows of a file, in order.

    Args:
        file: where they are.
        places: `(number of rows, 3)`: the byte at which a row begins, its line, its row.
        rules: what they were found to satisfy.
    """

    def __init__(self, file: LineFile, places: Index, rules: Rules) -> None:
        self.file = file
        self.places = places
        self.rules = rules

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Conversation: ...
    @overload
    def __getitem__(self, at: slice) -> "RowsOnDisk": ...
    def __getitem__(self, at: int | slice) -> "Conversation | RowsOnDisk":
        if isinstance(at, slice):
            return RowsOnDisk(self.file, self.places[at], self.rules)
        place = range(len(self))[at]
        return next(iter(self[place : place + 1]))

    def __iter__(self) -> Iterator[Conversation]:
        decoder = StrictDecoder()
        with self.file.open() as opened:
            for first in range(0, len(self.places), READ_TOGETHER):
                for start, line, row in self.places[first : first + READ_TOGETHER].tolist():
                    opened.seek(start)
                    location = Location(self.file.path, line, row)
                    yield self._conversation(json_rows.line_row(decoder, as_text(opened.readline()), location=location))

    def answered(self) -> "RowsOnDisk":
        """Those of them that end with an answer."""
        wanted = np.fromiter((row.answer is not None for row in self), dtype=bool, count=len(self))
        return RowsOnDisk(self.file, self.places[wanted], self.rules)

    def _conversation(self, raw: RawRow) -> Conversation:
        conversation = convert_row(raw, self.rules).conversation
        if conversation is None:
            raise changed(self.file.path)
        return conversation


def rows_with_starts(file: LineFile) -> Iterator[tuple[int, RawRow]]:
    """Every row of a file, good or bad, with the byte at which it begins. Blank lines are no rows."""
    decoder = StrictDecoder()
    row = 0
    for number, (start, line) in enumerate(file.lines(), start=1):
        if line.strip(json_rows.BLANK):
            row += 1
            yield start, json_rows.line_row(decoder, line, location=Location(file.path, number, row))
