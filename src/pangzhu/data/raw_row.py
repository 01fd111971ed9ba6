"""A row as the file gives it, before anyone asks which format it is in."""

from dataclasses import dataclass

from pangzhu.data.conversation import Location
from pangzhu.data.findings import Finding


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row: its fields, or what is wrong with it.

    A `location` whose row is 0 stands for a fault of the file that belongs to no single row.
    """

    location: Location
    fields: dict[str, object]
    findings: tuple[Finding, ...] = ()
