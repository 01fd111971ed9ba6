"""Base beside adapter on the same questions, in one process: what each answers, and how often it is right.

An answer is right when it equals the expected one after white space and punctuation are set aside (`normalized`); where a
row gives `choices`, when it opens with the expected one or names no other; where JSON is expected, when it is JSON of the
same value. An untaught question answered with a taught answer is counted as recited.
Answers are greedy and generated in batches. Rows may carry a `kind` (taught, reworded, untaught, general); figures are
given for each kind apart, because only together do they say what was learned.

Left to others: generation (`pangzhu.engines`), loss and recall without generation (`pangzhu.evaluate`).
"""

import json
import math
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
NORMAL_975 = 1.959964  # 97.5% of a normal distribution lie below, so that 95% lie between this and its negative
HAVE_TAUGHT_ANSWERS = ("taught", "reworded")  # kinds of question


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
            return named_choice(answer, self.choices) == self.expected.strip()
        if (wanted := _canonical_json(self.expected)) is not None:
            return _canonical_json(answer) == wanted
        return normalized(answer) == normalized(self.expected)

    def verbatim(self, name: str) -> bool:
        """Whether a model's answer is the expected one to the character, and ended there."""
        return self.answers[name].ended and self.answers[name].text == self.expected


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

    def num_recited(self, model: str) -> int:
        """Untaught questions that a model answered with what was taught for another, white space and punctuation aside."""
        known = [row for row in self.rows if row.kind in HAVE_TAUGHT_ANSWERS]
        taught = {normalized(row.expected) for row in known if row.expected}
        return sum(normalized(row.answers[model].text) in taught for row in self.rows if row.kind == "untaught")

    def as_json(self) -> dict[str, object]:
        """Figures and answers as plain values."""
        return {
            "base": self.base_name,
            "scores": [score.as_json() for score in self.scores()],
            "num_recited": {model: self.num_recited(model) for model in self.models},
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
        """How many answers are right, with the share and its interval, and how many ended, by kind and model."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=text("compare.scores"))
        table.add_column(text("compare.kind"), overflow="fold")
        table.add_column(text("compare.model"), overflow="fold")
        table.add_column(text("compare.right"), justify="right")
        table.add_column(text("compare.share"), justify="right", no_wrap=True)
        table.add_column(text("compare.ended"), justify="right")
        for score in self.scores():
            kind = kind_name(score.kind) if score.model == self.models[0] else ""
            figures = (*_shown_right(score), f"{score.num_ended}/{score.num_rows}")
            table.add_row(Text(kind), Text(score.model), *figures, end_section=score.model == self.models[-1])
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
    names: Sequence[str] | None = None,
    on_answer: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Models of an engine on every question.

    Args:
        engine: base and adapters.
        questions: conversations; a last assistant turn is what is expected.
        options: how answers are drawn.
        names: which models; None means all of the engine's.
        on_answer: told model, answers so far, and questions; default: `say` after each batch.
    """
    answers: list[dict[str, Answer]] = [{} for _ in questions]
    tell = on_answer or _say_answered
    asked = tuple(names or engine.names)
    for name in asked:
        prompts = [_prompt(engine, question, name, options) for question in questions]
        for done, (index, answer) in enumerate(engine.generate_many(prompts, name, options), start=1):
            answers[index][name] = answer
            tell(name, done, len(questions))
    rows = (_compared(question, given) for question, given in zip(questions, answers, strict=True))
    return Comparison(asked, engine.base_name, tuple(rows))


def normalized(answer: str) -> str:
    """An answer without white space and punctuation, full-width forms folded; what separates or belongs to figures
    (`1.5`, `3-5`, `5%`) stays, as does an answer that is nothing but punctuation."""
    folded = unicodedata.normalize("NFKC", answer).strip()
    neighbours = zip(f" {folded}", folded, f"{folded[1:]} ", strict=False)
    return "".join(char for before, char, after in neighbours if not _set_aside(before, char, after)) or folded


def named_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice an answer opens with, set off from what follows (`B`, `B. 15 分钟`, `（B）`; not `A good answer`); else
    the only one that stands alone in it (`答案是B`; not the `A` of `Answer`); None where there are several, or none."""
    folded = unicodedata.normalize("NFKC", answer).strip()
    one_of = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    if opening := re.match(rf"[(\[]?({one_of})\s*(?:[.,:;)\]、。]|$)", folded, re.MULTILINE):
        return opening[1]
    alone = set(re.findall(rf"(?<![A-Za-z])(?:{one_of})(?![A-Za-z])", folded))
    return alone.pop() if len(alone) == 1 else None


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """95% score interval of a share, from 0 to 1 (E. B. Wilson, Probable Inference, JASA 22, 1927); honest for few rows
    and for none or all right, where the usual p ± z·sqrt(p(1-p)/n) has no width. All of 0 to 1 where there are no rows."""
    if not num_rows:
        return 0.0, 1.0
    z_squared = NORMAL_975**2
    middle = num_right + z_squared / 2
    reach = NORMAL_975 * math.sqrt(num_right * (num_rows - num_right) / num_rows + z_squared / 4)
    low, high = ((middle + side) / (num_rows + z_squared) for side in (-reach, reach))
    return max(0.0, round(low, 6)), round(high, 6)  # the sums miss 0 and 1 by a last digit


def _canonical_json(answer: str) -> str | None:
    """A text's value as JSON of one spelling, where it is an object or a list, else None. Text, because Python holds
    `true` and `1` for equal."""
    try:
        value: object = json.loads(answer)
        return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else None
    except (ValueError, RecursionError):
        return None


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


def _shown_right(score: Score) -> tuple[str, str]:
    """The count of right answers, and their share in percent with its interval."""
    if not score.num_expected:
        return NOTHING, NOTHING
    share, low, high = (f"{100 * part:.0f}" for part in (score.num_right / score.num_expected, *score.interval))
    return f"{score.num_right}/{score.num_expected}", f"{share}% [{low}–{high}]"


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
