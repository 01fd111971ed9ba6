"""What is said before the first step: base, rows and what of them is learned, the batch arithmetic, one row, the model.

Nothing is decided here. Left to others: the figures (`pangzhu.data_summary`, `pangzhu.plan`, `pangzhu.decisions`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.engines import visible
from pangzhu.messages import say
from pangzhu.model import trainable_parameters
from pangzhu.tokenization import supervised_preview

if TYPE_CHECKING:
    from peft import PeftModel

    from pangzhu.data_summary import DataSummary
    from pangzhu.decisions import Decisions
    from pangzhu.plan import StepPlan
    from pangzhu.preparation import PreparedBase, PreparedRows

MOST_SHOWN = 600  # characters of the first row


def say_model(model: "PeftModel", decisions: "Decisions") -> None:
    """How much of the model is trained, and how it is computed."""
    say(
        "train.model",
        trainable=sum(parameter.numel() for parameter in trainable_parameters(model)),
        precision=decisions.precision,
        threads=decisions.num_threads,
        budget=decisions.token_budget,
    )


def say_plan(base: "PreparedBase", rows: "PreparedRows", steps: "StepPlan", summary: "DataSummary") -> None:
    """What will be learned: base, counts, batch arithmetic, one example with its learned part."""
    say("train.base", why=base.source.why)
    _say_rows(rows.dataset.path, summary)
    say(
        "train.steps",
        steps=steps.num_steps,
        rows_per_step=steps.rows_per_step,
        per_epoch=steps.steps_per_epoch,
        passes=steps.passes,
    )
    if steps.too_few:
        say("train.too_few_steps", steps=steps.num_steps, passes=steps.passes)
    runs = supervised_preview(base.tokenizer, rows.tokenized.examples[0])
    preview = "".join(f"⟦{run}⟧" if learned else run for run, learned in runs)
    say("train.preview", preview=visible(preview if len(preview) <= MOST_SHOWN else f"{preview[:MOST_SHOWN]} …"))


def _say_rows(path: Path, summary: "DataSummary") -> None:
    say(
        "train.rows",
        path=path,
        rows=summary.num_examples,
        tokens=summary.num_tokens,
        supervised=summary.num_supervised,
        share=100 * summary.num_supervised / summary.num_tokens,
        longest=summary.longest,
    )
    if summary.num_replay:
        counted = summary.num_examples - summary.num_replay
        say("train.replay", counted=counted, replay=summary.num_replay, held=summary.num_held)
    if summary.num_dropped or summary.num_truncated:
        say("train.overlong", dropped=summary.num_dropped, truncated=summary.num_truncated)
    if summary.num_duplicates or summary.num_contradictions:
        numbers = {"num_duplicates": summary.num_duplicates, "num_contradictions": summary.num_contradictions}
        say("train.repeats", **numbers)
