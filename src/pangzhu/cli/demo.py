"""The verb `demo`: the law example from nothing to report."""

from pathlib import Path

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import ModelOptions


class DemoOptions(ModelOptions):
    """What the demo may be told: which base model, and where to work."""

    output_dir: Path = Path("lora_output")


@verb(DemoOptions)
def demo(config: DemoOptions) -> Rendered:
    """Fetch, train, compare and report."""
    from pangzhu.demo import DemoConfig, run

    return run(DemoConfig(**config.model_dump()))
