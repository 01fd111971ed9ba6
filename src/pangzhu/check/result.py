"""What a check found, for a reader and for a program."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pangzhu.check.distribution import Distribution
from pangzhu.data import Dataset, Finding
from pangzhu.data.findings import may_skip
from pangzhu.data.quality import RowWarning
from pangzhu.errors import DataError
from pangzhu.messages import text
from pangzhu.tokenization import TokenizedDataset

MOST_EXAMPLES = 5  # rows shown for each kind of warning; JSON and the page have them all


@dataclass(slots=True)
class Tally:
    """Tokens and learned tokens of each row that can be trained on, and what became of the others."""

    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: "array[int]" = field(default_factory=lambda: array("i"))
    findings: list[Finding] = field(default_factory=list)
    num_dropped: int = 0
    num_truncated: int = 0

    def add(self, tokenized: TokenizedDataset) -> None:
        """Count rows in."""
        self.lengths.extend(len(example.input_ids) for example in tokenized.examples)
        self.supervised.extend(example.num_supervised for example in tokenized.examples)
        self.findings += tokenized.findings
        self.num_dropped += tokenized.num_dropped
        self.num_truncated += tokenized.num_truncated

    @property
    def num_supervised(self) -> int:
        """Learned tokens of one pass over the rows."""
        return sum(self.supervised)

    def distributions(self) -> dict[str, Distribution]:
        """Tokens a row and learned tokens in a hundred, by the key of their sentence; nothing where there are no rows."""
        if not self.lengths:
            return {}
        shares = [100 * learned // length for learned, length in zip(self.supervised, self.lengths, strict=True)]
        return {"cli.check.lengths": Distribution.of(self.lengths), "cli.check.shares": Distribution.of(shares)}


@dataclass(frozen=True)
class CheckResult:
    """A dataset read and labelled to its end.

    Args:
        dataset: what was read.
        tally: its rows as the model sees them, counted.
        findings: all rows that cannot be trained on.
        warnings: rows that can, and are worth a look.
        base_name: the base model whose tokens were counted.
        skip_bad: training would leave bad rows out where they are few.
        page: the HTML page that was written.
    """

    dataset: Dataset
    tally: Tally
    findings: tuple[Finding, ...]
    warnings: tuple[RowWarning, ...]
    base_name: str
    skip_bad: bool = False
    page: Path | None = None

    @property
    def exit_code(self) -> int:
        """That of bad data where training would refuse it."""
        return 0 if self._has_what_to_learn and (not self.findings or self._may_skip) else DataError.exit_code

    @property
    def _may_skip(self) -> bool:
        return self.skip_bad and may_skip(self.findings, num_rows=self.dataset.num_rows)

    @property
    def _has_what_to_learn(self) -> bool:
        return self.tally.num_supervised > 0

    def as_json(self) -> dict[str, object]:
        """Counts, and every finding, warning and notice."""
        dataset, tally = self.dataset, self.tally
        distributions = tally.distributions()
        lengths, shares = (distributions.get(key) for key in ("cli.check.lengths", "cli.check.shares"))
        return {
            "path": str(dataset.path),
            "layout": dataset.layout,
            "format": dataset.format_name,
            "encoding": dataset.encoding,
            "sha256": dataset.sha256,
            "num_rows": dataset.num_rows,
            "base": self.base_name,
            "num_examples": len(tally.lengths),
            "num_tokens": sum(tally.lengths),
            "num_supervised": tally.num_supervised,
            "longest": max(tally.lengths, default=0),
            "num_dropped": tally.num_dropped,
            "num_truncated": tally.num_truncated,
            "lengths": lengths and lengths.as_json(),
            "supervised_percent": shares and shares.as_json(),
            "findings": [finding.as_json() for finding in self.findings],
            "warnings": [_kind_as_json(key, rows) for key, rows in by_kind(self.warnings)],
            "notices": [{"key": notice.key, "sentence": str(notice)} for notice in dataset.notices],
            "page": self.page and str(self.page),
        }

    def render(self) -> str:
        """Every finding on a line, the warnings by kind, the notices, then the counts and the verdict."""
        warnings = (line for key, rows in by_kind(self.warnings) for line in _kind_lines(key, rows))
        return "\n".join(
            [*map(str, self.findings), *warnings, *map(str, self.dataset.notices), *self.counts(), *self._where()]
        )

    def counts(self, *, with_bars: bool = True) -> list[str]:
        """What there is and what training would say to it, in a few lines; with histograms where they can be drawn so."""
        dataset, tally = self.dataset, self.tally
        summary = text(
            "cli.check.summary",
            path=dataset.path,
            layout=dataset.layout,
            format=dataset.format_name,
            encoding=dataset.encoding,
            num_rows=dataset.num_rows,
            num_examples=len(tally.lengths),
        )
        tokens = text(
            "cli.check.tokens",
            base=self.base_name,
            num_tokens=sum(tally.lengths),
            num_supervised=tally.num_supervised,
            longest=max(tally.lengths, default=0),
        )
        counts = text(
            "cli.check.counts",
            num_errors=len(self.findings),
            num_warnings=len(self.warnings),
            num_notices=len(dataset.notices),
        )
        return [summary, tokens, *self._distributions(with_bars), *self._overlong(), counts, *self._verdict()]

    def _verdict(self) -> list[str]:
        if not self._has_what_to_learn:
            return [text("error.data.nothing_to_learn")]
        if not self.findings:
            return [text("cli.check.trainable" if self.warnings else "cli.check.clean")]
        return [text("cli.check.skippable")] if self._may_skip else []

    def _where(self) -> list[str]:
        return [text("cli.check.page", page=self.page)] if self.page else []

    def _distributions(self, with_bars: bool) -> Iterator[str]:
        for key, found in self.tally.distributions().items():
            yield text(key, least=found.least, median=found.median, p90=found.p90, most=found.most)
            yield from found.histogram() if with_bars else ()

    def _overlong(self) -> list[str]:
        dropped, truncated = self.tally.num_dropped, self.tally.num_truncated
        return [text("cli.check.overlong", dropped=dropped, truncated=truncated)] if dropped or truncated else []


def by_kind(warnings: tuple[RowWarning, ...]) -> Iterator[tuple[str, list[RowWarning]]]:
    """Warnings, which stand by kind, as kinds with their rows."""
    for key, rows in groupby(warnings, key=lambda warning: warning.key):
        yield key, list(rows)


def _kind_as_json(key: str, rows: list[RowWarning]) -> dict[str, object]:
    return {
        "key": key,
        "sentence": text(key, num_rows=len(rows)),
        "fix": text(f"{key}.fix"),
        "num_rows": len(rows),
        "rows": [warning.as_json() for warning in rows],
    }


def _kind_lines(key: str, rows: list[RowWarning]) -> Iterator[str]:
    yield text("warning.line", reason=text(key, num_rows=len(rows)), fix=text(f"{key}.fix"))
    for warning in rows[:MOST_EXAMPLES]:
        yield f"    {warning}"
    if len(rows) > MOST_EXAMPLES:
        yield "    " + text("warning.more", num_more=len(rows) - MOST_EXAMPLES)
