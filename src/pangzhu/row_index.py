"""What reading a large file gave, kept: where its good rows are, and all that was found.

A second start then neither reads the rows nor looks through them; it takes the hash of the file and finds the rest in the
cache. Left to others: reading (`pangzhu.data`), the rows' tokens (`pangzhu.token_store`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pangzhu import sealed
from pangzhu.data.conversation import Location
from pangzhu.data.dataset import Dataset, read_lines
from pangzhu.data.findings import Finding, Notice
from pangzhu.data.line_file import LineFile
from pangzhu.data.row_check import Rules
from pangzhu.data.rows_on_disk import RowsOnDisk
from pangzhu.messages import say
from pangzhu.sources.cache import disk_errors, locked

FORMAT = 1  # of what is kept, and the version of what reading finds
INDEX = "index"


def kept_or_read(file: LineFile, rules: Rules) -> Dataset:
    """A large file's dataset: as an earlier call left it, or read now.

    Args:
        file: looked through.
        rules: what its rows must satisfy.

    Raises:
        DataError: the file was changed meanwhile.
        ResourceError: the cache cannot be written.
    """
    folder = sealed.folder_for({"kind": INDEX, "format": FORMAT, "data": file.sha256, "rules": asdict(rules)})
    with locked(folder.name, waiting="tokens.waiting"), disk_errors(folder):
        if (known := sealed.unseal(folder)) is not None:
            return _dataset(file, rules, folder, known)
        if sealed.is_begun(folder):
            say("tokens.damaged", folder=folder)
        say("tokens.reading", path=file.path, megabytes=file.state[0] / 1e6)
        dataset, index = read_lines(file, rules)
        sealed.seal(folder, {INDEX: index}, _about(dataset, file))
    return dataset


def findings_as_json(findings: Sequence[Finding]) -> list[list[object]]:
    """Findings of one file, whose path they do without."""
    return [[found.key, found.location.line, found.location.row, found.field_name, found.values] for found in findings]


def findings_from_json(kept: Sequence[Any], file: Path) -> tuple[Finding, ...]:
    """What `findings_as_json` gave, of a file that may have another name now."""
    return tuple(Finding(key, Location(file, line, row), name, values) for key, line, row, name, values in kept)


def _about(dataset: Dataset, file: LineFile) -> dict[str, object]:
    return {
        "format_name": dataset.format_name,
        "num_rows": dataset.num_rows,
        "rejected": findings_as_json(dataset.rejected),
        "notices": [[notice.key, notice.values] for notice in dataset.notices[len(file.notices) :]],
    }


def _dataset(file: LineFile, rules: Rules, folder: Path, known: dict[str, Any]) -> Dataset:
    return Dataset(
        conversations=RowsOnDisk(file, sealed.load(folder, INDEX), rules),
        path=file.path,
        layout=file.layout,
        format_name=known["format_name"],
        encoding=file.encoding,
        sha256=file.sha256,
        num_rows=known["num_rows"],
        notices=(*file.notices, *(Notice(key, values) for key, values in known["notices"])),
        rejected=findings_from_json(known["rejected"], file.path),
    )
