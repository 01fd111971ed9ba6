"""What is wrong with a dataset, by line: a finding names file, line, field, reason and remedy.

Reading collects findings instead of stopping at the first, so that `check` and `train` show them all at once.
"""

from dataclasses import dataclass, field

from pangzhu.data.conversation import Location
from pangzhu.errors import DataError
from pangzhu.messages import text


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

    def __str__(self) -> str:
        place = f"{self.location} {self.field_name}" if self.field_name else str(self.location)
        return text("finding.line", place=place, reason=self.reason, fix=self.fix)


class BadRowsError(DataError):
    """A dataset with rows that cannot be trained on; `findings` holds every one of them."""

    def __init__(self, findings: tuple[Finding, ...], *, num_rows: int) -> None:
        first = findings[0].location.file
        super().__init__("error.data.bad_rows", where=str(first), num_findings=len(findings), num_rows=num_rows)
        self.findings = findings

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), super(BadRowsError, self).__str__()])
