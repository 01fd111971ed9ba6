"""The verb `check`: what training would find wrong with a dataset, before any training."""

from typing import TYPE_CHECKING

from pangzhu.cli.options import verb
from pangzhu.config import CheckConfig

if TYPE_CHECKING:
    from pangzhu.check import CheckResult


OFFERED = tuple(name for name in CheckConfig.model_fields if name != "replay_path")  # a file to be checked by itself


@verb(CheckConfig, positional=("dataset_path", "DATA"), only=OFFERED)
def check(config: CheckConfig) -> "CheckResult":
    """Read and label a dataset as training would; the packaged example instructions where none is named."""
    from pangzhu.check import check as run

    return run(config)
