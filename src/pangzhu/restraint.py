"""The adapter made as weak as what it has learned allows.

A run goes on while most rows are learned already, so in the end an adapter moves the base further than these rows need, and
questions that nobody taught pay for it. Here every B is scaled by one factor, the smallest of `FACTORS` at which each learned
row is still learned, and leads by `SPARE` where it did before: a four-bit file of the base rounds otherwise, and what leads by
less turns there. A factor on B mixes the base's weights with the trained ones, which keeps more of what the base could
than training less does (M. Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).

Left to others: what learned means (`pangzhu.step`), what else is gained and lost by it (`pangzhu.compare`, `pangzhu.drift`).
"""

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import torch

from pangzhu.adapter import round_to_bf16
from pangzhu.step import measure_rows
from pangzhu.tokenization import TokenizedExample

if TYPE_CHECKING:
    from peft import PeftModel

    from pangzhu.fast.path import FastPath

FACTORS = tuple(percent / 100 for percent in range(50, 101))
SPARE = 0.5  # nats; computing in bf16 moved leads by 0.4 at the most, a Q4_K_M file log-probabilities by 0.3
ROWS_AT_ONCE = 16  # of a factor that loses a row, the rows after the first such lot are not measured


def weaken(
    model: "PeftModel",
    examples: Sequence[TokenizedExample],
    learned: Sequence[int],
    token_budget: int,
    fast: "FastPath | None" = None,
) -> float:
    """Scale every B in place, rounded as it will be saved.

    The factor is found by halving, as if a row that one factor loses were lost to every smaller one; that the factor it gives
    loses no row was measured.

    Args:
        model: base with its adapter, rounded.
        examples: all rows, read as they are needed.
        learned: which of them are.
        token_budget: most tokens of a micro-batch.
        fast: the model's fast path; None takes the reference path.

    Returns:
        The factor; 1.0 where no row was learned, or none can do with less.
    """
    strengths = [
        parameter for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_B" in name
    ]
    whole = [parameter.detach().clone() for parameter in strengths]
    ample = _with_ample_lead(model, examples, learned, token_budget, fast)
    lost, kept = -1, len(FACTORS) - 1
    while learned and kept - lost > 1:
        middle = (lost + kept) // 2
        _scale(model, strengths, whole, FACTORS[middle])
        if _none_lost(model, examples, learned, ample, token_budget, fast):
            kept = middle
        else:
            lost = middle
    _scale(model, strengths, whole, FACTORS[kept])
    return FACTORS[kept]


def _with_ample_lead(
    model: "PeftModel",
    examples: Sequence[TokenizedExample],
    learned: Sequence[int],
    token_budget: int,
    fast: "FastPath | None",
) -> set[int]:
    """Which rows lead by `SPARE` and more at full strength."""
    rows = ((index, examples[index]) for index in learned)
    return {outcome.row_index for outcome in measure_rows(model, rows, token_budget, fast) if outcome.lead >= SPARE}


def _scale(model: "PeftModel", strengths: Sequence[torch.Tensor], whole: Sequence[torch.Tensor], factor: float) -> None:
    with torch.no_grad():
        for strength, full in zip(strengths, whole, strict=True):
            strength.copy_(full * factor)
    round_to_bf16(model)


def _none_lost(
    model: "PeftModel",
    examples: Sequence[TokenizedExample],
    learned: Sequence[int],
    ample: Set[int],
    token_budget: int,
    fast: "FastPath | None",
) -> bool:
    for start in range(0, len(learned), ROWS_AT_ONCE):
        lot = [(index, examples[index]) for index in learned[start : start + ROWS_AT_ONCE]]
        for outcome in measure_rows(model, lot, token_budget, fast):
            if not outcome.learned or (outcome.row_index in ample and outcome.lead < SPARE):
                return False
    return True
