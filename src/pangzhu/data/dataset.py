"""A file to a dataset: every conversation, every finding, and what the record of a run needs to know of the file.

`find_problems` reads to the end and refuses no row: bad ones stand in `rejected`. `load_dataset` refuses the dataset if a
row is bad, with all findings at once. Not here: leaving bad rows out (`findings.may_skip`, `pangzhu.preparation`).

Try it: `load_dataset(Path("data/raw/instruct_tiny.jsonl")).conversations[0].answer`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pangzhu.data.conversation import Conversation
from pangzhu.data.findings import BadRowsError, Finding, Notice, visible
from pangzhu.data.formats import Converted, convert_row
from pangzhu.data.reading import Layout, Source, open_source, read_rows
from pangzhu.data.row_check import Rules
from pangzhu.errors import DataError


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read of a file.

    Args:
        conversations: the good rows, in file order.
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

    conversations: tuple[Conversation, ...] = field(repr=False)
    path: Path
    layout: Layout
    format_name: str
    encoding: str
    sha256: str
    num_rows: int
    notices: tuple[Notice, ...] = ()
    rejected: tuple[Finding, ...] = ()
    replay: "Dataset | None" = field(default=None, repr=False)
    validation: tuple[Conversation, ...] = field(default=(), repr=False)


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
    source = open_source(Path(path))
    rules = Rules(require_answer, allow_control_tokens)
    tally = _Tally()
    for raw in read_rows(source):
        tally.add(convert_row(raw, rules), is_row=raw.location.row > 0)
    if not tally.num_rows and not tally.findings:
        raise DataError("error.data.no_rows", where=str(path))
    return tally.dataset(source)


class _Tally:
    """What is known so far while rows come in."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.findings: list[Finding] = []
        self._conversations: list[Conversation] = []
        self._formats: dict[str, None] = {}
        self._control_tokens: set[str] = set()
        self._with_control_tokens: list[Conversation] = []

    def add(self, converted: Converted, *, is_row: bool) -> None:
        """Count one row in, or one fault of the file."""
        self.num_rows += is_row
        self.findings += converted.findings
        if converted.format_name:
            self._formats[converted.format_name] = None
        if converted.conversation:
            self._conversations.append(converted.conversation)
            if converted.control_tokens:
                self._control_tokens.update(converted.control_tokens)
                self._with_control_tokens.append(converted.conversation)

    def dataset(self, source: Source) -> Dataset:
        """All of it, put together."""
        return Dataset(
            conversations=tuple(self._conversations),
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
        if self._with_control_tokens:
            values: dict[str, object] = {
                "num_rows": len(self._with_control_tokens),
                "tokens": ", ".join(sorted(self._control_tokens)),
                "first": str(self._with_control_tokens[0].location),
            }
            notices.append(Notice("data.control_tokens", values))
        extra = dict.fromkeys(name for conversation in self._conversations for name, _ in conversation.extra)
        if extra:
            names = ", ".join(visible(name, limit=30) for name in list(extra)[:12])
            notices.append(Notice("data.extra_fields", {"names": names}))
        return notices
