"""The verb `train`."""

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import TrainConfig


@verb(TrainConfig)
def train(config: TrainConfig) -> Rendered:
    """Fine-tune with LoRA; the same command again resumes."""
    from pangzhu import train as stage

    return stage.train(config)
