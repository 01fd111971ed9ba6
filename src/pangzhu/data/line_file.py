"""A large file of JSON lines, read a line at a time and never as a whole.

Only what would be read the same as a whole goes this way: UTF-8 throughout, with no NUL and no lone CR in it, and an object
in the first line. All else is left to `pangzhu.data.reading`, which names what is wrong. The file is looked through once
for that and for its hash; whoever reads it later is refused where it is no longer the same.

Try it: `open_lines(Path("large.jsonl"))`, which is None for a file of less than `WHOLE_BELOW` bytes.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pangzhu.data.findings import Notice
from pangzhu.data.json_rows import skip_blanks
from pangzhu.data.reading import Layout, notices_of, tell_layout
from pangzhu.errors import DataError

WHOLE_BELOW = 8 << 20  # bytes: a smaller file is read as a whole
PIECE = 1 << 20  # bytes that are looked through together

State = tuple[int, int]  # size, and time of the last change in nanoseconds


@dataclass(frozen=True, slots=True)
class LineFile:
    """A file that was looked through.

    Args:
        path: the file.
        encoding: UTF-8, with a byte order mark or without.
        sha256: of its bytes, in hexadecimal.
        start: the byte at which its first line begins.
        state: what it looked like from outside.
    """

    path: Path
    encoding: str
    sha256: str
    start: int
    state: State

    @property
    def layout(self) -> Layout:
        """How its rows are laid out."""
        return "JSON lines"

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What its owner should know about how it was read."""
        return notices_of(self.path, self.encoding, self.layout)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, for reading.

        Raises:
            DataError: it is gone, or was changed since it was looked through.
        """
        try:
            opened = self.path.open("rb")
        except OSError as gone:
            raise DataError("error.data.unreadable", where=str(self.path), reason=gone.strerror) from gone
        with opened:
            if _state(opened) != self.state:
                raise changed(self.path)
            yield opened

    def lines(self) -> Iterator[tuple[int, str]]:
        """Every line with the byte at which it begins; blank ones too."""
        with self.open() as opened:
            start = opened.seek(self.start)
            for line in opened:
                yield start, as_text(line)
                start += len(line)


def open_lines(path: Path) -> LineFile | None:
    """The file, looked through; None where it is small, cannot be read, or is to be read as a whole."""
    try:
        if path.stat().st_size < WHOLE_BELOW:  # a pipe too, which can be opened only once
            return None
        with path.open("rb") as opened:
            state = _state(opened)
            marked = opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
            start = opened.seek(len(codecs.BOM_UTF8) if marked else 0)
            if not _begins_with_object(opened.read(PIECE), path):
                return None
            opened.seek(0)
            sha256 = _look_through(opened)
    except OSError:
        return None
    return LineFile(path, "UTF-8 with BOM" if marked else "UTF-8", sha256, start, state) if sha256 else None


def as_text(line: bytes) -> str:
    """A line of such a file, its end `\\n`."""
    return line.decode("utf-8").replace("\r\n", "\n")


def changed(path: Path) -> DataError:
    """The refusal of a file that somebody writes to."""
    return DataError("error.data.changed", where=str(path))


def _state(opened: BinaryIO) -> State:
    status = os.fstat(opened.fileno())
    return status.st_size, status.st_mtime_ns


def _begins_with_object(head: bytes, path: Path) -> bool:
    """Whether the first line that is not blank is an object, whole, and the layout that of JSON lines."""
    line, end, _ = head.lstrip().partition(b"\n")
    try:
        text = line.decode("utf-8")
        json.JSONDecoder().raw_decode(text, skip_blanks(text, 0))
    except (ValueError, RecursionError):
        return False
    return end == b"\n" and tell_layout(text, path) == "JSON lines"


def _look_through(opened: BinaryIO) -> str | None:
    """The hash of the bytes; None where they are not all UTF-8 with lines that end in `\\n` or `\\r\\n`."""
    digest = hashlib.sha256()
    while lines := opened.readlines(PIECE):
        piece = b"".join(lines)
        digest.update(piece)
        if b"\0" in piece or piece.count(b"\r") != piece.count(b"\r\n"):
            return None
        try:
            piece.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return digest.hexdigest()
