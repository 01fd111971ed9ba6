"""What to change about a run before it starts, each piece computed from its plan and given only where it applies.

Too few steps to learn; a few rows that take much of the time; micro-batches so small that products run slowly; memory or
disk that may not suffice. What is wrong with the rows themselves is said elsewhere (`pangzhu check`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pangzhu.config import OptimizationOptions
from pangzhu.estimate import Sample, Work
from pangzhu.messages import text
from pangzhu.plan import MIN_PASSES, MIN_STEPS, MIN_TOKEN_BUDGET, DiskPlan, MemoryPlan, StepPlan

FEW_ROWS = 0.03  # share of the rows that may be called a few
MUCH = 0.15  # share of the tokens, or of the time, that is worth a word
NEAR = 0.9  # share of the free memory from which on a run may fail


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence of the catalogue and what it fills in."""

    key: str
    values: Mapping[str, object]

    def __str__(self) -> str:
        return text(self.key, **self.values)

    def as_json(self) -> dict[str, object]:
        """Key, figures and sentence."""
        return {"key": self.key, "sentence": str(self), **self.values}


def on_steps(steps: StepPlan, options: OptimizationOptions) -> Advice | None:
    """How to reach `MIN_STEPS` steps and `MIN_PASSES` passes."""
    if not steps.too_few:
        return None
    given: dict[str, object] = {"steps": steps.num_steps, "passes": steps.passes}
    if options.max_steps is not None:
        needed = max(MIN_STEPS, math.ceil(MIN_PASSES * steps.steps_per_epoch))
        return Advice("plan.advice.more_steps", given | {"max_steps": needed})
    smaller = int(steps.num_rows * options.num_train_epochs / MIN_STEPS) // options.gradient_accumulation_steps
    if steps.passes >= MIN_PASSES and 1 <= smaller < options.per_device_train_batch_size:
        then = _num_steps(steps, options, batch_size=smaller)
        return Advice("plan.advice.smaller_batch", given | {"batch_size": smaller, "then": then})
    epochs = math.ceil(max(MIN_PASSES, MIN_STEPS / steps.steps_per_epoch))
    return Advice("plan.advice.more_passes", given | {"epochs": epochs})


def on_long_rows(lengths: Sequence[int]) -> Advice | None:
    """Where a few rows hold much of all tokens: the length that leaves them out."""
    ranked = sorted(lengths, reverse=True)
    few = int(FEW_ROWS * len(ranked))
    limit = ranked[few]
    longer = [length for length in ranked if length > limit]
    left_out = sum(longer) / sum(ranked)
    if left_out < MUCH:
        return None
    cut = sum(length - limit for length in longer) / sum(ranked)
    values = {"limit": limit, "num_longer": len(longer), "rows": len(ranked)}
    return Advice("plan.advice.long_rows", values | {"left_out": 100 * left_out, "cut": 100 * cut})


def on_batches(steps: StepPlan, options: OptimizationOptions, *, sample: Sample, token_budget: int) -> Advice | None:
    """Where batches are so small that much of the time goes into reading weights: larger ones that keep enough steps."""
    num_batches = sum(len(step.batches) for step in sample.steps)
    work = sample.work
    if work.num_micro_batches > num_batches or not work.num_tokens:
        return None  # batches are cut by the budget: they fill it
    tokens = work.num_tokens / num_batches
    size, accumulated = options.per_device_train_batch_size, options.gradient_accumulation_steps
    if accumulated > 1:
        saved = _saved(work, min(token_budget / tokens, accumulated))
        values = {"tokens": tokens, "batch_size": size * accumulated, "saved": 100 * saved}
        return Advice("plan.advice.joined_batches", values) if saved >= MUCH else None
    if options.max_steps is not None:
        return None  # more rows a step would then mean more passes, and no time saved
    larger = min(int(token_budget * size / tokens), int(steps.num_rows * options.num_train_epochs / MIN_STEPS))
    if larger <= size or (saved := _saved(work, larger / size)) < MUCH:
        return None
    then = _num_steps(steps, options, batch_size=larger)
    values = {"tokens": tokens, "batch_size": larger, "saved": 100 * saved, "steps": steps.num_steps, "then": then}
    return Advice("plan.advice.larger_batch", values)


def on_memory(memory: MemoryPlan, *, largest: int, longest: int, free_bytes: int, is_float32: bool) -> Advice | None:
    """Where the peak comes near the memory that is free: the first change that helps.

    Args:
        memory: what the run takes.
        largest: tokens of the largest micro-batch.
        longest: tokens of the longest row, which no budget cuts.
        free_bytes: memory that can be taken; the libraries are loaded already.
        is_float32: the base's number format.
    """

    def needed(plan: MemoryPlan, num_tokens: int) -> float:
        return plan.peak(num_tokens) - plan.libraries

    if needed(memory, largest) <= NEAR * free_bytes:
        return None
    given: dict[str, object] = {"needed": needed(memory, largest) / 1e9, "free": free_bytes / 1e9}
    budget = max(MIN_TOKEN_BUDGET, longest)
    if budget < largest and (then := needed(memory, budget)) <= NEAR * free_bytes:
        return Advice("plan.advice.smaller_budget", given | {"budget": budget, "then": then / 1e9})
    halved = replace(memory, weights=memory.weights // 2, loading=0, per_token=memory.per_token / 2)
    if is_float32 and (then := needed(halved, largest)) <= NEAR * free_bytes:
        return Advice("plan.advice.bf16", given | {"then": then / 1e9})
    return Advice("plan.advice.smaller_model", given)


def on_disk(disk: DiskPlan, *, free_bytes: int) -> Advice | None:
    """Where the output folder's disk has no room for the run."""
    if disk.total <= free_bytes:
        return None
    return Advice("plan.advice.disk", {"needed": disk.total / 1e6, "free": free_bytes / 1e6})


def _num_steps(steps: StepPlan, options: OptimizationOptions, *, batch_size: int) -> int:
    """Optimizer steps of the same passes with other batches."""
    batches = math.ceil(steps.num_rows / batch_size)
    return math.ceil(options.num_train_epochs * math.ceil(batches / options.gradient_accumulation_steps))


def _saved(work: Work, times: float) -> float:
    """Share of the time that micro-batches of so many times the tokens save."""
    return work.fixed * (1 - 1 / times) / work.cost
