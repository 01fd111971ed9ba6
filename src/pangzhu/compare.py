"""Base beside adapter on the same questions, in one process: what each answers, and how often it is right.

An answer is right when it equals the expected one after white space and punctuation are set aside (`normalized`); where a
row gives `choices`, when it names the expected one first; where JSON is expected, when it is JSON of the same value.
Answers are greedy and generated in batches. Rows may carry a `kind` (taught, reworded, untaught, general); figures are
given for each kind apart, because only together do they say what was learned.

Left to others: generation (`pangzhu.engines`), loss and recall without generation (`pangzhu.evaluate`).
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.engines import Answer, visible
from pangzhu.engines.transformers import load_engine
from pangzhu.errors import DataError
from pangzhu.evaluate import kind_name, kind_of
from pangzhu.messages import say, text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.table import Table

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine

ANSWERS_FILE = "answers.jsonl"
NOTHING = "–"  # in a table, for an empty answer or a figure that does not exist
MIN_COLUMN = 26  # cells; narrower, answers side by side cannot be read
MEANT_SIGNS = "%‰"  # punctuation to Unicode, part of a figure to a reader


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One question, what was expected (None where the file says nothing), and each model's answer."""

    question: str
    expected: str | None
    kind: str
    fact: str | None
    answers: dict[str, Answer]
    choices: tuple[str, ...] = ()

    def right(self, name: str) -> bool:
        """Whether a model's answer is the expected one: the same words, the same choice, or JSON of the same value."""
        if self.expected is None:
            return False
        answer = self.answers[name].text
        if self.choices:
            return first_choice(answer, self.choices) == self.expected.strip()
        if (wanted := _json_value(self.expected)) is not None:
            return _json_value(answer) == wanted
        return normalized(answer) == normalized(self.expected)


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows; `models` in the order of their columns, the base first."""

    models: tuple[str, ...]
    base_name: str
    rows: tuple[ComparedRow, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question, in the order they came."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    def score(self, model: str, kind: str) -> Score:
        """One model's figures on one kind of question."""
        rows = [row for row in self.rows if row.kind == kind]
        return Score(
            model,
            kind,
            num_rows=len(rows),
            num_expected=sum(row.expected is not None for row in rows),
            num_right=sum(row.right(model) for row in rows),
            num_ended=sum(row.answers[model].ended for row in rows),
        )

    def scores(self) -> list[Score]:
        """Every model on every kind."""
        return [self.score(model, kind) for kind in self.kinds for model in self.models]

    def as_json(self) -> dict[str, object]:
        """Figures and answers as plain values."""
        return {
            "base": self.base_name,
            "scores": [asdict(score) for score in self.scores()],
            "rows": [_row_as_json(row) for row in self.rows],
        }

    def render(self) -> "Group":
        """The answers side by side, then the figures."""
        from rich.console import Group

        return Group(self.answers_table(self.rows), self.scores_table())

    def answers_table(self, rows: Sequence[ComparedRow]) -> "AnswersTable":
        """Each model's answer to some of the questions; what is right is marked."""
        return AnswersTable(self.models, self.base_name, tuple(rows))

    def scores_table(self) -> "Table":
        """How many answers are right, and how many ended, by kind and model."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=text("compare.scores"))
        table.add_column(text("compare.kind"), overflow="fold")
        table.add_column(text("compare.model"), overflow="fold")
        table.add_column(text("compare.right"), justify="right")
        table.add_column(text("compare.ended"), justify="right")
        for score in self.scores():
            right = f"{score.num_right}/{score.num_expected}" if score.num_expected else NOTHING
            kind = kind_name(score.kind) if score.model == self.models[0] else ""
            ended = f"{score.num_ended}/{score.num_rows}"
            table.add_row(Text(kind), Text(score.model), right, ended, end_section=score.model == self.models[-1])
        return table

    def write(self, folder: Path) -> Path:
        """Keep the answers, one JSON object a row."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / ANSWERS_FILE
        lines = (json.dumps(_row_as_json(row), ensure_ascii=False) + "\n" for row in self.rows)
        file.write_text("".join(lines), encoding="utf-8")
        return file


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


