"""Answers and figures for a screen, readable at 80 columns and wider."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangzhu.compare.figures import Detail, Gain, Score
from pangzhu.compare.rows import ComparedRow
from pangzhu.engines import visible
from pangzhu.intervals import NOTHING, shown_share
from pangzhu.messages import text
from pangzhu.questions import kind_name
from pangzhu.tables import counted, figures_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

MIN_COLUMN = 26  # cells; narrower, answers side by side cannot be read


@dataclass(frozen=True, slots=True)
class AnswersTable:
    """Questions and answers for a screen: a column a model where there is room, else a line a model."""

    models: tuple[str, ...]
    base_name: str
    rows: tuple[ComparedRow, ...]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Called by rich, which knows how wide the screen is."""
        columns = 1 + len(self.models)
        yield self.side_by_side() if options.max_width >= columns * MIN_COLUMN else self.stacked()

    def side_by_side(self) -> "Table":
        """A row a question, a column a model."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_lines=True, expand=True)
        table.add_column(text("compare.question"), ratio=2, overflow="fold")
        for model in self.models:
            heading = f"{model} ({self.base_name})" if model == self.models[0] else model
            table.add_column(Text(heading), ratio=3, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, (_shown_question(row), *(_shown_answer(row, model) for model in self.models))))
        return table

    def stacked(self) -> "Table":
        """Each question with the models' answers below it."""
        from rich.table import Table
        from rich.text import Text

        table = Table(expand=True)
        table.add_column(text("compare.model"), max_width=MIN_COLUMN, overflow="fold")
        table.add_column(text("compare.answer"), ratio=1, overflow="fold")
        for row in self.rows:
            table.add_row(Text(text("compare.question")), Text(_shown_question(row), style="bold"))
            for model in self.models:
                table.add_row(Text(model), Text(_shown_answer(row, model)), end_section=model == self.models[-1])
        return table


def scores_table(scores: Sequence[Score]) -> "Table":
    """Right answers with their share and its interval, and how many ended."""
    headings = [text(heading) for heading in ("compare.right", "compare.share", "compare.ended")]
    lines = [
        (
            score.kind,
            score.model,
            counted(score.num_right, score.num_expected),
            shown_share(score.num_right, score.num_expected),
            counted(score.num_ended, score.num_rows),
        )
        for score in scores
    ]
    return figures_table(text("compare.scores"), headings, lines)


def details_table(lines: Sequence[tuple[Detail, Gain | None]]) -> "Table":
    """What the answers hold, and the difference to the base; a column that has nothing to say is left out."""
    columns = {
        text("compare.gain"): [NOTHING if gain is None else gain.difference.in_points() for _, gain in lines],
        text("compare.rouge"): [shown_likeness(detail) for detail, _ in lines],
        text("compare.articles"): [counted(it.num_cited, it.num_citing) for it, _ in lines],
        text("compare.recited"): [NOTHING if it.num_recited is None else str(it.num_recited) for it, _ in lines],
        text("compare.format"): [counted(it.num_kept, it.num_formatted) for it, _ in lines],
    }
    said = {heading: cells for heading, cells in columns.items() if set(cells) != {NOTHING}}
    cells = zip(*said.values(), strict=True) if said else [()] * len(lines)
    rows = [(it.kind, it.model, *own) for (it, _), own in zip(lines, cells, strict=True)]
    return figures_table(text("compare.details"), list(said), rows)


def shown_likeness(detail: Detail) -> str:
    """ROUGE-L in percent, never without its floor."""
    if detail.rouge_l is None:
        return NOTHING
    floor = NOTHING if detail.rouge_floor is None else f"{100 * detail.rouge_floor:.0f}"
    return f"{100 * detail.rouge_l:.0f} ({floor})"


def _shown_question(row: ComparedRow) -> str:
    """The question and, where no model gave it, the expected answer."""
    question = f"[{kind_name(row.kind)}] {visible(row.question)}"
    if row.expected is None or any(row.right(model) for model in row.answers):
        return question
    return f"{question}\n{text('compare.expected', answer=visible(row.expected))}"


def _shown_answer(row: ComparedRow, model: str) -> str:
    answer = row.answers[model]
    shown = visible(answer.text.strip()) or NOTHING
    return ("✓ " if row.right(model) else "") + shown + ("" if answer.ended else " …")
