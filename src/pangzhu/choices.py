"""Multiple choice without generating: which of its choices a model finds most probable as the beginning of its answer.

One forward pass over a question gives the log-probability of every choice. Choices that differ in their last token alone, as
letters do, are asked at one place of one row, so the question is computed once; others are further rows that share it, and
the log-probabilities of their tokens are added up. Only these places go through the head, and the rows of many questions
lie end to end in one micro-batch.

A question is right where the expected choice is more probable than every other one; a tie is not. Where the base does no
better than guessing, or picks one choice whatever is asked, there is nothing that an adapter could lose or gain.
Left to others: what a model writes when it is free to write (`pangzhu.compare`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from statistics import fmean
from typing import TYPE_CHECKING

from pangzhu.batching import lay_end_to_end
from pangzhu.data.conversation import Turn
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.named_models import BASE
from pangzhu.errors import DataError
from pangzhu.intervals import Share, shares_of
from pangzhu.messages import text
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.questions import choices_of, fact_of, kind_name, kind_of
from pangzhu.step import predict_rows, split_rows
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize

if TYPE_CHECKING:
    from torch import Tensor

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine
    from pangzhu.fast.path import Predictions


ONE_CHOICE = 0.9  # a share of the questions in which whoever picks the same choice did not look at them


@dataclass(frozen=True, slots=True)
class ChoiceShare(Share):
    """A model's right choices of one kind of question, and what they are worth.

    Args:
        chance: the share that guessing gives.
        favourite: the choice it picks most often.
        num_favourite: how often.
        finite: whether its log-probabilities are numbers.
    """

    chance: float = 0.0
    favourite: str = ""
    num_favourite: int = 0
    finite: bool = True

    @property
    def at_chance(self) -> bool:
        """Whether it is not known to do better than guessing."""
        return self.interval[0] <= self.chance

    @property
    def has_one_choice(self) -> bool:
        """Whether it picks one choice in nearly all of several questions."""
        return self.num_rows > 1 and self.num_favourite >= ONE_CHOICE * self.num_rows

    @property
    def says_nothing(self) -> bool:
        """Whether, of the base, it leaves an adapter nothing to lose."""
        return self.at_chance or self.has_one_choice


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


def measure_choices(engine: "TransformersEngine", rows: "Sequence[Conversation]") -> list[ChoiceShare]:
    """How often each model finds the expected choice the most probable one, by kind, on the rows that give choices.

    Raises:
        DataError: see `check_choices`.
    """
    asked = [row for row in rows if choices_of(row)]
    if not asked:
        return []
    for row in asked:
        check_choices(row)
    log_probs = {name: choice_log_probs(engine, name, asked) for name in engine.names}
    picks = {name: list(map(_pick, asked, found)) for name, found in log_probs.items()}
    expected = [(row.answer or "").strip() for row in asked]
    right = {name: [pick == own for pick, own in zip(found, expected, strict=True)] for name, found in picks.items()}
    shares = shares_of(right, base=BASE, kinds=list(map(kind_of, asked)), groups=list(map(fact_of, asked)))
    return [_choice_share(share, asked, picks[share.model], log_probs[share.model]) for share in shares]


def nothing_shown(shares: Sequence[ChoiceShare]) -> list[str]:
    """A sentence for each kind of question in which the base's choices say nothing, unless every adapter does better."""
    empty = [share for share in shares if share.model == BASE and share.says_nothing]
    return [_why_nothing(share) for share in empty if not _is_surpassed(share, shares)]


def choice_log_probs(engine: "TransformersEngine", name: str, rows: "Sequence[Conversation]") -> list[list[float]]:
    """The log-probability of each choice of each row as the beginning of a model's answer, in nats."""
    import torch

    from pangzhu.fast.path import FastPath
    from pangzhu.fast.techniques import Techniques

    spellings = spell_choices(engine, name, rows)
    fast = FastPath(engine.model, Techniques(), longest=max(len(it.example.input_ids) for it in spellings))
    batch = lay_end_to_end([(number, spelling.example) for number, spelling in enumerate(spellings)])
    order: list[Spelling] = []
    hidden: list[Tensor] = []
    with engine.using(name) as model, torch.no_grad():
        for piece in split_rows(batch, MAX_TOKEN_BUDGET, fast):
            order += [spellings[number] for number in piece.row_indices]
            hidden.append(_row_after_row(predict_rows(model, piece.to(model.device), fast)))
        wanted = _padded([tokens for spelling in order for tokens in spelling.wanted])
        states = torch.cat(hidden)  # few places a micro-batch: the head is read once for many of them
        by_place = fast.log_probs(states, torch.tensor(wanted, device=states.device)).tolist()
    return _by_question(rows, order, by_place)


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


def _is_surpassed(base: ChoiceShare, shares: Sequence[ChoiceShare]) -> bool:
    """Whether every adapter is known to do better on this kind of question."""
    gains = [share.gain for share in shares if share.kind == base.kind and share.gain]
    return bool(gains) and all(gain.low is not None and gain.low > 0 for gain in gains)


def _why_nothing(share: ChoiceShare) -> str:
    counts: dict[str, object] = {"kind": kind_name(share.kind), "total": share.num_rows}
    if share.has_one_choice:
        return text("choices.one_choice", choice=share.favourite, num=share.num_favourite, **counts)
    return text("choices.at_chance", num=share.num_right, chance=share.chance, **counts)


def _choice_share(
    share: Share,
    rows: "Sequence[Conversation]",
    picks: Sequence[str | None],
    log_probs: Sequence[Sequence[float]],
) -> ChoiceShare:
    """A share with what it is worth, by the rows of its kind."""
    own = [number for number, row in enumerate(rows) if kind_of(row) == share.kind]
    picked = Counter(pick for number in own if (pick := picks[number]))
    favourite, num_favourite = max(picked.items(), key=itemgetter(1), default=("", 0))
    return ChoiceShare(
        share.model,
        share.kind,
        share.num_right,
        share.num_rows,
        share.gain,
        chance=fmean(1 / len(choices_of(rows[number])) for number in own),
        favourite=favourite,
        num_favourite=num_favourite,
        finite=all(math.isfinite(value) for number in own for value in log_probs[number]),
    )


def _pick(row: "Conversation", log_probs: Sequence[float]) -> str | None:
    """The choice that leads; None for a tie, and where they are no numbers."""
    return next((choice for number, choice in enumerate(choices_of(row)) if _leads(log_probs, number)), None)


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


def _row_after_row(found: "Predictions") -> "Tensor":
    """Hidden states in the order of the micro-batch's rows, `(S, H)`."""
    import torch

    return found.hidden[torch.argsort(found.row_numbers, stable=True)]


def _padded(places: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Lists of one length; what is added is looked up and left unread."""
    width = max(map(len, places))
    return [[*tokens, *[0] * (width - len(tokens))] for tokens in places]


def _by_question(
    rows: "Sequence[Conversation]", order: Sequence[Spelling], by_place: Sequence[list[float]]
) -> list[list[float]]:
    """The log-probability of each choice: that of its stem, token by token, and of its last token."""
    found = [[0.0] * len(choices_of(row)) for row in rows]
    places = iter(by_place)
    for spelling in order:
        before = sum(next(places)[0] for _ in spelling.stem)
        for choice, value in zip(spelling.choices, next(places), strict=False):
            found[spelling.question][choice] = before + value
    return found
