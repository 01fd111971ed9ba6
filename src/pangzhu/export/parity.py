"""The parity gate: what was written is asked what its adapter is asked, and must answer the same.

The questions are the adapter's own, from the data it was trained on, and general ones. The adapter answers each greedily,
unmerged and in float32; of its answers the gate takes every token's log-probability. Then the export, as it is on the disk,
is asked: does its greedy decoding write the same answers, and how far from the adapter's are its log-probabilities of them?
A taught answer, one that the adapter gives as its data has it, must come word for word. The prompts that the export's own
template and tokenizer make must be the adapter's, token for token.

Left to others: how a model folder or a GGUF file is asked (`pangzhu.export.readers`, `pangzhu.export.llamacpp`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.config import Device, GenerationOptions
from pangzhu.errors import VerificationError
from pangzhu.export.questions import Question
from pangzhu.export.readers import Ids, Reader, Voice, reference
from pangzhu.export.staging import PARITY
from pangzhu.messages import say, text
from pangzhu.questions import kind_name
from pangzhu.tables import counted

if TYPE_CHECKING:
    from rich.table import Table

    from pangzhu.export.subject import Subject

FINE = 0.05  # nats, of the mean difference: a merged folder, and F16
COARSE = 0.3  # Q8_0 and coarser, whose activations llama.cpp rounds too
LEAST_TOKENS = 48  # of an answer that is written: general ones, and own ones that were not learned
HEADINGS = (
    "compare.kind",
    "parity.questions",
    "parity.taught",
    "parity.same",
    "parity.tokens",
    "parity.mean",
    "parity.largest",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One question to one model: what it answers, its end token last where it ended; and of the adapter's answer, token by
    token, the log-probabilities, None where they are not told."""

    answer: Ids
    log_probs: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """An export beside its adapter, on one kind of question.

    Args:
        kind: of question.
        num_questions: of that kind.
        num_taught: answers that the adapter gives as its data has them.
        num_kept: of these, those that the export gives word for word.
        num_same: answers, taught or not, that both give.
        num_tokens: of the adapter's answers, as far as both tell of them.
        mean: absolute difference of a token's log-probability, nats.
        largest: of these differences.
    """

    kind: str
    num_questions: int
    num_taught: int
    num_kept: int
    num_same: int
    num_tokens: int
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How an export compares with its adapter.

    Args:
        export: what was asked, for a reader.
        bound: most nats that the mean difference may be.
        compared: kind by kind.
        num_prompts: questions whose prompt the export could make itself.
        num_prompts_same: of these, those that it makes token for token as the adapter's.
        tied: whether one matrix is both embeddings of the export.
        tied_as_base: whether that is so of the base too.
    """

    export: str
    bound: float
    compared: tuple[Compared, ...]
    num_prompts: int
    num_prompts_same: int
    tied: bool
    tied_as_base: bool

    @property
    def faults(self) -> tuple[str, ...]:
        """What the export fails by, a sentence each."""
        found = []
        if not self.tied_as_base:
            found.append(text("parity.fault.untied" if not self.tied else "parity.fault.tied"))
        if self.num_prompts_same < self.num_prompts:
            different = self.num_prompts - self.num_prompts_same
            found.append(text("parity.fault.prompts", num=different, total=self.num_prompts))
        for part in self.compared:
            kind = kind_name(part.kind)
            if part.num_kept < part.num_taught:
                lost = part.num_taught - part.num_kept
                found.append(text("parity.fault.taught", num=lost, total=part.num_taught))
            if not part.mean <= self.bound:  # NaN is no fit either
                found.append(text("parity.fault.mean", kind=kind, mean=part.mean, bound=self.bound))
        return tuple(found)

    def require(self, staged: Path) -> None:
        """Refuse an export that differs, with its figures.

        Raises:
            VerificationError: it does.
        """
        if faults := self.faults:
            headings, *lines = self.rows()
            for line in lines:
                say("parity.line", cells="; ".join(map(": ".join, zip(headings, line, strict=True))))
            reasons = "".join(f"\n    {fault}" for fault in faults)
            raise VerificationError("error.export.differs", where=str(staged / PARITY), reasons=reasons)

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        return asdict(self) | {"faults": list(self.faults)}

    def table(self) -> "Table":
        """The figures, a line for each kind of question."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(text("parity.title", export=self.export, bound=self.bound)))
        (kind, *headings), *lines = self.rows()
        table.add_column(kind, overflow="fold")
        for heading in headings:
            table.add_column(heading, justify="right")
        for cells in lines:
            table.add_row(*map(Text, cells))
        return table

    def rows(self) -> list[list[str]]:
        """The figures as text: the headings, then a line for each kind of question."""
        lines = [
            [
                kind_name(part.kind),
                str(part.num_questions),
                counted(part.num_kept, part.num_taught),
                counted(part.num_same, part.num_questions),
                str(part.num_tokens),
                f"{part.mean:.4f}",
                f"{part.largest:.3f}",
            ]
            for part in self.compared
        ]
        return [[text(heading) for heading in HEADINGS], *lines]