def compare(config: CompareConfig) -> Comparison:
    """Ask base and adapters every question of a file.

    Raises:
        PangzhuError: questions, base or adapters cannot be read.
    """
    questions = load_dataset(config.dataset_path, require_answer=False).conversations[: config.max_questions]
    engine = load_engine(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    comparison = ask(engine, questions, GenerationOptions(max_new_tokens=config.max_new_tokens))
    if config.output_dir:
        say("compare.written", file=comparison.write(config.output_dir))
    return comparison


def ask(
    engine: "TransformersEngine",
    questions: "Sequence[Conversation]",
    options: GenerationOptions,
    *,
    on_answer: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Every model of an engine on every question.

    Args:
        engine: base and adapters.
        questions: conversations; a last assistant turn is what is expected.
        options: how answers are drawn.
        on_answer: told model, answers so far, and questions; default: `say` after each batch.
    """
    answers: list[dict[str, Answer]] = [{} for _ in questions]
    tell = on_answer or _say_answered
    for name in engine.names:
        prompts = [_prompt(engine, question, name, options) for question in questions]
        for done, (index, answer) in enumerate(engine.generate_many(prompts, name, options), start=1):
            answers[index][name] = answer
            tell(name, done, len(questions))
    rows = (_compared(question, given) for question, given in zip(questions, answers, strict=True))
    return Comparison(engine.names, engine.base_name, tuple(rows))


def normalized(answer: str) -> str:
    """An answer without white space and punctuation, full-width forms folded; what separates or belongs to figures
    (`1.5`, `3-5`, `5%`) stays, as does an answer that is nothing but punctuation."""
    folded = unicodedata.normalize("NFKC", answer).strip()
    neighbours = zip(f" {folded}", folded, f"{folded[1:]} ", strict=False)
    return "".join(char for before, char, after in neighbours if not _set_aside(before, char, after)) or folded


def first_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice an answer names first, standing by itself (`B.`, `答案是B`; not the `A` of `Answer`), or None."""
    one_of = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    found = re.search(rf"(?<![A-Za-z])(?:{one_of})(?![A-Za-z])", unicodedata.normalize("NFKC", answer))
    return found[0] if found else None


def _json_value(answer: str) -> object | None:
    """What a text says as JSON, where that is an object or a list, else None."""
    try:
        value: object = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _set_aside(before: str, char: str, after: str) -> bool:
    if before.isdigit() and after.isdigit() and char != ",":
        return char.isspace()
    return char.isspace() or (unicodedata.category(char)[0] == "P" and char not in MEANT_SIGNS)


def _prompt(engine: "TransformersEngine", question: "Conversation", name: str, options: GenerationOptions) -> list[int]:
    """The question's ids, which with the longest answer fit into the model's context."""
    ids = engine.prompt(question.prompt, name)
    room = engine.context_length - options.max_new_tokens
    if len(ids) > room:
        raise DataError("error.compare.too_long", where=str(question.location), tokens=len(ids), room=max(0, room))
    return ids


def _compared(question: "Conversation", answers: dict[str, Answer]) -> ComparedRow:
    choices = question.field("choices")
    return ComparedRow(
        question=question.prompt[-1].content,
        expected=question.answer,
        kind=kind_of(question),
        fact=question.field("fact"),
        answers=answers,
        choices=tuple(choices.split(",")) if choices else (),
    )


def _say_answered(name: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        say("compare.answered", model=name, done=done, total=total)


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


def _row_as_json(row: ComparedRow) -> dict[str, object]:
    return {
        "question": row.question,
        "expected": row.expected,
        "kind": row.kind,
        "fact": row.fact,
        "answers": {
            name: {"text": answer.text, "ended": answer.ended, "right": row.right(name)}
            for name, answer in row.answers.items()
        },
    }
