"""Base beside adapter on the same questions, in one process: what each answers, and how often it is right.

An answer is right when it equals the expected one after white space and punctuation are set aside (`normalized`). Answers
are greedy and generated in batches. Rows may carry a `kind` (taught, reworded, untaught, general); figures are given for
each kind apart, because only together do they say what was learned.

Left to others: generation (`pangzhu.engines`), loss and recall without generation (`pangzhu.evaluate`).
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.engines import Answer
from pangzhu.engines.transformers import load_engine
from pangzhu.messages import say, text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine

NO_KIND = "all"
ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One question, what was expected (None where the file says nothing), and each model's answer."""

    question: str
    expected: str | None
    kind: str
    fact: str | None
    answers: dict[str, Answer]

    def right(self, name: str) -> bool:
        """Whether a model's answer is the expected one, word for word."""
        return self.expected is not None and normalized(self.answers[name].text) == normalized(self.expected)


@dataclass(frozen=True, slots=True)
class Score:
    """Of `num_rows` questions of one kind: answered word for word, and answers that ended by themselves."""

    model: str
    kind: str
    num_rows: int
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
        right = sum(row.right(model) for row in rows)
        return Score(model, kind, len(rows), right, sum(row.answers[model].ended for row in rows))

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

    def answers_table(self, rows: Sequence[ComparedRow]) -> "Table":
        """Question, expected answer and each model's answer; what is right is marked."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_lines=True, expand=True)
        table.add_column(text("compare.question"), ratio=2)
        for model in self.models:
            table.add_column(self._heading(model), ratio=3)
        for row in rows:
            marked = [("✓ " if row.right(model) else "") + row.answers[model].text for model in self.models]
            table.add_row(*map(Text, (f"[{_kind_name(row.kind)}] {row.question}", *marked)))
        return table

    def scores_table(self) -> "Table":
        """Word-for-word answers by kind and model."""
        from rich.table import Table

        table = Table(title=text("compare.scores"))
        table.add_column(text("compare.kind"))
        for model in self.models:
            table.add_column(self._heading(model), justify="right")
        for kind in self.kinds:
            scores = [self.score(model, kind) for model in self.models]
            table.add_row(_kind_name(kind), *(f"{score.num_right}/{score.num_rows}" for score in scores))
        return table

    def write(self, folder: Path) -> Path:
        """Keep the answers, one JSON object a row."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / ANSWERS_FILE
        lines = (json.dumps(_row_as_json(row), ensure_ascii=False) + "\n" for row in self.rows)
        file.write_text("".join(lines), encoding="utf-8")
        return file

    def _heading(self, model: str) -> str:
        return f"{model} ({self.base_name})" if model == self.models[0] else model


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
        prompts = [engine.prompt(question.prompt, name) for question in questions]
        for done, (index, answer) in enumerate(engine.generate_many(prompts, name, options), start=1):
            answers[index][name] = answer
            tell(name, done, len(questions))
    rows = [
        ComparedRow(
            question=question.prompt[-1].content,
            expected=question.answer,
            kind=question.field("kind") or NO_KIND,
            fact=question.field("fact"),
            answers=answers[index],
        )
        for index, question in enumerate(questions)
    ]
    return Comparison(engine.names, engine.base_name, tuple(rows))


def normalized(answer: str) -> str:
    """An answer without white space and punctuation, full-width forms folded."""
    folded = unicodedata.normalize("NFKC", answer)
    return "".join(char for char in folded if not char.isspace() and unicodedata.category(char)[0] != "P")


def _say_answered(name: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        say("compare.answered", model=name, done=done, total=total)


def _kind_name(kind: str) -> str:
    known = {
        "taught": "compare.kind.taught",
        "reworded": "compare.kind.reworded",
        "untaught": "compare.kind.untaught",
        "general": "compare.kind.general",
        NO_KIND: "compare.kind.all",
    }
    return text(known[kind]) if kind in known else kind


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