def examine(
    subject: "Subject",
    questions: Sequence[Question],
    reader: Reader,
    *,
    bound: float,
    device: Device = "auto",
    own_file: bool = True,
) -> Parity:
    """Ask the adapter and the export, and compare.

    Args:
        subject: base and adapter as they were before.
        questions: what is asked.
        reader: of what was written.
        bound: most nats that the mean difference may be.
        device: where the adapter, and a model folder, are computed.
        own_file: template and embeddings were written with the export; else they are somebody's, and an adapter's prompts
            come from elsewhere.

    Raises:
        ModelError: the export cannot be loaded.
    """
    options = GenerationOptions(max_new_tokens=most_tokens(questions))
    say("parity.asking", num=len(questions))
    with reference(subject, device) as voice:
        asked = _ask_reference(voice, questions, options)
        tied = voice.tied
    say("parity.asking_export", export=reader.title)
    with reader.opened(device) as voice:
        found = read(voice, questions, [reading.answer for reading in asked], options)
        made = [question for question in questions if question.plain and own_file]
        prompts = [(voice.prompt(question.turns), question.prompt) for question in made]
        export_tied = voice.tied if own_file else tied
    return Parity(
        export=reader.title,
        bound=bound,
        compared=compare(questions, asked, found),
        num_prompts=len(prompts),
        num_prompts_same=sum(own == wanted for own, wanted in prompts),
        tied=export_tied,
        tied_as_base=export_tied == tied,
    )


def most_tokens(questions: Sequence[Question]) -> int:
    """How long an answer may become: one token more than the longest that is expected, to see whether it ends there."""
    return max(LEAST_TOKENS, *(len(question.expected) + 1 for question in questions))


def read(
    voice: Voice, questions: Sequence[Question], wanted: Sequence[Ids], options: GenerationOptions
) -> list[Reading]:
    """A model's own answers, and what it thinks of the wanted ones; only what a pass over those leaves open is written."""
    known = [number for number, answer in enumerate(wanted) if answer]
    prompts = [question.prompt for question in questions]
    thought = voice.score([prompts[number] for number in known], [wanted[number] for number in known])
    scored = dict(zip(known, thought, strict=True))
    left = [number for number in range(len(questions)) if number not in scored or not scored[number].certain]
    written = dict(zip(left, voice.write([prompts[number] for number in left], options), strict=True))
    return [
        Reading(written.get(number, wanted[number]), scored[number].log_probs if number in scored else ())
        for number in range(len(questions))
    ]


def compare(questions: Sequence[Question], asked: Sequence[Reading], found: Sequence[Reading]) -> tuple[Compared, ...]:
    """The figures, kind by kind.

    Args:
        questions: what was asked.
        asked: the adapter's readings of its own answers.
        found: the export's of the same answers.
    """
    rows = list(zip(questions, asked, found, strict=True))
    kinds = dict.fromkeys(question.kind for question in questions)
    return tuple(_compared(kind, [row for row in rows if row[0].kind == kind]) for kind in kinds)


def _compared(kind: str, rows: Sequence[tuple[Question, Reading, Reading]]) -> Compared:
    taught = [(before, after) for question, before, after in rows if before.answer == question.expected]
    pairs = [pair for _, before, after in rows for pair in zip(before.log_probs, after.log_probs, strict=True)]
    differences = [abs(one - other) for one, other in pairs if one is not None and other is not None]
    return Compared(
        kind=kind,
        num_questions=len(rows),
        num_taught=len(taught),
        num_kept=sum(before.answer == after.answer for before, after in taught),
        num_same=sum(before.answer == after.answer for _, before, after in rows),
        num_tokens=len(differences),
        mean=sum(differences) / len(differences) if differences else math.nan,
        largest=max(differences, default=math.nan),
    )


def _ask_reference(voice: Voice, questions: Sequence[Question], options: GenerationOptions) -> list[Reading]:
    """The adapter's own answers, and what it thinks of them: the expected ones, where it gives them, are read once."""
    readings = read(voice, questions, [question.expected for question in questions], options)
    own = [
        number
        for number, (question, reading) in enumerate(zip(questions, readings, strict=True))
        if reading.answer != question.expected and reading.answer
    ]
    thought = voice.score([questions[number].prompt for number in own], [readings[number].answer for number in own])
    for number, scored in zip(own, thought, strict=True):
        readings[number] = replace(readings[number], log_probs=scored.log_probs)
    return readings
