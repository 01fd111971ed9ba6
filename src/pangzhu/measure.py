"""The parts of a run that have to be timed: loading, a few optimizer steps, the confirming pass, the proof of the adapter.

Each is the run's own: `RowTrainer`'s step on rows of the dataset, with the model, adapter and path that training takes.
Everything happens in a temporary folder, and the model is thrown away.

Left to others: which steps are worth timing, and what follows from them (`pangzhu.estimate`).
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pangzhu import adapter, plan
from pangzhu.batching import collate
from pangzhu.config import TrainConfig
from pangzhu.decisions import Outlook, fast_path, load_model
from pangzhu.estimate import (
    MOST_TIMED_TOKENS,
    Measured,
    PlannedStep,
    Row,
    Sample,
    Timing,
    WorkCounter,
    evenly,
    heaviest_step,
    pairs_to_time,
)
from pangzhu.messages import say
from pangzhu.model import trainable_parameters
from pangzhu.own_words import hold_to_base
from pangzhu.preparation import PreparedBase, PreparedRows
from pangzhu.progress import Progress
from pangzhu.train import stage_adapter
from pangzhu.trainer import Beside, RowTrainer, confirm_learned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel

    from pangzhu.fast.path import FastPath

LEAST_SECONDS = 10.0  # of timed steps: short ones vary by a tenth
LEARNING_RATE = 1e-3  # of steps that are thrown away: any at which the adapter changes what can be seen in bf16


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is timed: the model as training has it."""

    model: "PeftModel"
    fast: "FastPath | None"
    trainer: RowTrainer
    counter: WorkCounter


def measure(
    config: TrainConfig, base: PreparedBase, rows: PreparedRows, *, outlook: Outlook, sample: Sample
) -> Measured:
    """Load the model and time what a run does with it.

    Args:
        config: the run.
        base: its base.
        rows: its rows.
        outlook: what was decided.
        sample: steps as they are planned.

    Raises:
        PangzhuError: what training would meet too: weights that cannot be read, NaN, memory.
    """
    say("plan.measuring")
    started = time.perf_counter()
    model = load_model(config, base, outlook.decisions)
    loading = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="pangzhu-plan-") as folder:
        subject = _subject(config, rows, outlook, model, Path(folder))
        warm_up, *_ = _timed_step(subject, heaviest_step(sample, subject.counter))
        steps, updates = _timed_steps(subject, sample)
        adapter.round_to_bf16(model)
        confirming = _timed_confirmation(subject, evenly(sample.rows, most_tokens=MOST_TIMED_TOKENS))
        started = time.perf_counter()
        stage_adapter(Path(folder) / "staged", base, rows, model=model)
        proving = time.perf_counter() - started
    return Measured(loading, warm_up, tuple(steps), sum(updates) / len(updates), confirming, proving)


def counter_for(outlook: Outlook) -> WorkCounter:
    """Counts what rows of the run cost."""
    return WorkCounter(outlook.shape, outlook.num_trainable, outlook.decisions.token_budget, outlook.path)


def _subject(config: TrainConfig, rows: PreparedRows, outlook: Outlook, model: "PeftModel", folder: Path) -> _Subject:
    own = config.model_copy(update={"output_dir": folder, "learning_rate": LEARNING_RATE, "report_to": ()})
    tokenized = rows.tokenized
    steps = plan.plan_steps(tokenized, own)
    progress = Progress(
        folder / "metrics.jsonl", tokenized.examples, steps, lambda _: None, num_replay=tokenized.num_replay
    )
    fast = fast_path(own, model, longest=rows.longest)
    budget = outlook.decisions.token_budget
    held = hold_to_base(model, tokenized, weight=own.replay_weight, token_budget=budget, fast=fast)
    trainer = RowTrainer(model, own, progress, token_budget=budget, fast=fast, beside=Beside(held))
    trainer.create_optimizer()
    return _Subject(model, fast, trainer, counter_for(outlook))


def _timed_steps(subject: _Subject, sample: Sample) -> tuple[list[Timing], list[float]]:
    """Pairs of optimizer steps until they have taken `LEAST_SECONDS`, and the seconds of each one's update."""
    steps: list[Timing] = []
    updates: list[float] = []
    for pair in pairs_to_time(sample):
        for step in pair:
            timing, update = _timed_step(subject, step)
            steps.append(timing)
            updates.append(update)
        if sum(timing.seconds for timing in steps) >= LEAST_SECONDS:
            break
    return steps, updates


def _timed_step(subject: _Subject, step: PlannedStep) -> tuple[Timing, float]:
    """One optimizer step: forward and backward, and the seconds of the update."""
    trainer, model = subject.trainer, subject.model
    num_supervised = torch.tensor(sum(row.num_supervised for _, row in step.rows))
    started = time.perf_counter()
    for batch in step.batches:
        trainer.training_step(model, collate(batch), num_supervised)
    computed = time.perf_counter()
    if trainer.args.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trainable_parameters(model), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    update = time.perf_counter() - computed
    return Timing(computed - started, subject.counter.of_step(step).cost), update


def _timed_confirmation(subject: _Subject, rows: "Sequence[Row]") -> Timing:
    """The pass over some rows that says which of them are learned."""
    started = time.perf_counter()
    confirm_learned(subject.model, rows, subject.counter.token_budget, subject.fast)
    return Timing(time.perf_counter() - started, subject.counter.of_rows(rows).cost)
