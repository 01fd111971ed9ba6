"""Where a run's figures go beside its own `metrics.jsonl`: TensorBoard, SwanLab, Weights & Biases (`--report_to`).

transformers' own callbacks do the reporting; here it is settled beforehand that each tracker is installed, and where
TensorBoard's files stand: in the run folder, `run/tensorboard`. Nothing is reported unless it is asked for.

Try it: `pangzhu train --report_to tensorboard …`, then `tensorboard --logdir OUTPUT_DIR/run/tensorboard`.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.config import Tracker
from pangzhu.errors import UsageError
from pangzhu.messages import say

if TYPE_CHECKING:
    from transformers import TrainerCallback

TENSORBOARD = "tensorboard"  # the tracker, its package, and its folder
PACKAGES: tuple[Tracker, ...] = ("tensorboard", "swanlab", "wandb")  # each tracker is called as its package is


def choose_trackers(wanted: Sequence[Tracker]) -> tuple[Tracker, ...]:
    """The trackers that will be reported to; `all` is every one that is installed.

    Raises:
        UsageError: one is not installed, or none of all.
    """
    if "all" in wanted:
        found = tuple(name for name in PACKAGES if _is_installed(name))
        if not found:
            raise UsageError("error.train.no_tracker", where="--report_to all", known=", ".join(PACKAGES))
        return found
    for name in wanted:
        if not _is_installed(name):
            raise UsageError("error.train.tracker_missing", where="--report_to", name=name)
    return tuple(wanted)


def say_trackers(names: Sequence[Tracker], run_dir: Path) -> None:
    """Tell where figures and settings go."""
    if names:
        say("trackers.reports_to", names=", ".join(names))
    if TENSORBOARD in names:
        say("trackers.tensorboard", folder=run_dir / TENSORBOARD)


def continue_tensorboard(callbacks: "Iterable[TrainerCallback]", run_dir: Path, *, first_step: int) -> None:
    """Have TensorBoard's files written into the run folder, where there is a callback that writes any.

    Args:
        callbacks: Trainer's.
        run_dir: `output_dir/run`.
        first_step: what an earlier start wrote from here on is taken back.
    """
    from transformers.integrations import TensorBoardCallback

    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            from torch.utils.tensorboard import SummaryWriter

            callback.tb_writer = SummaryWriter(log_dir=str(run_dir / TENSORBOARD), purge_step=first_step)


def _is_installed(package: str) -> bool:
    """Whether it can be imported; a mere folder of that name, as W&B leaves one where it ran, cannot."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
