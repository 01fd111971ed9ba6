"""Answers and measures as the tables of a page, and as what a verdict is given on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pangzhu.choices import ChoiceShare, nothing_shown
from pangzhu.compare.comparison import HAVE_TAUGHT_ANSWERS, MAY_RECITE, TAUGHT, Comparison
from pangzhu.compare.figures import Gain
from pangzhu.compare.tables import shown_likeness
from pangzhu.condition import Condition
from pangzhu.drift import Drift
from pangzhu.engines.named_models import BASE
from pangzhu.intervals import NOTHING, shown_nats, shown_percent, shown_share
from pangzhu.messages import text
from pangzhu.questions import kind_name
from pangzhu.report.page import Table
from pangzhu.report.verdict import Counted, Reached
from pangzhu.tables import counted

KINDS_JUDGED = (*HAVE_TAUGHT_ANSWERS, MAY_RECITE)  # taught, re-worded, untaught
MOST_ROUNDING = 1e-6  # nats a token: so far apart two ways of adding up the same numbers in float32 may come


@dataclass(frozen=True, slots=True)
class Asked:
    """What base and adapters were asked, and what came of it.

    Args:
        comparison: every question and answer.
        choices: multiple choice by log-probability.
        drifts: each adapter against the base, on general prompts.
    """

    comparison: Comparison
    choices: tuple[ChoiceShare, ...] = ()
    drifts: tuple[Drift, ...] = ()


def reached_by(asked: Asked, model: str) -> Reached:
    """What one adapter reached."""
    taught, reworded, untaught = (asked.comparison.score(model, kind) for kind in KINDS_JUDGED)
    drift = next((found for found in asked.drifts if found.model == model), None)
    condition = asked.comparison.conditions.get(model, Condition())
    same = _same_answers(asked.comparison, model)
    return Reached(
        unchanged=condition.adds_nothing or (same and drift is not None and _is_still(drift)),
        same_answers=same and drift is None,
        broken_off=_broken_off(asked.comparison, model, drift),
        mismatch=condition.mismatch,
        nearer=_nearer(asked.comparison.gain(model, TAUGHT, "rouge_l")),
        taught=Counted(taught.num_right, taught.num_expected),
        taught_begun=Counted(asked.comparison.num_begun(model), taught.num_expected),
        taught_ended=Counted(taught.num_ended, taught.num_rows),
        reworded=Counted(reworded.num_right, reworded.num_expected),
        recited=Counted(asked.comparison.num_recited(model), untaught.num_rows),
        agreement=drift.agreement.value if drift else None,
        choices_lost=_choices_lost(asked.choices, model),
    )


def right_table(asked: Asked) -> Table:
    """How many answers are right, by kind and model."""
    columns = ("kind", "model", "right", "share", "gain", "ended")
    return Table(
        heading=text("report.right"),
        columns=tuple(text(f"compare.{column}") for column in columns),
        rows=tuple(_right(asked.comparison, model, kind) for kind, model in asked.comparison.asked),
        intro=text("report.right.intro"),
        notes=(text("report.right.interval"), text("report.right.general")),
    )


def content_table(asked: Asked) -> Table:
    """How near the answers come, the articles they name, what they recite."""
    columns = ("kind", "model", "rouge", "articles", "recited")
    return Table(
        heading=text("report.content"),
        columns=tuple(text(f"compare.{column}") for column in columns),
        rows=tuple(_content(asked.comparison, model, kind) for kind, model in asked.comparison.asked),
        intro=text("report.content.intro"),
    )


def kept_table(asked: Asked) -> Table | None:
    """What became of the base's general ability; None where it was not measured."""
    rows = [_choice(share) for share in asked.choices] + [row for drift in asked.drifts for row in _drift(drift)]
    if not rows:
        return None
    columns = (text("report.kept.measure"), text("compare.model"), text("report.kept.figure"))
    notes = tuple(nothing_shown(asked.choices))
    return Table(text("report.kept"), columns, tuple(rows), text("report.kept.intro"), notes)


def shown_counts(asked: Comparison, kind: str) -> str:
    """How many answers to one kind of question are right, by model; empty where no right answer is known."""
    scores = [asked.score(model, of_kind) for of_kind, model in asked.asked if of_kind == kind]
    parts = [f"{it.model} {counted(it.num_right, it.num_expected)}" for it in scores if it.num_expected]
    return text("report.group.right", counts=" · ".join(parts)) if parts else ""


def _right(asked: Comparison, model: str, kind: str) -> tuple[str, ...]:
    score = asked.score(model, kind)
    gain = asked.gain(model, kind, "right")
    return (
        kind_name(kind),
        model,
        counted(score.num_right, score.num_expected),
        shown_share(score.num_right, score.num_expected),
        gain.difference.in_points() if gain else NOTHING,
        counted(score.num_ended, score.num_rows),
    )


def _content(asked: Comparison, model: str, kind: str) -> tuple[str, ...]:
    score, detail = asked.score(model, kind), asked.detail(model, kind)
    return (
        kind_name(kind),
        model,
        shown_likeness(detail),
        counted(detail.num_cited, detail.num_citing),
        NOTHING if detail.num_recited is None else counted(detail.num_recited, score.num_rows),
    )


def _choice(share: ChoiceShare) -> tuple[str, ...]:
    figure = f"{counted(share.num_right, share.num_rows)} · {shown_share(share.num_right, share.num_rows)}"
    gain = f" · {share.gain.in_points()}" if share.gain else ""
    return text("evaluate.choices"), share.model, figure + gain


def _drift(drift: Drift) -> list[tuple[str, ...]]:
    values = {"rows": drift.num_rows, "tokens": drift.num_tokens}
    return [
        (text("report.kept.agreement", **values), drift.model, shown_percent(drift.agreement)),
        (text("evaluate.kl"), drift.model, shown_nats(drift.kl)),
    ]


def _same_answers(asked: Comparison, model: str) -> bool:
    """Whether base and adapter were asked something together, and every answer is the same."""
    both = [row for row in asked.rows if {model, BASE} <= row.answers.keys()]
    return bool(both) and all(row.answers[model].text == row.answers[BASE].text for row in both)


def _is_still(drift: Drift) -> bool:
    """Whether no probability moved, but for rounding."""
    return drift.agreement.value == 1 and abs(drift.kl.value) <= MOST_ROUNDING


def _broken_off(asked: Comparison, model: str, drift: Drift | None) -> Counted | None:
    """Of all answers those that broke off; None where every probability was a number, drift's included."""
    answers = [row.answers[model] for row in asked.rows if model in row.answers]
    num = sum(answer.broke_off for answer in answers)
    lost = num > 0 or (drift is not None and not math.isfinite(drift.kl.value))
    return Counted(num, len(answers)) if lost else None


def _nearer(gain: Gain | None) -> bool | None:
    """Whether a gain in likeness is more than chance explains; None where it is not known."""
    if gain is None:
        return None
    return gain.difference.value > 0 and (gain.difference.low is None or gain.difference.low > 0)


def _choices_lost(choices: Sequence[ChoiceShare], model: str) -> tuple[float, bool] | None:
    """Where the base shows nothing there is nothing to lose."""
    empty = {share.kind for share in choices if share.model == BASE and share.says_nothing}
    told = (share for share in choices if share.model == model and share.kind not in empty)
    found = next((share for share in told if share.gain), None)
    if found is None or found.gain is None:
        return None
    return -found.gain.value, found.gain.high is not None and found.gain.high < 0
