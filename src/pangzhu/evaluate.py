"""Loss and exact recall of base and adapters on rows with known answers, mostly without generating.

One teacher-forced pass over a row gives its loss and tells whether greedy decoding would write the expected answer: yes
where every learned token is the argmax by a margin, no where some token is not. Near ties are generated. Exact means
token by token; `pangzhu.compare`, which generates everything, forgives white space and punctuation.

Left to others: the forward pass (`pangzhu.step`), answers side by side (`pangzhu.compare`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.batching import lay_end_to_end
from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.transformers import load_engine
from pangzhu.fast.memory import bound_kernel_caches
from pangzhu.messages import say, text
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.step import RowOutcome, forward_rows, split_rows
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize

if TYPE_CHECKING:
    from rich.table import Table

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine

EVALUATION_FILE = "evaluation.json"
NO_KIND = "all"  # of rows that name no kind
KIND_NAMES = {
    "taught": "compare.kind.taught",
    "reworded": "compare.kind.reworded",
    "untaught": "compare.kind.untaught",
    "general": "compare.kind.general",
    NO_KIND: "compare.kind.all",
}


def kind_of(row: "Conversation") -> str:
    """The kind of question a row is, as its file has it."""
    return row.field("kind") or NO_KIND


def kind_name(kind: str) -> str:
    """A kind of question for a reader."""
    return text(KIND_NAMES[kind]) if kind in KIND_NAMES else kind


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one kind of row. `loss` is the mean over supervised tokens in nats; greedy decoding writes
    `num_exact` rows token by token; whether it does was settled for `num_generated` near ties by generating."""

    model: str
    kind: str
    num_rows: int
    loss: float
    num_exact: int
    num_generated: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 100.0))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every model on every kind of row."""

    base_name: str
    measured: tuple[Measured, ...]

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        rows = [asdict(measured) | {"perplexity": measured.perplexity} for measured in self.measured]
        return {"base": self.base_name, "measured": rows}

    def render(self) -> "Table":
        """The figures as a table."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(text("evaluate.title", base=self.base_name)))
        for heading in (text("evaluate.model"), text("compare.kind")):
            table.add_column(heading, overflow="fold")
        for heading in ("evaluate.rows", "evaluate.loss", "evaluate.perplexity", "evaluate.exact"):
            table.add_column(text(heading), justify="right")
        for row in self.measured:
            figures = (f"{row.num_rows}", f"{row.loss:.4f}", f"{row.perplexity:.2f}", f"{row.num_exact}/{row.num_rows}")
            table.add_row(Text(row.model), Text(kind_name(row.kind)), *figures)
        return table

    def write(self, folder: Path) -> Path:
        """Keep the figures as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / EVALUATION_FILE
        file.write_text(json.dumps(self.as_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return file


def evaluate(config: CompareConfig) -> Evaluation:
    """Measure base and adapters on a file of rows with answers.

    Raises:
        PangzhuError: rows, base or adapters cannot be read.
    """
    rows = load_dataset(config.dataset_path).conversations[: config.max_questions]
    bound_kernel_caches(len(rows))  # rows of many lengths meet in one micro-batch
    engine = load_engine(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    measured = [part for name in engine.names for part in measure(engine, name, rows)]
    evaluation = Evaluation(engine.base_name, tuple(measured))
    if config.output_dir:
        say("evaluate.written", file=evaluation.write(config.output_dir))
    return evaluation


def measure(engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]") -> list[Measured]:
    """One model's figures, kind by kind.

    Raises:
        BadRowsError: a row longer than the model's context, or whose labels cannot be proven.
    """
    labeller = Labeller(engine.tokenizer, engine.contract(name), "last")
    tokenized = tokenize(rows, labeller, max_seq_length=engine.context_length)
    if tokenized.findings:
        raise BadRowsError(tokenized.findings, num_rows=len(rows))
    outcomes = _outcomes(engine, name, tokenized.examples)
    ties = [index for index, outcome in enumerate(outcomes) if outcome.near_tie]
    written = _generate_exactly(engine, name, [tokenized.examples[index] for index in ties])
    settled = dict(zip(ties, written, strict=True))
    exact = [settled.get(index, outcome.learned) for index, outcome in enumerate(outcomes)]
    kinds = [kind_of(row) for row in rows]
    return [_measured(name, kind, kinds, outcomes=outcomes, exact=exact, ties=ties) for kind in dict.fromkeys(kinds)]


def _measured(
    name: str,
    kind: str,
    kinds: Sequence[str],
    *,
    outcomes: Sequence[RowOutcome],
    exact: Sequence[bool],
    ties: Sequence[int],
) -> Measured:
    chosen = [index for index, row_kind in enumerate(kinds) if row_kind == kind]
    num_tokens = sum(outcomes[index].num_supervised for index in chosen)
    return Measured(
        model=name,
        kind=kind,
        num_rows=len(chosen),
        loss=sum(outcomes[index].loss for index in chosen) / num_tokens,
        num_exact=sum(exact[index] for index in chosen),
        num_generated=len(set(ties) & set(chosen)),
    )


def _outcomes(engine: "TransformersEngine", name: str, examples: Sequence[TokenizedExample]) -> list[RowOutcome]:
    import torch

    from pangzhu.fast.path import FastPath
    from pangzhu.fast.techniques import Techniques

    outcomes: list[RowOutcome] = []
    longest = max((len(example.input_ids) for example in examples), default=0)
    fast = FastPath(engine.model, Techniques(), longest=longest)
    with engine.using(name) as model, torch.no_grad():
        for piece in split_rows(lay_end_to_end(list(enumerate(examples))), MAX_TOKEN_BUDGET, fast):
            outcomes += forward_rows(model, piece.to(model.device), fast).rows
    return outcomes


def _generate_exactly(engine: "TransformersEngine", name: str, examples: Sequence[TokenizedExample]) -> list[bool]:
    """Whether greedy decoding writes each row's answer and then its end token, by writing it."""
    if not examples:
        return []
    answers = [[label for label in example.labels if label != IGNORED] for example in examples]
    prompts = [example.input_ids[: -len(answer)] for example, answer in zip(examples, answers, strict=True)]
    exact = [False] * len(examples)
    options = GenerationOptions(max_new_tokens=max(map(len, answers)))
    for index, answer in engine.generate_many(prompts, name, options):
        exact[index] = answer.ended and list(answer.token_ids) == answers[index][:-1]
    return exact
