"""Base and adapters on rows with known answers, mostly without generating: loss, exact recall, multiple choice, drift.

One teacher-forced pass over a row gives its loss and tells whether greedy decoding would write the expected answer: yes
where every learned token is the argmax by a margin, no where some token is not. Near ties are generated. Exact means
token by token; `pangzhu.compare`, which generates everything, forgives white space and punctuation.

Rows that give choices are asked which choice is the most probable instead (`pangzhu.choices`). Of rows that ask for a format it
is also asked whether the generated answer keeps it, and on general questions how far an adapter moves from the base
(`pangzhu.drift`).

Left to others: the forward pass (`pangzhu.step`), answers side by side (`pangzhu.compare`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import gate, storage
from pangzhu.batching import lay_end_to_end
from pangzhu.choices import ChoiceShare, check_choices, measure_choices, nothing_shown
from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.data.findings import BadRowsError, Finding
from pangzhu.drift import Drift, measure_drift
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import load_engine
from pangzhu.fast.memory import bound_kernel_caches
from pangzhu.intervals import Share, shares_of, shown_nats, shown_percent, shown_share
from pangzhu.json_text import to_json
from pangzhu.measures import keeps_format
from pangzhu.messages import say, text
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.questions import GENERAL, choices_of, fact_of, format_of, kind_of
from pangzhu.step import RowOutcome, forward_rows, split_rows
from pangzhu.tables import counted, figures_table, shares_table
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine

EVALUATION_FILE = "evaluation.json"
MEASURED_HEADINGS = ("evaluate.loss", "evaluate.perplexity", "evaluate.exact", "compare.share", "evaluate.ended")


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one kind of row.

    Args:
        model: its name.
        kind: of row.
        num_rows: of that kind.
        loss: mean over supervised tokens, nats.
        num_exact: rows whose answer greedy decoding writes token by token.
        num_generated: near ties that were settled by generating.
        num_ended: rows in which, after the expected answer, the model's next token is the end.
    """

    model: str
    kind: str
    num_rows: int
    loss: float
    num_exact: int
    num_generated: int
    num_ended: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 100.0))

    @property
    def share(self) -> Share:
        """Exact rows of all rows."""
        return Share(self.model, self.kind, self.num_exact, self.num_rows)

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        low, high = self.share.interval
        return asdict(self) | {"perplexity": self.perplexity, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every model on every kind of row.

    Args:
        base_name: how the base was named.
        measured: loss and exact recall, on the rows that give no choices.
        choices: multiple choice by log-probability, on the rows that give choices.
        formats: generated answers that keep the format their row asks for.
        drifts: each adapter against the base, on general questions.
        shortfalls: what `--fail_under` found.
    """

    base_name: str
    measured: tuple[Measured, ...]
    choices: tuple[ChoiceShare, ...] = ()
    formats: tuple[Share, ...] = ()
    drifts: tuple[Drift, ...] = ()
    shortfalls: tuple[gate.Shortfall, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 unless a kind of question fell short."""
        return gate.exit_code(self.shortfalls)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know of the figures: whose are no numbers, and which show nothing."""
        finite = [(part.model, math.isfinite(part.loss)) for part in self.measured]
        finite += [(share.model, share.finite) for share in self.choices]
        finite += [(drift.model, math.isfinite(drift.kl.value)) for drift in self.drifts]
        lost = dict.fromkeys(model for model, is_number in finite if not is_number)
        return (*(text("evaluate.not_numbers", model=model) for model in lost), *nothing_shown(self.choices))

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        return {
            "base": self.base_name,
            "measured": [measured.as_json() for measured in self.measured],
            "choices": [share.as_json() for share in self.choices],
            "formats": [share.as_json() for share in self.formats],
            "drift": [drift.as_json() for drift in self.drifts],
            "shortfalls": [shortfall.as_json() for shortfall in self.shortfalls],
        }

    def render(self) -> "Group":
        """The figures as tables, one for each thing that was measured, and the remarks on them."""
        from rich.console import Group
        from rich.text import Text

        tables = [self._measured_table()] if self.measured else []
        if self.choices:
            tables.append(shares_table(text("evaluate.choices"), text("compare.right"), self.choices))
        if self.formats:
            tables.append(shares_table(text("evaluate.formats"), text("compare.format"), self.formats))
        if self.drifts:
            tables.append(_drift_table(self.drifts))
        return Group(*tables, *map(Text, self.remarks))

    def write(self, folder: Path) -> Path:
        """Keep the figures as JSON."""
        storage.make_folder(folder)
        file = folder / EVALUATION_FILE
        storage.write_atomically(file, to_json(self.as_json(), indent=2) + "\n")
        return file

    def _measured_table(self) -> "Table":
        headings = [text(heading) for heading in MEASURED_HEADINGS]
        kinds = dict.fromkeys(row.kind for row in self.measured)
        lines = [_line(row) for kind in kinds for row in self.measured if row.kind == kind]
        return figures_table(text("evaluate.title", base=self.base_name), headings, lines)


def evaluate(config: CompareConfig) -> Evaluation:
    """Measure base and adapters on a file of rows with answers; general questions may go without, for the drift alone.

    Raises:
        PangzhuError: rows, base or adapters cannot be read.
    """
    rows = load_dataset(config.dataset_path, require_answer=False).conversations[: config.max_questions]
    answered = _check(rows, config)  # before anything is loaded
    bound_kernel_caches(len(rows))  # rows of many lengths meet in one micro-batch
    engine = load_engine(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    free = [row for row in answered if not choices_of(row)]
    measured = tuple(part for name in engine.names for part in measure(engine, name, free)) if free else ()
    choices = tuple(measure_choices(engine, answered))
    shares = _together([*(part.share for part in measured), *choices])
    evaluation = Evaluation(
        engine.base_name,
        measured,
        choices=choices,
        formats=tuple(measure_formats(engine, rows, GenerationOptions(max_new_tokens=config.max_new_tokens))),
        drifts=() if config.skip_drift else tuple(measure_drift(engine, rows)),
        shortfalls=gate.find_shortfalls(config.thresholds, shares, base=BASE),
    )
    if config.output_dir:
        say("evaluate.written", file=evaluation.write(config.output_dir))
    gate.report(evaluation.shortfalls)
    return evaluation


def _check(rows: "Sequence[Conversation]", config: CompareConfig) -> "list[Conversation]":
    """The rows with answers.

    Raises:
        BadRowsError: another row has none.
        DataError: a row whose choices or format cannot be asked.
        UsageError: a bar for a kind that has no answers.
    """
    drifts = bool(config.adapter) and not config.skip_drift
    answered = [row for row in rows if row.answer is not None]
    lacking = [row for row in rows if row.answer is None and not (drifts and kind_of(row) == GENERAL)]
    if lacking:
        raise BadRowsError(
            tuple(Finding("finding.nothing_to_measure", row.location) for row in lacking), num_rows=len(rows)
        )
    gate.require_kinds(config.thresholds, map(kind_of, rows), answered=map(kind_of, answered))
    for row in rows:
        check_choices(row)
        format_of(row)
    return answered


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


def measure_formats(
    engine: "TransformersEngine", rows: "Sequence[Conversation]", options: GenerationOptions
) -> list[Share]:
    """How many of each model's generated answers keep the format that their row asks for, by kind."""
    asked = [(row, wanted) for row in rows if (wanted := format_of(row))]
    if not asked:
        return []
    kept: dict[str, list[bool]] = {}
    for name in engine.names:
        prompts = [engine.fitting_prompt(row, name, options) for row, _ in asked]
        answers = dict(engine.generate_many(prompts, name, options))
        kept[name] = [keeps_format(answers[number].text, wanted) for number, (_, wanted) in enumerate(asked)]
    kinds, facts = ([of(row) for row, _ in asked] for of in (kind_of, fact_of))
    return shares_of(kept, base=BASE, kinds=kinds, groups=facts)


def _together(shares: Sequence[Share]) -> list[Share]:
    """One share for each model and kind: exact answers and right choices of all its rows."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for share in shares:
        num_right, num_rows = counts.get((share.model, share.kind), (0, 0))
        counts[share.model, share.kind] = (num_right + share.num_right, num_rows + share.num_rows)
    return [Share(model, kind, *count) for (model, kind), count in counts.items()]


def _line(row: Measured) -> tuple[str, ...]:
    exact, ended = (counted(num, row.num_rows) for num in (row.num_exact, row.num_ended))
    share = shown_share(row.num_exact, row.num_rows)
    return row.kind, row.model, f"{row.loss:.4f}", f"{row.perplexity:.2f}", exact, share, ended


def _drift_table(drifts: Sequence[Drift]) -> "Table":
    headings = [text(heading) for heading in ("evaluate.tokens", "evaluate.agreement", "evaluate.kl")]
    lines = [
        (GENERAL, drift.model, f"{drift.num_tokens}", shown_percent(drift.agreement), shown_nats(drift.kl))
        for drift in drifts
    ]
    return figures_table(text("evaluate.drifts"), headings, lines)


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
        num_ended=sum(outcomes[index].ended for index in chosen),
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
    return sorted(outcomes, key=lambda outcome: outcome.row_index)  # the longest rows come first in their pieces


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
