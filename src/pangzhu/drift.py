"""How far an adapter moves from its base where nothing was taught: on general questions, on the base's own answers.

The base answers each question greedily, once; then both read these answers, and at every token it is asked whether both
would write the same next one, and how far their distributions lie apart, as KL(base || adapter). No expected answers are
needed, and every token counts, so the noise is far smaller than that of right and wrong answers.

Logits are made a few places at a time; what is held of a micro-batch is its hidden states alone.
Left to others: whether what moved is worse (`pangzhu.choices`, `pangzhu.compare`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Location
from pangzhu.engines.named_models import BASE
from pangzhu.intervals import Estimate, bootstrap_mean
from pangzhu.messages import say
from pangzhu.own_words import answers_of_base, as_example
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.questions import GENERAL, choices_of, kind_of
from pangzhu.step import predict_rows, split_rows
from pangzhu.tokenization import TokenizedExample

if TYPE_CHECKING:
    from torch import Tensor

    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine
    from pangzhu.fast.path import FastPath, Predictions

MOST_ROWS = 100
ANSWERS = GenerationOptions(max_new_tokens=64)  # of the base
Prompts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """One adapter against the base on `num_tokens` tokens of the base's answers to `num_rows` questions.

    Args:
        model: the adapter's name.
        num_rows: questions.
        num_tokens: of the answers, their end included where they ended.
        agreement: share of tokens where both would write the same one.
        kl: KL(base || adapter), mean over tokens, in nats; NaN where the adapter's probabilities are no numbers.
    """

    model: str
    num_rows: int
    num_tokens: int
    agreement: Estimate
    kl: Estimate

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of each row, over its tokens: how many there are, how many agree, their KL; `(N,)` each, double precision."""

    tokens: "Tensor"
    agreeing: "Tensor"
    kl: "Tensor"

    def add(self, rows: "Tensor", agreeing: "Tensor", kl: "Tensor") -> None:
        """Add S tokens, `(S,)` each, to the rows they belong to."""
        import torch

        for sums, values in ((self.tokens, torch.ones_like(kl)), (self.agreeing, agreeing), (self.kl, kl)):
            sums.index_add_(0, rows, values.to(sums))

    def drift_of(self, name: str) -> Drift:
        """The sums as means, with intervals over the questions."""
        rows = [str(number) for number in range(len(self.tokens))]
        agreement, kl = (bootstrap_mean(part.tolist(), self.tokens.tolist(), rows) for part in (self.agreeing, self.kl))
        return Drift(name, len(rows), int(self.tokens.sum()), agreement, kl)


def measure_drift(engine: "TransformersEngine", rows: "Sequence[Conversation]") -> list[Drift]:
    """Every adapter against the base, on `MOST_ROWS` rows of kind `general` at the most, those first whose answers are free;
    nothing where there are none, or no adapter."""
    general = [row for row in rows if kind_of(row) == GENERAL]
    asked = sorted(general, key=lambda row: bool(choices_of(row)))[:MOST_ROWS]  # a letter is a single token
    if not asked:
        return []
    by_prompts: dict[Prompts, list[str]] = defaultdict(list)
    for name in engine.names:
        if name != BASE:
            by_prompts[tuple(tuple(engine.fitting_prompt(row, name, ANSWERS)) for row in asked)].append(name)
    drifts: dict[str, Drift] = {}
    for prompts, names in by_prompts.items():
        examples = base_answers(engine, prompts, [row.location for row in asked])
        drifts |= {name: sums.drift_of(name) for name, sums in _compare(engine, names, examples).items()}
    return [drifts[name] for name in engine.names if name != BASE]


def base_answers(
    engine: "TransformersEngine", prompts: Prompts, locations: Sequence[Location]
) -> list[TokenizedExample]:
    """What the base answers, as rows whose answers are supervised."""
    say("evaluate.drift", num=len(prompts))
    answers = answers_of_base(engine, prompts, ANSWERS)
    return [as_example(*row) for row in zip(prompts, answers, locations, strict=True)]


def _compare(
    engine: "TransformersEngine", names: Sequence[str], examples: Sequence[TokenizedExample]
) -> dict[str, _Sums]:
    import torch

    from pangzhu.fast.path import FastPath
    from pangzhu.fast.techniques import Techniques

    sums = {name: _Sums(*torch.zeros((3, len(examples)), dtype=torch.float64)) for name in names}
    fast = FastPath(engine.model, Techniques(), longest=max(len(example.input_ids) for example in examples))
    with torch.no_grad():
        for piece in split_rows(lay_end_to_end(list(enumerate(examples))), MAX_TOKEN_BUDGET, fast):
            here = piece.to(engine.model.device)
            indices = torch.tensor(here.row_indices)
            before = _predictions(engine, BASE, here, fast)
            rows = indices[before.row_numbers.cpu()]
            for name in names:
                after = _predictions(engine, name, here, fast)
                sums[name].add(rows, *_between(engine, name, before.hidden, after.hidden, fast))
    return sums


def _predictions(engine: "TransformersEngine", name: str, piece: MicroBatch, fast: "FastPath") -> "Predictions":
    with engine.using(name):
        return predict_rows(engine.model, piece, fast)


def _between(
    engine: "TransformersEngine", name: str, before: "Tensor", after: "Tensor", fast: "FastPath"
) -> "tuple[Tensor, Tensor]":
    """For each of S places whether base and adapter would write the same token, and KL(base || adapter), `(S,)` each."""
    import torch
    from torch.nn.functional import kl_div

    from pangzhu.fast.path import PLACES_A_CHUNK

    agreeing, divergences = [], []
    for its, own in zip(torch.split(before, PLACES_A_CHUNK), torch.split(after, PLACES_A_CHUNK), strict=True):
        base, adapter = _log_probs(engine, BASE, its, fast), _log_probs(engine, name, own, fast)
        divergence = kl_div(adapter, base, reduction="none", log_target=True).sum(dim=-1)
        same = base.argmax(dim=-1) == adapter.argmax(dim=-1)
        agreeing.append(same & divergence.isfinite())  # the argmax of NaN is some token
        divergences.append(divergence)
    return torch.cat(agreeing), torch.cat(divergences)


def _log_probs(engine: "TransformersEngine", name: str, hidden: "Tensor", fast: "FastPath") -> "Tensor":
    """`(S, H)` to `(S, V)`; by the model's own head, which an adapter may change."""
    from pangzhu.fast.loss import log_softmax

    with engine.using(name):
        return log_softmax(fast.logits(hidden))
