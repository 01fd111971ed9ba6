"""The verbs that put an adapter to work: `chat`, `compare`, `eval`."""

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import ChatConfig, CompareConfig


@verb(ChatConfig)
def chat(config: ChatConfig) -> Rendered | None:
    """Talk with the base model or an adapter; with `--prompt` one answer."""
    from pangzhu.chat import run

    return run(config)


@verb(CompareConfig)
def compare(config: CompareConfig) -> Rendered:
    """Put base and adapters side by side on a question file."""
    from pangzhu import compare as stage

    return stage.compare(config)


@verb(CompareConfig)
def eval_(config: CompareConfig) -> Rendered:
    """Measure base and adapters on a question file."""
    from pangzhu.evaluate import evaluate

    return evaluate(config)
