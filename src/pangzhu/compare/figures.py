"""What the answers of one model to one kind of question come to."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal, get_args

from pangzhu.compare.rows import ComparedRow
from pangzhu.intervals import Estimate, paired_gain, wilson_interval
from pangzhu.measures import normalized, rouge_floor

Measure = Literal["right", "rouge_l", "cites_rightly"]

MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, slots=True)
class Score:
    """One model on one kind of question: of `num_rows` answers `num_ended` ended by themselves; of the `num_expected`
    whose right answer is known `num_right` are right."""

    model: str
    kind: str
    num_rows: int
    num_expected: int
    num_right: int
    num_ended: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share of right answers. Wordings of one fact are learned together, so where a fact is asked
        in several the truth is wider."""
        return wilson_interval(self.num_right, self.num_expected)

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        low, high = self.interval
        return asdict(self) | {"low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Detail:
    """What the answers of one model to one kind of question hold, right or not.

    Args:
        model: whose answers.
        kind: of question.
        rouge_l: mean likeness to the expected answers; None where none of them is prose.
        rouge_floor: the same against other rows' expected answers; None where all rows expect the same.
        num_citing: rows whose expected answer names an article of law.
        num_cited: of these, those that name the same articles.
        num_formatted: rows that ask for a format.
        num_kept: of these, those whose answer keeps it.
        num_recited: answers that were taught for another question; None where the kind was taught.
    """

    model: str
    kind: str
    rouge_l: float | None
    rouge_floor: float | None
    num_citing: int
    num_cited: int
    num_formatted: int
    num_kept: int
    num_recited: int | None


@dataclass(frozen=True, slots=True)
class Gain:
    """A model's mean minus the base's on the same rows of one kind, by one measure."""

    model: str
    kind: str
    measure: Measure
    num_rows: int
    difference: Estimate

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        named = {"model": self.model, "kind": self.kind, "measure": self.measure, "num_rows": self.num_rows}
        return named | {"difference": self.difference.value, "low": self.difference.low, "high": self.difference.high}


def score_of(rows: Sequence[ComparedRow], model: str, kind: str) -> Score:
    """How many answers to rows of one kind are right, and how many ended."""
    return Score(
        model,
        kind,
        num_rows=len(rows),
        num_expected=sum(row.expected is not None for row in rows),
        num_right=sum(row.right(model) for row in rows),
        num_ended=sum(row.answers[model].ended for row in rows),
    )


def detail_of(rows: Sequence[ComparedRow], model: str, kind: str, *, taught: Collection[str] | None) -> Detail:
    """What the answers to rows of one kind hold.

    Args:
        rows: of that kind.
        model: whose answers.
        kind: of question.
        taught: the taught answers, normalized; None where the kind is one that was taught.
    """
    prose = [row for row in rows if row.prose is not None]
    written = [normalized(row.answers[model].text) for row in prose]
    cited = _known(rows, lambda row: row.cites_rightly(model))
    kept = _known(rows, lambda row: row.keeps_format(model))
    return Detail(
        model,
        kind,
        rouge_l=fmean(_known(rows, lambda row: row.likeness(model))) if prose else None,
        rouge_floor=rouge_floor(written, [row.prose or "" for row in prose]),
        num_citing=len(cited),
        num_cited=int(sum(cited)),
        num_formatted=len(kept),
        num_kept=int(sum(kept)),
        num_recited=None if taught is None else sum(row.recites(model, taught) for row in rows),
    )


def gain_of(rows: Sequence[ComparedRow], model: str, base: str, measure: Measure) -> Gain | None:
    """A model against the base on rows of one kind; None where the measure asks nothing of any of them."""
    asked = [(number, row) for number, row in enumerate(rows) if _value(row, base, measure) is not None]
    if not asked:
        return None
    before, after = ([_value(row, name, measure) or 0.0 for _, row in asked] for name in (base, model))
    facts = [row.fact or f"row {number}" for number, row in asked]
    return Gain(model, rows[0].kind, measure, len(asked), paired_gain(before, after, facts))


def _value(row: ComparedRow, model: str, measure: Measure) -> float | None:
    if measure == "rouge_l":
        return row.likeness(model)
    if measure == "cites_rightly":
        return _as_number(row.cites_rightly(model))
    return None if row.expected is None else float(row.right(model))


def _known(rows: Sequence[ComparedRow], ask: Callable[[ComparedRow], float | None]) -> list[float]:
    found = (ask(row) for row in rows)
    return [float(value) for value in found if value is not None]


def _as_number(answer: bool | None) -> float | None:
    return None if answer is None else float(answer)
