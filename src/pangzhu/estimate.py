"""How long a run will take, from a few of its own optimizer steps.

Which rows meet in a step, and into which micro-batches they are cut, is known beforehand. So each planned step has a cost:
the floating-point operations that exact training of it needs, and for each micro-batch those of `FIXED_TOKENS` more, since
every weight is read twice whatever its size. A few steps are timed (`pangzhu.measure`), as many below the middle of all
as above it; seconds for a cost, times the cost of all steps, are the run's. So rows of unequal length, a last smaller step
or a limited number of steps are no guess.

Everything here is arithmetic; the clock is `pangzhu.measure`'s.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.config import OptimizationOptions
from pangzhu.fast.path import FastPath
from pangzhu.fast.stream import Stream, lay_out
from pangzhu.plan import ModelShape, StepPlan, ValidationPlan
from pangzhu.step import split_rows
from pangzhu.tokenization import TokenizedDataset, TokenizedExample

FIXED_TOKENS = 80  # what a micro-batch costs beside its own tokens (docs/decisions.md, 2026-11-25)
MOST_SAMPLED_ROWS = 512  # whose costs are counted; a mean over more would be the same
MOST_TIMED_TOKENS = 2048  # of one timed step: a step of many long rows would take minutes
PAIRS = ((1 / 4, 3 / 4), (1 / 8, 7 / 8), (3 / 8, 5 / 8), (1 / 16, 15 / 16))  # where timed steps lie among all, by cost

Row = tuple[int, TokenizedExample]  # index in the dataset


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """The rows of one optimizer step, batch by batch as they are accumulated."""

    batches: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of all batches."""
        return tuple(row for batch in self.batches for row in batch)

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return sum(len(row.input_ids) for _, row in self.rows)


@dataclass(frozen=True, slots=True)
class Work:
    """What some rows cost, in floating-point operations: those that training them needs, and `fixed`, what a micro-batch takes
    beside its tokens; the tokens that are computed; the micro-batches."""

    flops: float = 0.0
    fixed: float = 0.0
    num_tokens: int = 0
    num_micro_batches: int = 0

    @property
    def cost(self) -> float:
        """What its time is taken to grow with."""
        return self.flops + self.fixed

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.flops + other.flops,
            self.fixed + other.fixed,
            self.num_tokens + other.num_tokens,
            self.num_micro_batches + other.num_micro_batches,
        )


