"""The verb `check`: what training would find wrong with a dataset, before any training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangzhu.cli.console import finding_as_json
from pangzhu.cli.options import verb
from pangzhu.config import CheckConfig
from pangzhu.data import Dataset, Finding
from pangzhu.data.findings import may_skip
from pangzhu.errors import DataError
from pangzhu.messages import text

if TYPE_CHECKING:
    from pangzhu.tokenization import TokenizedDataset


@dataclass(frozen=True)
class CheckResult:
    """A dataset read and labelled to its end.

    Args:
        dataset: what was read.
        tokenized: its rows as the model sees them.
        findings: all rows that cannot be trained on.
        base_name: the base model whose tokens were counted.
        skip_bad: training would leave bad rows out where they are few.
    """

    dataset: Dataset
    tokenized: "TokenizedDataset"
    findings: tuple[Finding, ...]
    base_name: str
    skip_bad: bool = False

    @property
    def exit_code(self) -> int:
        """That of bad data where training would refuse it."""
        return 0 if self._has_what_to_learn and (not self.findings or self._may_skip) else DataError.exit_code

    @property
    def _may_skip(self) -> bool:
        return self.skip_bad and may_skip(self.findings, num_rows=self.dataset.num_rows)

    @property
    def _has_what_to_learn(self) -> bool:
        return self.tokenized.num_supervised > 0

    def as_json(self) -> dict[str, object]:
        """Counts, and every finding and notice."""
        dataset = self.dataset
        return {
            "path": str(dataset.path),
            "layout": dataset.layout,
            "format": dataset.format_name,
            "encoding": dataset.encoding,
            "sha256": dataset.sha256,
            "num_rows": dataset.num_rows,
            "base": self.base_name,
            "num_examples": len(self.tokenized.examples),
            "num_tokens": self.tokenized.num_tokens,
            "num_supervised": self.tokenized.num_supervised,
            "longest": self.tokenized.longest,
            "num_dropped": self.tokenized.num_dropped,
            "num_truncated": self.tokenized.num_truncated,
            "findings": [finding_as_json(finding) for finding in self.findings],
            "notices": [{"key": notice.key, "sentence": str(notice)} for notice in dataset.notices],
        }

    def render(self) -> str:
        """Every finding and notice on a line, then the counts and the verdict."""
        return "\n".join([*map(str, self.findings), *map(str, self.dataset.notices), *self._counts(), *self._verdict()])

    def _counts(self) -> list[str]:
        dataset = self.dataset
        summary = text(
            "cli.check.summary",
            path=dataset.path,
            layout=dataset.layout,
            format=dataset.format_name,
            encoding=dataset.encoding,
            num_rows=dataset.num_rows,
            num_examples=len(self.tokenized.examples),
        )
        tokens = text(
            "cli.check.tokens",
            base=self.base_name,
            num_tokens=self.tokenized.num_tokens,
            num_supervised=self.tokenized.num_supervised,
            longest=self.tokenized.longest,
        )
        counts = text("cli.check.counts", num_errors=len(self.findings), num_notices=len(dataset.notices))
        return [summary, tokens, *self._overlong(), counts]

    def _overlong(self) -> list[str]:
        dropped, truncated = self.tokenized.num_dropped, self.tokenized.num_truncated
        return [text("cli.check.overlong", dropped=dropped, truncated=truncated)] if dropped or truncated else []

    def _verdict(self) -> list[str]:
        if not self._has_what_to_learn:
            return [text("error.data.nothing_to_learn")]
        if not self.findings:
            return [text("cli.check.clean")]
        return [text("cli.check.skippable")] if self._may_skip else []


@verb(CheckConfig, positional=("dataset_path", "DATA"))
def check(config: CheckConfig) -> CheckResult:
    """Read and label a dataset as training would; the packaged example instructions where none is named."""
    from pangzhu.preparation import label_rows, prepare_base, read_dataset

    dataset = read_dataset(config)
    base = prepare_base(config, system=config.system)
    rows = label_rows(dataset, config, base)
    return CheckResult(dataset, rows.tokenized, rows.findings, base.source.name, config.skip_bad)
