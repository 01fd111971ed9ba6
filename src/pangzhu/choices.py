"""Multiple choice without generating: which of its choices a model finds most probable as the beginning of its answer.

One forward pass over a question gives the log-probability of every choice. Choices that differ in their last token alone, as
letters do, are asked at one place of one row, so the question is computed once; others are further rows that share it, and
the log-probabilities of their tokens are added up. Only these places go through the head, and the rows of many questions
lie end to end in one micro-batch.

A question is right where the expected choice is more probable than every other one; a tie is not.
Left to others: what a model writes when it is free to write (`pangzhu.compare`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.data.conversation import Turn
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.transformers import BASE
from pangzhu.errors import DataError
from pangzhu.intervals import Share, shares_of
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.questions import choices_of, fact_of, kind_of
from pangzhu.step import predict_rows, split_rows
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize

if TYPE_CHECKING:
    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine
    from pangzhu.fast.path import FastPath


@dataclass(frozen=True, slots=True)
class Spelling:
    """Choices of one question that differ in their last token alone.

    Args:
        question: its number.
        choices: their numbers.
        stem: the tokens they begin with; none for letters.
        last: the last token of each.
        example: the prompt, the stem, and one of the last tokens; stem and last token are supervised.
    """

    question: int
    choices: tuple[int, ...]
    stem: tuple[int, ...]
    last: tuple[int, ...]
    example: TokenizedExample

    @property
    def wanted(self) -> list[tuple[int, ...]]:
        """The tokens to ask for at each supervised place."""
        return [*((token,) for token in self.stem), self.last]


def measure_choices(engine: "TransformersEngine", rows: "Sequence[Conversation]") -> list[Share]:
    """How often each model finds the expected choice the most probable one, by kind, on the rows that give choices.

    Raises:
        DataError: see `check_choices`.
    """
    asked = [row for row in rows if choices_of(row)]
    if not asked:
        return []
    for row in asked:
        check_choices(row)
    expected = [choices_of(row).index((row.answer or "").strip()) for row in asked]
    right = {
        name: [_leads(found, own) for found, own in zip(choice_log_probs(engine, name, asked), expected, strict=True)]
        for name in engine.names
    }
    return shares_of(right, base=BASE, kinds=list(map(kind_of, asked)), groups=list(map(fact_of, asked)))


def choice_log_probs(engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]") -> list[list[float]]:
    """The log-probability of each choice of each row as the beginning of a model's answer, in nats."""
    import torch

    from pangzhu.fast.path import FastPath
    from pangzhu.fast.techniques import Techniques

    spellings = spell_choices(engine, name, rows)
    found = [[0.0] * len(choices_of(row)) for row in rows]
    fast = FastPath(engine.model, Techniques(), longest=max(len(it.example.input_ids) for it in spellings))
    batch = lay_end_to_end([(number, spelling.example) for number, spelling in enumerate(spellings)])
    with engine.using(name) as model, torch.no_grad():
        for piece in split_rows(batch, MAX_TOKEN_BUDGET, fast):
            asked = [spellings[number] for number in piece.row_indices]
            for spelling, log_probs in zip(asked, _log_probs(piece.to(model.device), asked, fast), strict=True):
                for choice, value in zip(spelling.choices, log_probs, strict=True):
                    found[spelling.question][choice] = value
    return found


def spell_choices(engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]") -> list[Spelling]:
    """The choices of all rows as rows of tokens.

    Raises:
        BadRowsError: a row longer than the model's context, or whose labels cannot be proven.
    """
    labeller = Labeller(engine.tokenizer, engine.contract(name), "last")
    answered = [
        (number, choice, replace(row, turns=(*row.prompt, Turn("assistant", words))))
        for number, row in enumerate(rows)
        for choice, words in enumerate(choices_of(row))
    ]
    tokenized = tokenize((row for _, _, row in answered), labeller, max_seq_length=engine.context_length)
    if tokenized.findings:
        raise BadRowsError(tokenized.findings, num_rows=len(answered))
    alike: dict[tuple[int, tuple[int, ...]], list[tuple[int, TokenizedExample]]] = defaultdict(list)
    for (number, choice, _), example in zip(answered, tokenized.examples, strict=True):
        alike[number, _answer(example)[:-1]].append((choice, example))
    return [_spelling(number, stem, chosen) for (number, stem), chosen in alike.items()]


def check_choices(row: "Conversation") -> None:
    """Refuse a multiple-choice question that cannot be told right.

    Raises:
        DataError: its answer is none of its choices, or it gives less than two.
    """
    choices, answer = choices_of(row), (row.answer or "").strip()
    if choices and (answer not in choices or len(set(choices)) < len(choices) or len(choices) < 2):
        raise DataError(
            "error.questions.no_such_choice", where=str(row.location), choices=", ".join(choices), answer=answer
        )


def _leads(log_probs: Sequence[float], own: int) -> bool:
    return all(log_probs[own] > other for number, other in enumerate(log_probs) if number != own)


def _answer(example: TokenizedExample) -> tuple[int, ...]:
    """The supervised tokens but for the one that ends the turn."""
    return tuple(label for label in example.labels if label != IGNORED)[:-1]


def _spelling(question: int, stem: tuple[int, ...], chosen: Sequence[tuple[int, TokenizedExample]]) -> Spelling:
    _, first = chosen[0]
    without_end = replace(first, input_ids=first.input_ids[:-1], labels=first.labels[:-1])
    last = tuple(_answer(example)[-1] for _, example in chosen)
    return Spelling(question, tuple(choice for choice, _ in chosen), stem, last, without_end)


def _log_probs(piece: MicroBatch, asked: Sequence[Spelling], fast: "FastPath") -> Iterator[list[float]]:
    """For each row of a micro-batch the log-probability of its choices."""
    import torch

    found = predict_rows(piece, fast)
    hidden = found.hidden[torch.argsort(found.row_numbers, stable=True)]  # row after row
    places = [tokens for spelling in asked for tokens in spelling.wanted]
    width = max(map(len, places))
    wanted = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in places], device=hidden.device)
    by_place = iter(fast.log_probs(hidden, wanted).tolist())
    for spelling in asked:
        before = sum(next(by_place)[0] for _ in spelling.stem)
        yield [before + value for value in next(by_place)[: len(spelling.last)]]
