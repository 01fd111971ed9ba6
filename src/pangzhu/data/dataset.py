"""A file to a dataset: every conversation, every finding, and what the record of a run needs to know of the file.

`find_problems` reads to the end and refuses no row: bad ones stand in `rejected`. `load_dataset` refuses the dataset if a
row is bad, with all findings at once. Of a large file of JSON lines the rows stay on the disk (`rows_on_disk`); they are read
again where they are asked for. Not here: leaving bad rows out (`findings.may_skip`, `pangzhu.preparation`).

Try it: `load_dataset(Path("data/raw/instruct_tiny.jsonl")).conversations[0].answer`.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pangzhu.data.conversation import Conversation
from pangzhu.data.findings import BadRowsError, Finding, Notice, visible
from pangzhu.data.formats import Converted, convert_row
from pangzhu.data.line_file import LineFile, open_lines
from pangzhu.data.reading import Layout, Source, open_source, read_rows
from pangzhu.data.row_check import Rules
from pangzhu.data.rows_on_disk import Index, RowsOnDisk, rows_with_starts
from pangzhu.errors import DataError


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read of a file.

    Args:
        conversations: the good rows, in file order; those of a large file are read at each pass over them.
        path: the file.
        layout: how its rows are laid out.
        format_name: `alpaca`, `messages`, `conversations`; several are joined by `+`.
        encoding: what it was encoded in.
        sha256: of its bytes, in hexadecimal.
        num_rows: rows seen, good or bad.
        notices: worth knowing, not wrong.
        rejected: the findings of the rows that are not among `conversations`, and of the file itself.
        replay: another file, whose rows are trained beside these and are not what is to be learned.
        validation: rows of another file that are measured and never trained.
    """

    conversations: Sequence[Conversation] = field(repr=False)
    path: Path
    layout: Layout
    format_name: str
    encoding: str
    sha256: str
    num_rows: int
    notices: tuple[Notice, ...] = ()
    rejected: tuple[Finding, ...] = ()
    replay: "Dataset | None" = field(default=None, repr=False)
    validation: Sequence[Conversation] = field(default=(), repr=False)


def load_dataset(path: Path, *, require_answer: bool = True) -> Dataset:
    """Read a dataset none of whose rows is bad.

    Args:
        path: the file.
        require_answer: every row must end with an answer.

    Raises:
        BadRowsError: rows are bad; carries every finding.
        DataError: the file cannot be read or has no rows.
    """
    dataset = find_problems(path, require_answer=require_answer)
    if dataset.rejected:
        raise BadRowsError(dataset.rejected, num_rows=dataset.num_rows)
    return dataset


def find_problems(path: Path, *, require_answer: bool = True, allow_control_tokens: bool = False) -> Dataset:
    """Read a dataset to its end, whatever is wrong with its rows.

    Args:
        path: the file.
        require_answer: every row must end with an answer.
        allow_control_tokens: answers may contain control tokens.

    Raises:
        DataError: the file cannot be read or has no rows.
    """
    rules = Rules(require_answer, allow_control_tokens)
    file = open_lines(Path(path))
    return _read_whole(Path(path), rules) if file is None else read_lines(file, rules)[0]


def read_lines(file: LineFile, rules: Rules) -> tuple[Dataset, Index]:
    """As `find_problems`, of a large file: the texts of its rows are not kept; and the index of the good ones."""
    tally = _Tally()
    places = array("q")
    for start, raw in rows_with_starts(file):
        converted = convert_row(raw, rules)
        tally.add(converted, is_row=True)
        if converted.conversation:
            places.extend((start, raw.location.line or 0, raw.location.row))
    index = np.array(places, dtype=np.int64).reshape(-1, 3)
    return tally.dataset(file, RowsOnDisk(file, index, rules)), index


def _read_whole(path: Path, rules: Rules) -> Dataset:
    source = open_source(path)
    tally = _Tally()
    conversations: list[Conversation] = []
    for raw in read_rows(source):
        converted = convert_row(raw, rules)
        tally.add(converted, is_row=raw.location.row > 0)
        if converted.conversation:
            conversations.append(converted.conversation)
    if not tally.num_rows and not tally.findings:
        raise DataError("error.data.no_rows", where=str(path))
    return tally.dataset(source, tuple(conversations))


class _Tally:
    """What is known so far while rows come in."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.findings: list[Finding] = []
        self._formats: dict[str, None] = {}
        self._extra: dict[str, None] = {}
        self._control_tokens: set[str] = set()
        self._num_with_control_tokens = 0
        self._first_with_control_tokens = ""

    def add(self, converted: Converted, *, is_row: bool) -> None:
        """Count one row in, or one fault of the file."""
        self.num_rows += is_row
        self.findings += converted.findings
        if converted.format_name:
            self._formats[converted.format_name] = None
        if converted.conversation:
            self._extra |= dict.fromkeys(name for name, _ in converted.conversation.extra)
            if converted.control_tokens:
                self._control_tokens.update(converted.control_tokens)
                self._num_with_control_tokens += 1
                self._first_with_control_tokens = self._first_with_control_tokens or str(
                    converted.conversation.location
                )

    def dataset(self, source: Source | LineFile, conversations: Sequence[Conversation]) -> Dataset:
        """All of it, put together."""
        return Dataset(
            conversations=conversations,
            path=source.path,
            layout=source.layout,
            format_name="+".join(self._formats),
            encoding=source.encoding,
            sha256=source.sha256,
            num_rows=self.num_rows,
            notices=(*source.notices, *self._notices()),
            rejected=tuple(self.findings),
        )

    def _notices(self) -> list[Notice]:
        notices = []
        if self._num_with_control_tokens:
            values: dict[str, object] = {
                "num_rows": self._num_with_control_tokens,
                "tokens": ", ".join(sorted(self._control_tokens)),
                "first": self._first_with_control_tokens,
            }
            notices.append(Notice("data.control_tokens", values))
        if self._extra:
            names = ", ".join(visible(name, limit=30) for name in list(self._extra)[:12])
            notices.append(Notice("data.extra_fields", {"names": names}))
        return notices
