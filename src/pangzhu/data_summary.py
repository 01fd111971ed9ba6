"""What a run was trained on, in a few figures that travel with the adapter: files, rows, tokens, how long rows are.

Counted once, before training, from the rows as they were labelled; told then, kept in the manifest, and shown by report and
model card. The rows themselves stay where they are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pangzhu.check.distribution import Distribution
from pangzhu.data import Dataset, Finding
from pangzhu.data.findings import count_bad_rows
from pangzhu.preparation import PreparedRows


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows: its name without the folder, of its bytes the sha256, its rows, and how many `--skip_bad` left out."""

    name: str
    sha256: str
    num_rows: int
    num_skipped: int


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The rows of a run.

    Args:
        file: what is to be learned.
        replay: what is trained beside it; None where nothing is.
        num_examples: rows that are trained, those of both files.
        num_replay: of these, rows of the replay file.
        num_held: of these again, rows that are held to the base's own words.
        num_tokens: of one pass.
        num_supervised: of these, learned.
        num_dropped: rows left out because they were too long.
        num_truncated: rows cut.
        num_duplicates: rows of `file` that repeat an earlier one.
        num_contradictions: rows of `file` that answer an earlier one's question otherwise.
        num_facts: different facts that the rows name.
        kinds: rows of each kind that they name.
        lengths: tokens a row.
    """

    file: DataFile
    replay: DataFile | None
    num_examples: int
    num_replay: int
    num_held: int
    num_tokens: int
    num_supervised: int
    num_dropped: int
    num_truncated: int
    num_duplicates: int
    num_contradictions: int
    num_facts: int
    kinds: dict[str, int]
    lengths: Distribution

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.lengths.most

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self) | {"lengths": self.lengths.as_json()}

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> "DataSummary | None":
        """What `as_json` gave; None where an adapter came without it.

        Raises:
            KeyError, TypeError: it was changed.
        """
        if not known:
            return None
        parts = {
            "file": DataFile(**known["file"]),
            "replay": DataFile(**known["replay"]) if known["replay"] else None,
            "lengths": Distribution.from_json(known["lengths"]),
        }
        return cls(**{**known, **parts})


def summarize(rows: PreparedRows) -> DataSummary:
    """The figures of one row or more."""
    dataset, tokenized = rows.dataset, rows.tokenized
    return DataSummary(
        file=_file(dataset, rows.findings),
        replay=_file(dataset.replay, rows.replay_findings) if dataset.replay else None,
        num_examples=len(tokenized.examples),
        num_replay=tokenized.num_replay,
        num_held=tokenized.num_held,
        num_tokens=tokenized.num_tokens,
        num_supervised=tokenized.num_supervised,
        num_dropped=tokenized.num_dropped,
        num_truncated=tokenized.num_truncated,
        num_duplicates=rows.counts.num_duplicates,
        num_contradictions=rows.counts.num_contradictions,
        num_facts=len(rows.counts.facts),
        kinds=dict(rows.counts.kinds),
        lengths=Distribution.of(tokenized.lengths),
    )


def _file(dataset: Dataset, findings: tuple[Finding, ...]) -> DataFile:
    return DataFile(dataset.path.name, dataset.sha256, dataset.num_rows, count_bad_rows(findings))
