"""Loss and exact recall of base and adapters on rows with known answers, mostly without generating.

One teacher-forced pass over a row gives its loss and tells whether greedy decoding would write the expected answer: yes
where every learned token is the argmax by a margin, no where some token clearly is not. Only near ties are generated.

Left to others: the forward pass (`pangzhu.step`), answers side by side (`pangzhu.compare`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pangzhu.batching import lay_end_to_end, split_to_budget
from pangzhu.compare import NO_KIND, normalized
from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.transformers import load_engine
from pangzhu.messages import text
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.step import RowOutcome, forward_rows
from pangzhu.tokenization import Labeller, TokenizedExample, tokenize

if TYPE_CHECKING:
    from rich.table import Table

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one kind of row. `loss` is the mean over supervised tokens in nats; `num_exact` rows are answered
    word for word by greedy decoding, of which `num_generated` near ties were settled by generating."""

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

        table = Table(title=text("evaluate.title", base=self.base_name))
        for heading in ("model", "kind", "rows", "loss", "perplexity", "exact"):
            table.add_column(text(f"evaluate.{heading}"), justify="left" if heading in ("model", "kind") else "right")
        for row in self.measured:
            exact = f"{row.num_exact}/{row.num_rows}"
            table.add_row(row.model, row.kind, str(row.num_rows), f"{row.loss:.4f}", f"{row.perplexity:.2f}", exact)
        return table


def evaluate(config: CompareConfig) -> Evaluation:
    """Measure base and adapters on a file of rows with answers.

    Raises:
        PangzhuError: rows, base or adapters cannot be read.
    """
    rows = load_dataset(config.dataset_path).conversations[: config.max_questions]
    engine = load_engine(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    options = GenerationOptions(max_new_tokens=config.max_new_tokens)
    measured = [part for name in engine.names for part in measure(engine, name, rows, options)]
    return Evaluation(engine.base_name, tuple(measured))


def measure(
    engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]", options: GenerationOptions
) -> list[Measured]:
    """One model's figures, kind by kind.

    Raises:
        BadRowsError: a row longer than the model's context, or whose labels cannot be proven.
    """
    labeller = Labeller(engine.tokenizer, engine.contract(name), "last")
    tokenized = tokenize(rows, labeller, max_seq_length=engine.context_length)
    if tokenized.findings:
        raise BadRowsError(tokenized.findings, num_rows=len(rows))
    outcomes = _outcomes(engine, name, tokenized.examples)
    kinds = [row.field("kind") or NO_KIND for row in rows]
    ties = [index for index, outcome in enumerate(outcomes) if outcome.right and not outcome.learned]
    settled = _generate_ties(engine, name, [rows[index] for index in ties], options)
    exact = [outcome.learned for outcome in outcomes]
    for index, right in zip(ties, settled, strict=True):
        exact[index] = right
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

    outcomes: list[RowOutcome] = []
    with engine.using(name) as model, torch.inference_mode():
        for piece in split_to_budget(lay_end_to_end(list(enumerate(examples))), MAX_TOKEN_BUDGET):
            outcomes += forward_rows(model, piece.to(model.device)).rows
    return outcomes


def _generate_ties(
    engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]", options: GenerationOptions
) -> list[bool]:
    """Whether greedy decoding writes the expected answer, by writing it."""
    if not rows:
        return []
    prompts = [engine.prompt(row.prompt, name) for row in rows]
    right = [False] * len(rows)
    for index, answer in engine.generate_many(prompts, name, options):
        right[index] = normalized(answer.text) == normalized(rows[index].answer or "")
    return right
