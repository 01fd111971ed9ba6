"""What is wrong with a dataset, by line: a finding names file, line, field, reason and remedy.

Reading collects findings instead of stopping at the first, so that `check` and `train` show them all at once. What is
worth knowing but not wrong is a notice.
"""

import json
from dataclasses import dataclass, field

from pangzhu.data.conversation import Location
from pangzhu.errors import DataError
from pangzhu.messages import text

SKIPPABLE_PERCENT = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one row (or of the file: then `row` is 0).

    Args:
        key: catalogue key `finding.NAME`; its remedy stands under `finding.NAME.fix`.
        location: the place.
        field_name: the field concerned, `instruction` or `messages[2].content`, or None for the whole row.
        values: what the sentences fill in.
    """

    key: str
    location: Location
    field_name: str | None = None
    values: dict[str, object] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """What is wrong, in the language in force."""
        return text(self.key, **self.values)

    @property
    def fix(self) -> str:
        """How to fix it, in the language in force."""
        return text(f"{self.key}.fix", **self.values)

    def as_json(self) -> dict[str, object]:
        """The finding as plain values."""
        return {
            "key": self.key,
            "file": str(self.location.file),
            "line": self.location.line,
            "row": self.location.row,
            "field": self.field_name,
            "reason": self.reason,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        place = f"{self.location} {self.field_name}" if self.field_name else str(self.location)
        return text("finding.line", place=place, reason=self.reason, fix=self.fix)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a dataset that its owner should know and that stops nothing."""

    key: str
    values: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return text(self.key, **self.values)


class BadRowsError(DataError):
    """A dataset with rows that cannot be trained on; `findings` holds every one of them."""

    def __init__(self, findings: tuple[Finding, ...], *, num_rows: int) -> None:
        first = findings[0].location.file
        super().__init__("error.data.bad_rows", where=str(first), num_findings=len(findings), num_rows=num_rows)
        self.findings = findings

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), super().__str__()])


class TooManyBadRowsError(BadRowsError):
    """More bad rows than skipping permits, or a fault of the whole file, which no skipping heals."""

    def __init__(self, findings: tuple[Finding, ...], *, num_rows: int) -> None:
        where = str(findings[0].location.file)
        self.findings = findings
        if has_file_fault(findings):
            DataError.__init__(self, "error.data.damaged_file", where=where)
            return
        num_bad = count_bad_rows(findings)
        DataError.__init__(
            self,
            "error.data.too_many_bad_rows",
            where=where,
            num_bad=num_bad,
            num_rows=num_rows,
            share=f"{100 * num_bad / max(num_rows, 1):.2f}%",
            num_permitted=count_skippable_rows(num_rows),
            limit=f"{SKIPPABLE_PERCENT}%",
        )


def count_bad_rows(findings: tuple[Finding, ...]) -> int:
    """How many rows the findings concern."""
    return len({finding.location.row for finding in findings} - {0})


def has_file_fault(findings: tuple[Finding, ...]) -> bool:
    """Whether something is wrong with the file itself, so that rows may have gone unseen."""
    return any(finding.location.row == 0 for finding in findings)


def may_skip(findings: tuple[Finding, ...], *, num_rows: int) -> bool:
    """Whether the bad rows may be left out: no more than the limit, and nothing wrong with the file itself."""
    return not has_file_fault(findings) and count_bad_rows(findings) <= count_skippable_rows(num_rows)


def count_skippable_rows(num_rows: int) -> int:
    """How many of `num_rows` may be left out when skipping is asked for: 1%, rounded down."""
    return num_rows * SKIPPABLE_PERCENT // 100


def visible(characters: str, *, limit: int = 60) -> str:
    """At most `limit` characters of what people wrote, safe to print: what has no glyph becomes `·`."""
    shown = characters if len(characters) <= limit else characters[:limit] + "…"
    return "".join(letter if letter.isprintable() else "·" for letter in shown)


def visible_value(value: object) -> str:
    """A JSON value as its file spells it, short and safe to print."""
    try:
        return visible(json.dumps(value, ensure_ascii=False), limit=40)
    except RecursionError:
        return "[[[…"
