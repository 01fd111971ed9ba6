"""What a block is, for every contestant: a fresh process that trains a few optimizer steps and says how long they took.

A contestant is a script that reads a `Job`, trains it in its own way and prints a `Result` as its last line. This file
knows torch and transformers alone: it runs in the peers' environments too, where Pangzhu is not installed.
"""

import json
import os
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
GIGA = 1e9


@dataclass(frozen=True)
class Job:
    """A block to run.

    Args:
        model: folder of the base.
        rows: file of `{"input_ids", "labels"}`.
        precision: `float32` or `bf16`.
        rows_per_step: of one optimizer step.
        micro_batch: rows of one forward pass.
        warm_up: optimizer steps before the clock counts.
        steps: optimizer steps that count.
        adapter: folder of the adapter to start from, so that all start alike; empty for a fresh one.
        keep: folder for each step's gradient; empty keeps none.
        options: the contestant's own.
    """

    model: str
    rows: str
    precision: str
    rows_per_step: int
    micro_batch: int
    warm_up: int
    steps: int
    adapter: str = ""
    keep: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a block gave. `gflops` is the rate of matrix products measured before and after it, `peak_rss` bytes."""

    seconds: list[float]
    losses: list[float]
    grad_norms: list[float]
    rows_per_step: list[int]
    peak_rss: int
    gflops: float


def read_job() -> Job:
    """The job named on the command line; torch gets as many threads as the process has processors."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.manual_seed(0)
    random.seed(0)
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def read_rows(job: Job) -> list[dict[str, list[int]]]:
    """The rows of all steps, warm-up first."""
    lines = Path(job.rows).read_text(encoding="utf-8").splitlines()
    wanted = (job.warm_up + job.steps) * job.rows_per_step
    if len(lines) < wanted:
        raise SystemExit(f"{job.rows} holds {len(lines)} rows, {wanted} are needed")
    return [json.loads(line) for line in lines[:wanted]]


def torch_dtype(job: Job) -> torch.dtype:
    """Number format of the base."""
    return {"float32": torch.float32, "bf16": torch.bfloat16}[job.precision]


def matrix_speed(job: Job) -> float:
    """10^9 operations a second of the model's largest product, forward and back, at 1,024 rows: the limit."""
    config = json.loads((Path(job.model) / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weight = torch.rand(inner, hidden).to(torch_dtype(job))
    x, y = (torch.rand(1024, width).to(torch_dtype(job)) for width in (hidden, inner))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        torch.mm(y, weight)
        best = max(best, 4 * 1024 * hidden * inner / (time.perf_counter() - started))
    return best / GIGA


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times optimizer steps, keeps losses and gradients, and refuses a run in which nothing is trained."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._started = 0.0
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([grad.float().norm() for _, grad in named])))
        if not norm > 0:
            raise SystemExit("nothing is trained: the gradient is zero")
        self.grad_norms.append(norm)
        if self._job.keep:
            kept = {name.replace(".default", ""): grad.float().clone() for name, grad in sorted(named)}
            torch.save(kept, Path(self._job.keep) / f"{state.global_step:03d}.pt")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def report(job: Job, clock: Clock, before: float, rows_per_step: list[int]) -> None:
    """Print the block's result as the last line."""
    if len(clock.seconds) != job.warm_up + job.steps:
        raise SystemExit(f"{len(clock.seconds)} optimizer steps were done, not {job.warm_up + job.steps}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = Result(
        seconds=clock.seconds[job.warm_up :],
        losses=clock.losses[job.warm_up :],
        grad_norms=clock.grad_norms[job.warm_up :],
        rows_per_step=rows_per_step[job.warm_up :],
        peak_rss=peak,
        gflops=(before + matrix_speed(job)) / 2,
    )
    print(json.dumps(asdict(result)), flush=True)
