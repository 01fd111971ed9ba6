"""The verbs that put an adapter to work: `chat`, `compare`, `eval`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.cli.console import Rendered, json_is_wanted, write_text
from pangzhu.cli.options import verb
from pangzhu.config import ChatConfig, CompareConfig
from pangzhu.errors import UsageError

if TYPE_CHECKING:
    from pangzhu.compare import Comparison

COMPARE_FIELDS = tuple(name for name in CompareConfig.model_fields if name != "skip_drift")  # `eval` measures it


@verb(ChatConfig)
def chat(config: ChatConfig) -> Rendered | None:
    """Talk with the base model or an adapter; with `--prompt` one answer.

    Raises:
        UsageError: `--json` without `--prompt`: a conversation is no single result.
    """
    if json_is_wanted() and config.prompt is None:
        raise UsageError("error.cli.json_needs_prompt", where="--json")
    from pangzhu.chat import run
    from pangzhu.export.kept import KeptGguf

    return run(config, write=_write_answer, converter=KeptGguf())


@verb(CompareConfig, only=COMPARE_FIELDS)
def compare(config: CompareConfig) -> Rendered:
    """Put base and adapters side by side on a question file; with `--output_dir` in a report too, and of one adapter in a model
    card."""
    from pangzhu import compare as stage

    found = stage.compare(config)
    if config.output_dir:
        _write_report(found, config.output_dir, config.adapter)
    return found


@verb(CompareConfig)
def eval_(config: CompareConfig) -> Rendered:
    """Measure base and adapters on a question file."""
    from pangzhu.evaluate import evaluate

    return evaluate(config)


def _write_report(found: "Comparison", output_dir: Path, adapters: tuple[str, ...]) -> None:
    """The report; and of one adapter the card that says the same, for its owner to put into its folder."""
    from pangzhu.card import OWN_FILE, write_card
    from pangzhu.engines.named_models import named_folders
    from pangzhu.report.build import REPORT, build_page, write_report
    from pangzhu.report.figures import Asked

    folders = named_folders(adapters)
    page = build_page(Asked(found), folders)
    write_report(output_dir / REPORT, page)
    if len(folders) == 1:
        write_card(output_dir / OWN_FILE, page, *folders.values())


def _write_answer(piece: str) -> None:
    """Write as it comes; in a terminal, which would obey them, control characters are spelled out."""
    from pangzhu.engines import visible

    write_text(visible(piece) if sys.stdout.isatty() else piece)
