"""What a run will do, before it does it: optimizer steps, passes over the rows, and how many tokens fit in memory.

The arithmetic is pure. The memory rule counts what the layers and the loss keep for the backward pass, on the path that is
taken; its factors were fitted to measured peaks (`benchmarks/memory.py`).
"""

import math
from dataclasses import dataclass
from typing import Literal

from pangzhu.config import LoraOptions, OptimizationOptions
from pangzhu.fast.loss import BYTES_A_CHUNK
from pangzhu.tokenization import TokenizedDataset

MIN_STEPS = 20  # below this AdamW with a warm-up has hardly moved the adapter
MIN_PASSES = 3.0  # a row seen less often than this is seldom recalled
MAX_TOKEN_BUDGET = 1024  # larger micro-batches gain no speed
MIN_TOKEN_BUDGET = 128
USABLE_SHARE = 0.6  # of the memory that is free; the rest is for everything else on the machine
BYTES_PER_ELEMENT = {"bf16": 2, "float32": 4}
BYTES_PER_TRAINABLE = 16  # float32: master, gradient, AdamW's two moments
LIBRARIES = 470 * 10**6  # Python, torch, transformers and peft as loaded

# The reference path, bytes kept per token and layer: float32 copies of every LoRA input of hidden width, the norms; then
# the MLP's width.
BYTES_PER_HIDDEN = 50
BYTES_PER_INTERMEDIATE = 12
BYTES_PER_LOGIT = 14  # bf16 logits, float32 copy, its gradient, the bf16 gradient, log-sum-exp scratch
ALLOCATOR_SLACK = 1.4

# The fast path: numbers kept per token and layer, of hidden width (inputs of attention and MLP), of the queries' width
# (queries and attended values), of the keys' width (keys and values), of the MLP's width (gate and up); and of the MLP's
# width once for all layers.
KEPT_HIDDEN = 2
KEPT_QUERIES = 2
KEPT_KEYS = 2
KEPT_INTERMEDIATE = 2
FAMILIES_WITH_NORMED_HEADS = frozenset({"qwen3"})
SCRATCH_INTERMEDIATE = 5
TYPICAL_KEYS = 60  # that a token of a short row sees: its probabilities are kept too, one a query head
FAST_HEAP = 250 * 10**6  # compiled products, and what comes and goes between the buffers that are used again


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
    """The sizes that memory depends on. `num_parameters` counts a tied head once, `normed_heads` says whether queries and keys
    have a norm of their own, as in Qwen3."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_heads: int
    key_width: int
    head_dim: int
    normed_heads: bool
    num_parameters: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a run takes, in bytes.

    Args:
        libraries: Python and what is imported.
        heap: compiled products, and what comes and goes within a layer.
        weights: the frozen base.
        adapter: masters, gradients and optimizer state.
        logits: what one token takes of the head's working memory, up to `most_logits` in all.
        per_token: what one token of a micro-batch keeps until its backward pass is done.
        loading: what is taken only while the weights are read: the file beside its float32 copy; bf16 weights are the file.
    """

    libraries: int
    heap: int
    weights: int
    adapter: int
    logits: float
    most_logits: float
    per_token: float
    loading: int

    @property
    def fixed(self) -> int:
        """Everything but the micro-batch."""
        return self.libraries + self.heap + self.weights + self.adapter

    def peak(self, num_tokens: int) -> float:
        """The most that a run with micro-batches of `num_tokens` takes, in loading or in training."""
        micro_batch = num_tokens * self.per_token + min(self.most_logits, num_tokens * self.logits)
        return max(self.libraries + self.weights + self.loading, self.fixed + micro_batch)


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


def plan_memory(
    shape: ModelShape,
    options: LoraOptions,
    *,
    precision: Literal["bf16", "float32"],
    fast: bool,
    supervised_share: float,
) -> MemoryPlan:
    """The memory of a run on a CPU.

    Args:
        shape: the base model.
        options: the adapter's rank; counted as if on every linear layer.
        precision: number format of the base.
        fast: on the fast path.
        supervised_share: learned tokens over all tokens.
    """
    element = BYTES_PER_ELEMENT[precision]
    hidden, inner, keys = shape.hidden_size, shape.intermediate_size, shape.key_width
    trainable = options.r * shape.num_layers * (2 * (2 * hidden) + 2 * (hidden + keys) + 3 * (hidden + inner))
    if fast:
        queries = shape.num_heads * shape.head_dim
        normed = queries + keys if shape.normed_heads else 0
        kept = KEPT_HIDDEN * hidden + KEPT_QUERIES * queries + KEPT_KEYS * keys + KEPT_INTERMEDIATE * inner + normed
        kept += shape.num_heads * TYPICAL_KEYS
        per_token = float((shape.num_layers * kept + SCRATCH_INTERMEDIATE * inner) * element)
        heap = FAST_HEAP
        logits = supervised_share * shape.vocab_size * element
    else:
        layers = shape.num_layers * (BYTES_PER_HIDDEN * hidden + BYTES_PER_INTERMEDIATE * inner)
        per_token = ALLOCATOR_SLACK * (layers + supervised_share * shape.vocab_size * BYTES_PER_LOGIT)
        logits = 0.0
        heap = 0
    return MemoryPlan(
        libraries=LIBRARIES,
        heap=heap,
        weights=shape.num_parameters * element,
        adapter=trainable * BYTES_PER_TRAINABLE,
        logits=logits,
        most_logits=BYTES_A_CHUNK,
        per_token=per_token,
        loading=0 if precision == "bf16" else shape.num_parameters * BYTES_PER_ELEMENT["bf16"],
    )


def choose_token_budget(memory: MemoryPlan, *, free_bytes: int) -> int:
    """Most tokens in one micro-batch that the free memory allows, at most `MAX_TOKEN_BUDGET`.

    Args:
        memory: the run's.
        free_bytes: memory that can be taken, before the model is loaded.
    """
    left = free_bytes - memory.heap - memory.weights - memory.adapter - memory.most_logits
    return max(MIN_TOKEN_BUDGET, min(MAX_TOKEN_BUDGET, int(USABLE_SHARE * left / memory.per_token)))
