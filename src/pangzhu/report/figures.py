"""Answers and measures as the tables of a page, and as what a verdict is given on."""

from collections.abc import Sequence
from dataclasses import dataclass

from pangzhu.compare.figures import Gain, Measure, Score, detail_of, gain_of, score_of
from pangzhu.compare.rows import ComparedRow
from pangzhu.drift import Drift
from pangzhu.engines.transformers import BASE
from pangzhu.intervals import NOTHING, Share, shown_nats, shown_percent, shown_share
from pangzhu.measures import normalized
from pangzhu.messages import text
from pangzhu.questions import kind_name
from pangzhu.report.page import Table
from pangzhu.report.verdict import Counted, Reached
from pangzhu.tables import counted

TAUGHT, REWORDED, UNTAUGHT = "taught", "reworded", "untaught"


@dataclass(frozen=True, slots=True)
class Asked:
    """What base and adapters were asked, and what came of it.

    Args:
        base_name: how the base was named.
        models: the base first, where it was asked.
        rows: every question; a row holds the answers of the models that were asked it.
        choices: multiple choice by log-probability.
        drifts: each adapter against the base, on general prompts.
    """

    base_name: str
    models: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    choices: tuple[Share, ...] = ()
    drifts: tuple[Drift, ...] = ()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The models that are not the base."""
        return tuple(model for model in self.models if model != BASE)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question, in the order they came."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    def of(self, model: str, kind: str) -> list[ComparedRow]:
        """The rows of a kind that a model was asked."""
        return [row for row in self.rows if row.kind == kind and model in row.answers]

    def score(self, model: str, kind: str) -> Score:
        """One model's count on one kind."""
        return score_of(self.of(model, kind), model, kind)

    def gain(self, model: str, kind: str, measure: Measure) -> Gain | None:
        """One adapter against the base on the rows both were asked."""
        both = [row for row in self.of(model, kind) if BASE in row.answers]
        return gain_of(both, model, BASE, measure) if both and model != BASE else None

    def num_recited(self, model: str) -> int:
        """Untaught questions answered with a taught answer."""
        known = (row.expected for row in self.rows if row.kind in (TAUGHT, REWORDED))
        taught = {normalized(answer) for answer in known if answer}
        return sum(row.recites(model, taught) for row in self.of(model, UNTAUGHT))


def reached_by(asked: Asked, model: str) -> Reached:
    """What one adapter reached."""
    taught, reworded, untaught = (asked.score(model, kind) for kind in (TAUGHT, REWORDED, UNTAUGHT))
    drift = next((found for found in asked.drifts if found.model == model), None)
    same = _same_answers(asked, model)
    return Reached(
        unchanged=same and drift is not None and drift.agreement.value == 1 and drift.kl.value == 0,
        same_answers=same and drift is None,
        taught=Counted(taught.num_right, taught.num_expected),
        taught_ended=Counted(taught.num_ended, taught.num_rows),
        reworded=Counted(reworded.num_right, reworded.num_expected),
        recited=Counted(asked.num_recited(model), untaught.num_rows),
        agreement=drift.agreement.value if drift else None,
        choices_lost=_choices_lost(asked.choices, model),
    )


def right_table(asked: Asked) -> Table:
    """How many answers are right, by kind and model."""
    columns = ("kind", "model", "right", "share", "gain", "ended")
    return Table(
        heading=text("report.right"),
        columns=tuple(text(f"compare.{column}") for column in columns),
        rows=tuple(_right(asked, model, kind) for kind, model in _lines(asked)),
        intro=text("report.right.intro"),
        notes=(text("report.right.interval"), text("report.right.general")),
    )


def content_table(asked: Asked) -> Table:
    """How near the answers come, the articles they name, what they recite."""
    columns = ("kind", "model", "rouge", "articles", "recited")
    return Table(
        heading=text("report.content"),
        columns=tuple(text(f"compare.{column}") for column in columns),
        rows=tuple(_content(asked, model, kind) for kind, model in _lines(asked)),
        intro=text("report.content.intro"),
    )


def kept_table(asked: Asked) -> Table | None:
    """What became of the base's general ability; None where it was not measured."""
    rows = [_choice(share) for share in asked.choices] + [row for drift in asked.drifts for row in _drift(drift)]
    if not rows:
        return None
    columns = (text("report.kept.measure"), text("compare.model"), text("report.kept.figure"))
    return Table(text("report.kept"), columns, tuple(rows), text("report.kept.intro"))


def _lines(asked: Asked) -> list[tuple[str, str]]:
    """Kinds and the models that were asked them."""
    return [(kind, model) for kind in asked.kinds for model in asked.models if asked.of(model, kind)]


def _right(asked: Asked, model: str, kind: str) -> tuple[str, ...]:
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


def _content(asked: Asked, model: str, kind: str) -> tuple[str, ...]:
    rows = asked.of(model, kind)
    detail = detail_of(rows, model, kind, taught=None)
    known = any(row.kind in (TAUGHT, REWORDED) for row in asked.rows)
    recited = counted(asked.num_recited(model), len(rows)) if kind == UNTAUGHT and known else NOTHING
    return (
        kind_name(kind),
        model,
        _rouge(detail.rouge_l, detail.rouge_floor),
        counted(detail.num_cited, detail.num_citing),
        recited,
    )


def _rouge(found: float | None, floor: float | None) -> str:
    if found is None:
        return NOTHING
    return f"{100 * found:.0f} ({NOTHING if floor is None else f'{100 * floor:.0f}'})"


def _choice(share: Share) -> tuple[str, ...]:
    figure = f"{counted(share.num_right, share.num_rows)} · {shown_share(share.num_right, share.num_rows)}"
    gain = f" · {share.gain.in_points()}" if share.gain else ""
    return text("evaluate.choices"), share.model, figure + gain


def _drift(drift: Drift) -> list[tuple[str, ...]]:
    values = {"rows": drift.num_rows, "tokens": drift.num_tokens}
    return [
        (text("report.kept.agreement", **values), drift.model, shown_percent(drift.agreement)),
        (text("evaluate.kl"), drift.model, shown_nats(drift.kl)),
    ]


def _same_answers(asked: Asked, model: str) -> bool:
    """Whether base and adapter were asked something together, and every answer is the same."""
    both = [row for row in asked.rows if {model, BASE} <= row.answers.keys()]
    return bool(both) and all(row.answers[model].text == row.answers[BASE].text for row in both)


def _choices_lost(choices: Sequence[Share], model: str) -> tuple[float, bool] | None:
    found = next((share for share in choices if share.model == model and share.gain), None)
    if found is None or found.gain is None:
        return None
    return -found.gain.value, found.gain.high is not None and found.gain.high < 0
