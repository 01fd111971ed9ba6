"""Plan against actual: what a run was to take, and what it took.

Both are written into the run's record while it goes on, and never worked out afterwards: the plan before the first step
(its time after a few, `pangzhu.progress`), what was taken when the steps are over.

Left to others: the arithmetic of the plan (`pangzhu.plan`, `pangzhu.decisions`), telling it (`pangzhu.report`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pangzhu.decisions import Outlook
    from pangzhu.plan import StepPlan
    from pangzhu.progress import Progress


@dataclass(frozen=True, slots=True)
class Account:
    """What a run takes.

    Args:
        num_steps: optimizer steps; of a plan with `until_learned` the most there will be.
        num_tokens: read in them, each row as often as it is seen.
        seconds: of these steps, over all calls; None where it is not known.
        memory: the most bytes the process holds at once, loading and training; None where it is not known.
    """

    num_steps: int
    num_tokens: int
    seconds: float | None = None
    memory: int | None = None

    @classmethod
    def planned(cls, steps: "StepPlan", outlook: "Outlook") -> "Account":
        """What follows from the plan before the first step. How long steps take is not known then; what the plan counts is
        the computer's own memory, not a graphics card's."""
        memory = round(outlook.peak) if outlook.decisions.device == "cpu" else None
        return cls(steps.num_steps, round(steps.num_tokens_seen), memory=memory)

    @classmethod
    def taken(cls, progress: "Progress", *, num_steps: int) -> "Account":
        """What the steps took that lead to the weights as they are; steps that a crash threw away do not count."""
        seconds = None if progress.seconds is None else round(progress.seconds, 2)
        return cls(num_steps, progress.num_tokens, seconds, progress.peak_memory)

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any]) -> "Account | None":
        """As it was recorded; None where it was not."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: recorded[name] for name in names}) if names <= recorded.keys() else None
