"""What an examination gives: facts, findings with their remedies, and both as a report for a reader and for a program."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pangzhu.errors import PangzhuError, VerificationError, with_remedy
from pangzhu.hiding import hide, hide_all
from pangzhu.messages import text

if TYPE_CHECKING:
    from rich.console import RenderableType

INDENT = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so.

    Args:
        key: of its label in the catalogue, `doctor.NAME`; in JSON it is called NAME.
        value: a plain value.
        shown: what a reader sees, where that is not the value itself.
    """

    key: str
    value: object
    shown: str | None = None

    @property
    def name(self) -> str:
        """Its name in JSON."""
        return self.key.removeprefix("doctor.")

    def __str__(self) -> str:
        return str(self.value) if self.shown is None else self.shown


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to act on.

    Args:
        key: catalogue key; its remedy stands under the key with `.fix`.
        is_wrong: whether something will fail; else it is a note.
        where: the file, folder or variable concerned, if there is one.
        values: what the sentences fill in.
    """

    key: str
    is_wrong: bool
    where: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """What is wrong, in the language in force."""
        return text(self.key, **self.values)

    @property
    def fix(self) -> str:
        """What to do, in the language in force."""
        return text(f"{self.key}.fix", **self.values)

    def as_json(self) -> dict[str, object]:
        """The finding as plain values."""
        return {"key": self.key, "wrong": self.is_wrong, "what": self.what, "where": self.where, "fix": self.fix}

    def __str__(self) -> str:
        key = "error.what" if self.is_wrong else "doctor.note"
        return with_remedy(text(key, what=self.what), self.where, self.fix)


def wrong(key: str, /, *, where: str | None = None, **values: object) -> Finding:
    """A finding that makes the command fail."""
    return Finding(key, True, where, values)


def note(key: str, /, *, where: str | None = None, **values: object) -> Finding:
    """A finding that is worth knowing."""
    return Finding(key, False, where, values)


def from_error(error: PangzhuError) -> Finding:
    """What another stage refuses, as a finding that makes the command fail."""
    return Finding(error.key, True, error.where, error.values)


@dataclass(frozen=True, slots=True)
class Examination:
    """What one part of the examination gives."""

    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """An examination under its heading, `doctor.NAME`."""

    key: str
    examination: Examination

    @property
    def name(self) -> str:
        """Its name in JSON."""
        return self.key.removeprefix("doctor.")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The whole report. Secrets are taken out of all that leaves it."""

    parts: tuple[Part, ...]
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def findings(self) -> list[Finding]:
        """Every finding: what is wrong first, then the notes."""
        found = [finding for part in self.parts for finding in part.examination.findings]
        return sorted(found, key=lambda finding: not finding.is_wrong)

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong; else that of a failed verification."""
        return VerificationError.exit_code if any(finding.is_wrong for finding in self.findings) else 0

    def as_json(self) -> dict[str, object]:
        """Facts by part, and the findings."""
        parts = {part.name: {fact.name: fact.value for fact in part.examination.facts} for part in self.parts}
        findings = [finding.as_json() for finding in self.findings]
        return {name: hide_all(value, self.secrets) for name, value in {**parts, "findings": findings}.items()}

    def render(self) -> "RenderableType":
        """A block of facts for each part, then the findings, then how many there are."""
        from rich.console import Group
        from rich.text import Text

        sentences = [*(hide(str(finding), self.secrets) for finding in self.findings), "", self._summary()]
        return Group(*self._blocks(), *map(Text, sentences))

    def _blocks(self) -> "Iterator[RenderableType]":
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        for part in self.parts:
            table = Table.grid(padding=(0, 2))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for fact in part.examination.facts:
                table.add_row(Text(text(fact.key)), Text(hide(str(fact), self.secrets)))
            if table.row_count:
                yield from (Text(text(part.key)), Padding(table, (0, 0, 1, INDENT), expand=False))

    def _summary(self) -> str:
        num_wrong = sum(finding.is_wrong for finding in self.findings)
        num_notes = len(self.findings) - num_wrong
        key = "doctor.something_wrong" if num_wrong else "doctor.notes_only" if num_notes else "doctor.well"
        return text(key, num_wrong=num_wrong, num_notes=num_notes)
