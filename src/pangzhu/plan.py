"""What a run will do, before it does it: optimizer steps, passes over the rows, and how many tokens fit in memory.

The arithmetic is pure. The memory rule counts what peft's LoRA layers and the loss keep for the backward pass; its
factors were fitted to measured peaks (docs/decisions.md).
"""

import math
from dataclasses import dataclass

from pangzhu.config import OptimizationOptions
from pangzhu.tokenization import TokenizedDataset

MIN_STEPS = 20  # below this AdamW with a warm-up has hardly moved the adapter
MIN_PASSES = 3.0  # a row seen less often than this is seldom recalled
MAX_TOKEN_BUDGET = 1024  # larger micro-batches gain no speed, and their mask grows with the square
MIN_TOKEN_BUDGET = 128
USABLE_SHARE = 0.6  # of the memory that is free; the rest is for everything else on the machine

# Bytes kept per token and layer: float32 copies of every LoRA input of hidden width, the norms; then the MLP's width.
BYTES_PER_HIDDEN = 50
BYTES_PER_INTERMEDIATE = 12
BYTES_PER_LOGIT = 14  # bf16 logits, float32 copy, its gradient, the bf16 gradient, log-sum-exp scratch
ALLOCATOR_SLACK = 1.4


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps of a run. `passes` is how often each row is seen, `rows_per_step` over all accumulated batches."""

    num_rows: int
    num_tokens: int
    num_supervised: int
    rows_per_step: int
    steps_per_epoch: int
    num_steps: int

    @property
    def passes(self) -> float:
        """How often each row is seen."""
        return self.num_steps / self.steps_per_epoch

    @property
    def too_few(self) -> bool:
        """Whether such a run can hardly learn its rows."""
        return self.num_steps < MIN_STEPS or self.passes < MIN_PASSES


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int


def plan_steps(dataset: TokenizedDataset, options: OptimizationOptions) -> StepPlan:
    """Derive the optimizer steps as Trainer will take them: a last, smaller step of an epoch counts."""
    num_rows = len(dataset.examples)
    batches = math.ceil(num_rows / options.per_device_train_batch_size)
    steps_per_epoch = math.ceil(batches / options.gradient_accumulation_steps)
    num_steps = options.max_steps or math.ceil(options.num_train_epochs * steps_per_epoch)
    return StepPlan(
        num_rows=num_rows,
        num_tokens=dataset.num_tokens,
        num_supervised=dataset.num_supervised,
        rows_per_step=min(num_rows, options.per_device_train_batch_size * options.gradient_accumulation_steps),
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )


def bytes_per_token(shape: ModelShape, supervised_share: float) -> float:
    """Memory that one token of a micro-batch takes until its backward pass is done."""
    layers = shape.num_layers * (
        BYTES_PER_HIDDEN * shape.hidden_size + BYTES_PER_INTERMEDIATE * shape.intermediate_size
    )
    return ALLOCATOR_SLACK * (layers + supervised_share * shape.vocab_size * BYTES_PER_LOGIT)


def choose_token_budget(shape: ModelShape, *, supervised_share: float, free_bytes: int) -> int:
    """Most tokens in one micro-batch that the free memory allows, at most `MAX_TOKEN_BUDGET`.

    Args:
        shape: the model, already in memory.
        supervised_share: learned tokens over all tokens.
        free_bytes: memory free beside the model.
    """
    fitting = int(USABLE_SHARE * free_bytes / bytes_per_token(shape, supervised_share))
    return max(MIN_TOKEN_BUDGET, min(MAX_TOKEN_BUDGET, fitting))
