"""All questions and answers of one comparison, and the figures they give."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import gate, storage
from pangzhu.compare import tables
from pangzhu.compare.figures import MEASURES, Detail, Gain, Measure, Score, detail_of, gain_of, score_of
from pangzhu.compare.rows import ComparedRow
from pangzhu.condition import Condition
from pangzhu.engines.named_models import BASE
from pangzhu.intervals import Share
from pangzhu.measures import normalized
from pangzhu.messages import text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

ANSWERS_FILE = "answers.jsonl"
TAUGHT = "taught"
HAVE_TAUGHT_ANSWERS = (TAUGHT, "reworded")  # kinds of question
MAY_RECITE = "untaught"  # the kind in which a taught answer is a wrong one


@dataclass(frozen=True)
class Comparison:
    """All rows; `models` in the order of their columns, the base first where it was asked. A row holds the answers of the
    models that were asked it. `shortfalls` is what `--fail_under` found, `conditions` what each adapter's files say."""

    models: tuple[str, ...]
    base_name: str
    rows: tuple[ComparedRow, ...]
    shortfalls: tuple[gate.Shortfall, ...] = ()
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question, in the order they came."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    @property
    def exit_code(self) -> int:
        """0 unless a kind of question fell short."""
        return gate.exit_code(self.shortfalls)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The models that are not the base."""
        return tuple(model for model in self.models if model != BASE)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Kinds, and the models that were asked them."""
        return [(kind, model) for kind in self.kinds for model in self.models if self._of(model, kind)]

    def score(self, model: str, kind: str) -> Score:
        """One model's figures on one kind of question."""
        return score_of(self._of(model, kind), model, kind)

    def scores(self) -> list[Score]:
        """Every model on every kind it was asked."""
        return [self.score(model, kind) for kind, model in self.asked]

    def shares(self) -> list[Share]:
        """Every model's share of right answers on every kind, among those whose right answer is known."""
        return [Share(score.model, score.kind, score.num_right, score.num_expected) for score in self.scores()]

    def detail(self, model: str, kind: str) -> Detail:
        """What one model's answers to one kind of question hold."""
        return detail_of(self._of(model, kind), model, kind, taught=self._may_recite(kind))

    def gain(self, model: str, kind: str, measure: Measure) -> Gain | None:
        """One model against the base on what both were asked; None for the base itself, and where that is nothing."""
        if model == BASE or BASE not in self.models:
            return None
        both = [row for row in self._of(model, kind) if BASE in row.answers]
        return gain_of(both, model, BASE, measure)

    def num_broken_off(self, model: str) -> int:
        """Answers that broke off, since the model's probabilities were no numbers."""
        return sum(row.answers[model].broke_off for row in self.rows if model in row.answers)

    def num_begun(self, model: str) -> int:
        """Taught questions whose answer begins with the taught one, whether or not it goes on."""
        return sum(row.begins_rightly(model) for row in self._of(model, TAUGHT))

    def gains(self) -> list[Gain]:
        """Every model against the base, by every measure that a kind is asked by."""
        found = (
            self.gain(model, kind, measure) for kind in self.kinds for model in self.models for measure in MEASURES
        )
        return [gain for gain in found if gain is not None]

    def num_recited(self, model: str) -> int:
        """Untaught questions that a model answered with what was taught for another, white space and punctuation aside."""
        return self.detail(model, MAY_RECITE).num_recited or 0

    def as_json(self) -> dict[str, object]:
        """Figures and answers as plain values."""
        return {
            "base": self.base_name,
            "scores": [score.as_json() | asdict(self.detail(score.model, score.kind)) for score in self.scores()],
            "gains": [gain.as_json() for gain in self.gains()],
            "num_recited": {model: self.num_recited(model) for model in self.models},
            "shortfalls": [shortfall.as_json() for shortfall in self.shortfalls],
            "rows": self._rows_as_json(),
        }

    def render(self) -> "Group":
        """The answers side by side, then the figures, and what a reader must know of them."""
        from rich.console import Group
        from rich.text import Text

        remarks = map(Text, self._remarks())
        return Group(self.answers_table(self.rows), self.scores_table(), self.details_table(), *remarks)

    def answers_table(self, rows: Sequence[ComparedRow]) -> tables.AnswersTable:
        """Each model's answer to some of the questions; what is right is marked."""
        return tables.AnswersTable(self.models, self.base_name, tuple(rows))

    def scores_table(self) -> "Table":
        """How many answers are right, with the share and its interval, and how many ended, by kind and model."""
        return tables.scores_table(self.scores())

    def details_table(self) -> "Table":
        """The difference to the base, likeness, articles, recited answers and formats, by kind and model."""
        lines = [(self.detail(model, kind), self.gain(model, kind, "right")) for kind, model in self.asked]
        return tables.details_table(lines)

    def write(self, folder: Path) -> Path:
        """Keep the answers, one JSON object a row."""
        storage.make_folder(folder)
        file = folder / ANSWERS_FILE
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows_as_json())
        storage.write_atomically(file, "".join(lines))
        return file

    def _remarks(self) -> list[str]:
        broken = {model: num for model in self.models if (num := self.num_broken_off(model))}
        total = len(self.rows)
        return [text("compare.broke_off", model=model, num=num, total=total) for model, num in broken.items()]

    def _of(self, model: str, kind: str) -> list[ComparedRow]:
        """The rows of a kind that a model was asked."""
        return [row for row in self.rows if row.kind == kind and model in row.answers]

    def _rows_as_json(self) -> list[dict[str, object]]:
        return [row.as_json(taught=self._may_recite(row.kind)) for row in self.rows]

    def _may_recite(self, kind: str) -> frozenset[str] | None:
        """The taught answers where giving one is a fault and one is known, else None."""
        return self._taught or None if kind == MAY_RECITE else None

    @cached_property
    def _taught(self) -> frozenset[str]:
        known = (row for row in self.rows if row.kind in HAVE_TAUGHT_ANSWERS)
        return frozenset(normalized(row.expected) for row in known if row.expected)
