"""What a run will do, before it does it: optimizer steps, passes over the rows, what fits in memory, what lies on the disk.

The arithmetic is pure. The memory rule counts what the layers and the loss keep for the backward pass, on the path that is
taken; its factors were fitted to measured peaks (`benchmarks/memory.py`).

Left to others: time, which has to be measured (`pangzhu.estimate`, `pangzhu.measure`), and advice (`pangzhu.advice`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pangzhu.checkpoint import NUM_KEPT
from pangzhu.config import OptimizationOptions, ValidationOptions
from pangzhu.fast.loss import BYTES_A_CHUNK
from pangzhu.tokenization import TokenizedDataset

MIN_STEPS = 20  # below this AdamW with a warm-up has hardly moved the adapter
MIN_PASSES = 3.0  # a row seen less often than this is seldom recalled
MAX_TOKEN_BUDGET = 1024  # larger micro-batches gain no speed
MIN_TOKEN_BUDGET = 128
USABLE_SHARE = 0.6  # of the memory that is free; the rest is for everything else on the machine
BYTES_PER_ELEMENT = {"bf16": 2, "float32": 4}
BYTES_PER_TRAINABLE = 16  # float32: master, gradient, AdamW's two moments
BYTES_SAVED = 2  # per trainable parameter in the adapter's file: bf16
BYTES_IN_CHECKPOINT = 12  # per trainable parameter, float32: master and AdamW's two moments
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
# What the layers keep, over what they keep with fused adapters: with dropout on the adapters' inputs; by peft's own forward,
# which keeps float32 inputs and outputs of full width; by its DoRA, which keeps them several times.
TIMES_KEPT = {"fused": 1.0, "dropout": 3.0, "peft": 4.0, "dora": 7.0}


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
    def num_rows_seen(self) -> int:
        """Rows of all steps, each counted as often as it is seen; the last step of a pass may hold fewer."""
        whole, rest = divmod(self.num_steps, self.steps_per_epoch)
        return whole * self.num_rows + rest * self.rows_per_step

    @property
    def num_tokens_seen(self) -> float:
        """Tokens of all steps; exact after a whole number of passes, before that with rows of the usual length."""
        return self.num_tokens / self.num_rows * self.num_rows_seen

    @property
    def too_few(self) -> bool:
        """Whether such a run can hardly learn its rows."""
        return self.num_steps < MIN_STEPS or self.passes < MIN_PASSES


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """How the validation rows are measured: every `every` optimizer steps and after the last, `times` in all."""

    num_rows: int
    num_supervised: int
    every: int
    times: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory and time depend on. `num_parameters` counts a tied head once, `normed_heads` says whether queries
    and keys have a norm of their own, as in Qwen3."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_heads: int
    key_width: int
    head_dim: int
    normed_heads: bool
    num_parameters: int

    @property
    def query_width(self) -> int:
        """Of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def body_size(self) -> int:
        """Numbers in the linear layers, the head apart."""
        attention = self.hidden_size * (2 * self.query_width + 2 * self.key_width)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def adapter_size(self, rank: int) -> int:
        """Numbers in an adapter on every linear layer but the head."""
        hidden = self.hidden_size
        attention = 2 * (hidden + self.query_width) + 2 * (hidden + self.key_width)
        return rank * self.num_layers * (attention + 3 * (hidden + self.intermediate_size))


@dataclass(frozen=True, slots=True)
class FastParts:
    """What is computed on the fast path: the layers, the head; and how the adapters are, fused into their linear layers or
    apart from them."""

    layers: bool = True
    adapters: Literal["fused", "dropout", "peft", "dora"] = "fused"
    head: bool = True


REFERENCE = FastParts(layers=False, adapters="peft", head=False)


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

    def logits_of(self, num_tokens: int) -> float:
        """The head's working memory for a micro-batch."""
        return min(self.most_logits, num_tokens * self.logits)

    def training(self, num_tokens: int) -> float:
        """What is taken while a micro-batch of `num_tokens` is on its way."""
        return self.fixed + num_tokens * self.per_token + self.logits_of(num_tokens)

    def peak(self, num_tokens: int) -> float:
        """The most that a run with micro-batches of `num_tokens` takes, in loading or in training."""
        return max(self.libraries + self.weights + self.loading, self.training(num_tokens))


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """Bytes in the output folder.

    Args:
        adapter: the adapter's weights.
        tokenizer: its files, which are saved beside them.
        checkpoint: one of them.
        num_checkpoints: how many there are at once, at the most: a new one is whole before the oldest goes.
    """

    adapter: int
    tokenizer: int
    checkpoint: int
    num_checkpoints: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.adapter + self.tokenizer + self.num_checkpoints * self.checkpoint


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


