"""The verb `check`: what training would find wrong with a dataset, before any training."""

from dataclasses import dataclass

from pangzhu.cli.console import finding_as_json
from pangzhu.cli.options import verb
from pangzhu.config import CheckConfig
from pangzhu.data import Dataset, find_problems
from pangzhu.errors import DataError
from pangzhu.examples import example
from pangzhu.messages import say, text


@dataclass(frozen=True)
class CheckResult:
    """A dataset read to its end, with everything found on the way."""

    dataset: Dataset

    @property
    def exit_code(self) -> int:
        """That of bad data where a row is bad."""
        return DataError.exit_code if self.dataset.rejected else 0

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
            "num_conversations": len(dataset.conversations),
            "findings": [finding_as_json(finding) for finding in dataset.rejected],
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
            num_conversations=len(dataset.conversations),
        )
        counts = text("cli.check.counts", num_errors=len(dataset.rejected), num_notices=len(dataset.notices))
        verdict = [] if dataset.rejected else [text("cli.check.clean")]
        return "\n".join([*map(str, dataset.rejected), *map(str, dataset.notices), summary, counts, *verdict])


@verb(CheckConfig, positional=("dataset_path", "DATA"))
def check(config: CheckConfig) -> CheckResult:
    """Read a dataset as training would; the packaged example instructions where none is named."""
    path = config.dataset_path
    if path is None:
        path = example("instruct_tiny.jsonl")
        say("cli.check.example", path=path)
    return CheckResult(find_problems(path, allow_control_tokens=config.allow_control_tokens))
