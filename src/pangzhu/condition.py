"""What is known of an adapter beside its base before it is asked anything; a verdict needs it beside the answers.

Answers alone cannot tell an adapter that belongs to another base from one that learned little.

Left to others: what is refused at once (`pangzhu.adapter`), the verdict (`pangzhu.report`).
"""

from dataclasses import dataclass
from pathlib import Path

from pangzhu.adapter import WEIGHTS, BaseMismatch
from pangzhu.vetting import adds_nothing


@dataclass(frozen=True, slots=True)
class Condition:
    """What an adapter's files say.

    Args:
        mismatch: it was trained on another base, and is used all the same.
        adds_nothing: every B is zero; whatever is asked, the base answers.
    """

    mismatch: BaseMismatch | None = None
    adds_nothing: bool = False


def condition_of(folder: Path, mismatch: BaseMismatch | None) -> Condition:
    """The condition of an adapter whose files have been verified."""
    return Condition(mismatch, adds_nothing=adds_nothing(folder / WEIGHTS))
