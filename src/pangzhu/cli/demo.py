"""The verb `demo`: the law example from nothing to report."""

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import DemoConfig


@verb(DemoConfig)
def demo(config: DemoConfig) -> Rendered:
    """Fetch, train, compare and report."""
    from pangzhu.demo import run

    return run(config)
