"""The verb `check`: what training would find wrong with a dataset, before any training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangzhu.cli.console import finding_as_json
from pangzhu.cli.options import verb
from pangzhu.config import CheckConfig
from pangzhu.data import Dataset, Finding
from pangzhu.errors import DataError
from pangzhu.messages import text

if TYPE_CHECKING:
    from pangzhu.tokenization import TokenizedDataset


@dataclass(frozen=True)
class CheckResult:
    """A dataset read and labelled to its end; `findings` are all rows that cannot be trained on."""

    dataset: Dataset
    tokenized: "TokenizedDataset"
    findings: tuple[Finding, ...]
    base_name: str

    @property
    def exit_code(self) -> int:
        """That of bad data where a row is bad."""
        return DataError.exit_code if self.findings else 0

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
            "findings": [finding_as_json(finding) for finding in self.findings],
            "notices": [{"key": notice.key, "sentence": str(notice)} for notice in dataset.notices],
        }

    def render(self) -> str:
        """Every finding and notice on a line, then the counts."""
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
        verdict = [] if self.findings else [text("cli.check.clean")]
        return "\n".join([*map(str, self.findings), *map(str, dataset.notices), summary, tokens, counts, *verdict])


@verb(CheckConfig, positional=("dataset_path", "DATA"))
def check(config: CheckConfig) -> CheckResult:
    """Read and label a dataset as training would; the packaged example instructions where none is named."""
    from pangzhu.preparation import label_rows, prepare_base, read_dataset

    dataset = read_dataset(config)
    base = prepare_base(config, system=config.system)
    rows = label_rows(dataset, config, base)
    return CheckResult(dataset, rows.tokenized, rows.findings, base.source.name)