def plan_validation(rows: TokenizedDataset, steps: StepPlan, options: ValidationOptions) -> ValidationPlan | None:
    """When the validation rows are measured, once a pass unless said otherwise; None where there are none.

    Args:
        rows: to be measured.
        steps: of the run.
        options: how often.
    """
    if not rows.examples:
        return None
    every = options.eval_steps or steps.steps_per_epoch
    return ValidationPlan(len(rows.examples), rows.num_supervised, every, math.ceil(steps.num_steps / every))


def plan_memory(
    shape: ModelShape,
    *,
    num_trainable: int,
    precision: Literal["bf16", "float32"],
    fast: FastParts,
    supervised_share: float,
) -> MemoryPlan:
    """The memory of a run on a CPU.

    Args:
        shape: the base model.
        num_trainable: parameters of the adapter.
        precision: number format of the base.
        fast: what of it the fast path computes.
        supervised_share: learned tokens over all tokens.
    """
    element = BYTES_PER_ELEMENT[precision]
    learned_words = supervised_share * shape.vocab_size
    in_layers = TIMES_KEPT[fast.adapters] * _kept_fast(shape) * element
    per_token = in_layers if fast.layers else ALLOCATOR_SLACK * _kept_by_reference(shape)
    if not fast.head:
        per_token += ALLOCATOR_SLACK * learned_words * BYTES_PER_LOGIT
    return MemoryPlan(
        libraries=LIBRARIES,
        heap=FAST_HEAP if fast.layers else 0,
        weights=shape.num_parameters * element,
        adapter=num_trainable * BYTES_PER_TRAINABLE,
        logits=learned_words * element if fast.head else 0.0,
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


def largest_micro_batch(lengths: Sequence[int], *, rows_per_batch: int, token_budget: int) -> int:
    """Most tokens that one micro-batch can hold: a batch of the longest rows within the budget, or one row that is longer.

    Args:
        lengths: tokens of each row.
        rows_per_batch: rows that are cut into micro-batches together.
        token_budget: most tokens of a micro-batch of several rows.
    """
    longest = sorted(lengths, reverse=True)[:rows_per_batch]
    return max(longest[0], min(token_budget, sum(longest)))


def plan_disk(
    num_trainable: int, *, num_steps: int, save_steps: int, tokenizer_bytes: int, num_bests: int = 0
) -> DiskPlan:
    """What a run leaves on the disk.

    Args:
        num_trainable: parameters of the adapter.
        num_steps: optimizer steps of the run.
        save_steps: optimizer steps between two checkpoints; the last step has one too.
        tokenizer_bytes: of the base's tokenizer.
        num_bests: checkpoints more, at the most, because a validation loss was the lowest so far; the last of them is kept.
    """
    most_kept = NUM_KEPT + 1 if num_bests else NUM_KEPT
    return DiskPlan(
        adapter=num_trainable * BYTES_SAVED,
        tokenizer=tokenizer_bytes,
        checkpoint=num_trainable * BYTES_IN_CHECKPOINT,
        num_checkpoints=min(most_kept + 1, math.ceil(num_steps / save_steps) + num_bests),
    )


def _kept_fast(shape: ModelShape) -> float:
    """Numbers that one token keeps on the fast path."""
    normed = shape.query_width + shape.key_width if shape.normed_heads else 0
    kept = KEPT_HIDDEN * shape.hidden_size + KEPT_QUERIES * shape.query_width + KEPT_KEYS * shape.key_width
    kept += KEPT_INTERMEDIATE * shape.intermediate_size + normed + shape.num_heads * TYPICAL_KEYS
    return shape.num_layers * kept + SCRATCH_INTERMEDIATE * shape.intermediate_size


def _kept_by_reference(shape: ModelShape) -> float:
    """Bytes that one token keeps on the reference path, the head's apart."""
    return shape.num_layers * (BYTES_PER_HIDDEN * shape.hidden_size + BYTES_PER_INTERMEDIATE * shape.intermediate_size)
