"""The stage itself: read, look through, label, count; with `--html` show each row on the way."""

from collections.abc import Sequence
from pathlib import Path

from pangzhu.check.anatomy import Anatomist
from pangzhu.check.page import Page
from pangzhu.check.result import CheckResult, Tally
from pangzhu.config import CheckConfig
from pangzhu.data import BadRowsError, Conversation, Dataset, find_problems
from pangzhu.data.quality import RowWarning, find_warnings
from pangzhu.messages import say
from pangzhu.preparation import (
    PreparedBase,
    in_file_order,
    label_in_batches,
    label_validation,
    prepare_base,
    read_dataset,
)

MANY_ROWS = 20_000  # from which a check takes so long that one would wonder


def check(config: CheckConfig) -> CheckResult:
    """Read and label a dataset as training would, and look for what is worth a warning.

    Raises:
        PangzhuError: a file cannot be read, rows of the evaluation or the validation file are bad, there is no such base
            model, options contradict.
    """
    if config.replay_path:  # from a file of options that `train` shares
        say("check.replay_apart", path=config.replay_path)
    dataset = read_dataset(config.model_copy(update={"replay_path": None}))
    if dataset.num_rows >= MANY_ROWS:
        say("check.many_rows", num_rows=dataset.num_rows)
    warnings = find_warnings(dataset.conversations, (*_asked(config.eval_path), *dataset.validation))
    base = prepare_base(config, system=config.system)
    label_validation(dataset, config, base)
    if config.html is None:
        return _label(dataset, warnings, config, base)
    page = Page(config.html, Anatomist(base.tokenizer, base.contract), name=dataset.path.name)
    try:
        result = _label(dataset, warnings, config, base, page)
        page.finish(result)
    except BaseException:
        page.abandon()
        raise
    return result


def _label(
    dataset: Dataset,
    warnings: tuple[RowWarning, ...],
    config: CheckConfig,
    base: PreparedBase,
    page: Page | None = None,
) -> CheckResult:
    """Label all rows, a few hundred at a time, and keep nothing but counts."""
    tally = Tally()
    for conversations, tokenized in label_in_batches(dataset, config, base):
        tally.add(tokenized)
        if page:
            page.add(conversations, tokenized)
    findings = in_file_order((*dataset.rejected, *tally.findings))
    return CheckResult(dataset, tally, findings, warnings, base.source.name, config.skip_bad, config.html)


def _asked(path: Path | None) -> Sequence[Conversation]:
    """The questions of an evaluation file.

    Raises:
        BadRowsError: rows of it are bad; questions that go unseen would go uncompared.
    """
    if path is None:
        return ()
    asked = find_problems(path, require_answer=False, allow_control_tokens=True)
    if asked.rejected:
        raise BadRowsError(asked.rejected, num_rows=asked.num_rows)
    return asked.conversations