@dataclass(frozen=True, slots=True)
class WorkCounter:
    """Counts what rows cost, cut into micro-batches as training cuts them.

    Args:
        shape: sizes of the base.
        num_trainable: parameters of the adapter.
        token_budget: most tokens of a micro-batch.
        fast: what of them is computed; None where all are.
    """

    shape: ModelShape
    num_trainable: int
    token_budget: int
    fast: FastPath | None

    def of_step(self, step: PlannedStep) -> Work:
        """Each batch is cut by itself."""
        return sum((self.of_rows(batch) for batch in step.batches), Work())

    def of_rows(self, rows: Sequence[Row]) -> Work:
        """Of rows that are cut into micro-batches together."""
        pieces = split_rows(lay_end_to_end(rows), self.token_budget, self.fast)
        return sum((self._of_micro_batch(piece) for piece in pieces), Work())

    def _of_micro_batch(self, piece: MicroBatch) -> Work:
        stream = self._stream(piece)
        flops = useful_flops(self.shape, stream, num_supervised=len(stream.targets), num_trainable=self.num_trainable)
        return Work(flops, FIXED_TOKENS * 4.0 * self.shape.body_size, stream.num_tokens, 1)

    def _stream(self, piece: MicroBatch) -> Stream:
        if self.fast is not None:
            return self.fast.plan_stream(piece.input_ids, piece.shift_labels, piece.row_lengths)
        ids, labels = piece.input_ids[0], piece.shift_labels[0]
        return lay_out(ids, labels, piece.row_lengths, share_prefixes=False, drop_tails=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """Optimizer steps as they are planned, each with its cost."""

    steps: tuple[PlannedStep, ...]
    works: tuple[Work, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of all steps."""
        return tuple(row for step in self.steps for row in step.rows)

    @property
    def num_tokens(self) -> int:
        """Of all steps, as they come from the rows."""
        return sum(step.num_tokens for step in self.steps)

    @property
    def work(self) -> Work:
        """Of all steps together."""
        return sum(self.works, Work())


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that something of this cost took."""

    seconds: float
    cost: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was timed.

    Args:
        loading: seconds until the model stood in memory.
        warm_up: the first step, in which memory is touched for the first time.
        steps: the others, forward and backward.
        update: seconds of the optimizer's own part of a step.
        confirming: the pass that says which rows are learned, over some of them.
        proving: seconds of writing the adapter, loading it back and comparing.
    """

    loading: float
    warm_up: Timing
    steps: tuple[Timing, ...]
    update: float
    confirming: Timing
    proving: float

    @property
    def seconds_for_cost(self) -> float:
        """Of the steps after the first."""
        return sum(step.seconds for step in self.steps) / sum(step.cost for step in self.steps)


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Seconds of each part of a run; `num_timed` steps stand behind it."""

    preparing: float
    loading: float
    stepping: float
    confirming: float
    proving: float
    num_timed: int
    validating: float = 0.0

    @property
    def total(self) -> float:
        """Of the whole run."""
        return self.preparing + self.loading + self.stepping + self.validating + self.confirming + self.proving


def useful_flops(shape: ModelShape, stream: Stream, *, num_supervised: int, num_trainable: int) -> float:
    """Floating-point operations of a micro-batch forward and back, each counted as often as exact training needs it.

    Forward and input gradient of the frozen body take 4 N a token, the adapters 6 P, the head 4 H a learned token,
    attention 7 L^2 D heads layers a row of L tokens (half of the square, 3.5 times forward for both passes). What the
    stream holds once counts once.

    Args:
        shape: sizes of the base.
        stream: the tokens that are computed.
        num_supervised: learned tokens.
        num_trainable: parameters of the adapter.
    """
    pairs = sum(s.length * s.prefix_length + s.length * (s.length + 1) / 2 for s in stream.segments)
    attention = 14 * pairs * shape.query_width * shape.num_layers
    head = 4 * shape.vocab_size * shape.hidden_size * num_supervised
    return stream.num_tokens * (4 * shape.body_size + 6 * num_trainable) + head + attention


def draw_sample(examples: Sequence[TokenizedExample], options: OptimizationOptions, counter: WorkCounter) -> Sample:
    """Steps of a pass, the rows in a drawn order: all of them, the last smaller one too, or those of
    about `MOST_SAMPLED_ROWS` rows."""
    order = list(range(len(examples)))
    random.Random(options.seed).shuffle(order)
    size, accumulated = options.per_device_train_batch_size, options.gradient_accumulation_steps
    rows_per_step = size * accumulated
    chosen = order[: max(1, MOST_SAMPLED_ROWS // rows_per_step) * rows_per_step]
    rows = [(index, examples[index]) for index in chosen]
    batches = [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]
    groups = [tuple(batches[start : start + accumulated]) for start in range(0, len(batches), accumulated)]
    steps = tuple(PlannedStep(group) for group in groups)
    return Sample(steps, tuple(counter.of_step(step) for step in steps))


def pairs_to_time(sample: Sample) -> Iterator[tuple[PlannedStep, PlannedStep]]:
    """Pairs of steps that are worth timing, the second as far above the middle cost of all as the first is below it."""
    costs = [work.cost for work in sample.works]
    ranked = [sample.steps[number] for number in sorted(range(len(costs)), key=costs.__getitem__)]
    for low, high in PAIRS:
        yield _thinned(ranked[int(low * len(ranked))]), _thinned(ranked[int(high * len(ranked))])


def heaviest_step(sample: Sample, counter: WorkCounter) -> PlannedStep:
    """The micro-batch with the most tokens as a step by itself: it touches as much memory as any will."""
    batches = [lay_end_to_end(batch) for step in sample.steps for batch in step.batches]
    pieces = [piece for batch in batches for piece in split_rows(batch, counter.token_budget, counter.fast)]
    largest = max(pieces, key=lambda piece: piece.num_tokens)
    by_index = dict(sample.rows)
    return PlannedStep((tuple((index, by_index[index]) for index in largest.row_indices),))


def evenly(rows: Sequence[Row], *, most_tokens: int) -> tuple[Row, ...]:
    """All rows, or as many as hold about so many tokens, evenly spread over their lengths; one at the least."""
    num_tokens = sum(len(row.input_ids) for _, row in rows)
    if num_tokens <= most_tokens:
        return tuple(rows)
    number = max(1, most_tokens * len(rows) // num_tokens)
    ranked = sorted(rows, key=lambda row: len(row[1].input_ids))
    return tuple(ranked[int((place + 0.5) * len(ranked) / number)] for place in range(number))


def validation_cost(rows: TokenizedDataset, plan: ValidationPlan | None, counter: WorkCounter) -> float:
    """Of all measurements of the validation rows, counted on about `MOST_SAMPLED_ROWS` of them; 0 where there are none."""
    if plan is None:
        return 0.0
    counted = list(enumerate(rows.examples[:MOST_SAMPLED_ROWS]))
    num_tokens = sum(len(row.input_ids) for _, row in counted)
    return plan.times * counter.of_rows(counted).cost * rows.num_tokens / num_tokens


def plan_time(
    measured: Measured,
    *,
    preparing: float,
    sample: Sample,
    steps: StepPlan,
    counter: WorkCounter,
    validating: float = 0.0,
) -> TimePlan:
    """The time of a run.

    Args:
        measured: what was timed.
        preparing: seconds of reading, labelling and probing.
        sample: steps as they are planned.
        steps: how many there are.
        counter: of what rows cost.
        validating: what measuring the validation rows costs, in all.
    """
    rate = measured.seconds_for_cost
    stepping = rate * sample.work.cost / sample.num_tokens * steps.num_tokens_seen
    first = max(0.0, measured.warm_up.seconds - rate * measured.warm_up.cost)  # what only the first step takes
    confirmed = counter.of_rows(sample.rows).cost / sample.num_tokens * steps.num_tokens
    forward = measured.confirming.seconds / measured.confirming.cost
    return TimePlan(
        preparing=preparing,
        loading=measured.loading,
        stepping=first + stepping + measured.update * steps.num_steps,
        validating=forward * validating,
        confirming=forward * confirmed,
        proving=measured.proving,
        num_timed=len(measured.steps),
    )


def _thinned(step: PlannedStep) -> PlannedStep:
    """The step, or as many of its rows as hold about `MOST_TIMED_TOKENS`: whole batches where it has several."""
    if step.num_tokens > MOST_TIMED_TOKENS:
        kept = max(1, MOST_TIMED_TOKENS * len(step.batches) // step.num_tokens)
        step = PlannedStep(step.batches[:kept])
    if step.num_tokens > MOST_TIMED_TOKENS:
        return PlannedStep((evenly(step.rows, most_tokens=MOST_TIMED_TOKENS),))
    return step
