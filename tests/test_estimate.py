"""Seconds from timed steps: each planned step has its cost, and the timed ones stand for all."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pangzhu.config import OptimizationOptions
from pangzhu.estimate import (
    FIXED_TOKENS,
    MOST_SAMPLED_ROWS,
    MOST_TIMED_TOKENS,
    PAIRS,
    Measured,
    PlannedStep,
    Sample,
    TimePlan,
    Timing,
    WorkCounter,
    draw_sample,
    evenly,
    heaviest_step,
    pairs_to_time,
    plan_time,
    useful_flops,
)
from pangzhu.fast.path import FastPath
from pangzhu.fast.stream import lay_out
from pangzhu.fast.techniques import Techniques
from pangzhu.plan import ModelShape, plan_steps
from pangzhu.tokenization import IGNORED, TokenizedDataset, TokenizedExample
from tests.conftest import build_lora, examples

SHAPE = ModelShape(
    num_layers=3,
    hidden_size=8,
    intermediate_size=16,
    vocab_size=50,
    num_heads=2,
    key_width=4,
    head_dim=4,
    normed_heads=False,
    num_parameters=5000,
)
BODY = 3 * (8 * (2 * 8 + 2 * 4) + 3 * 8 * 16)
LENGTHS = (30, 12, 45, 20, 9, 33, 17, 26, 51, 14)


def counter(token_budget: int = 1024, fast: FastPath | None = None) -> WorkCounter:
    return WorkCounter(SHAPE, 100, token_budget, fast)


def sample_of(rows: Sequence[TokenizedExample], token_budget: int = 1024, **options: Any) -> Sample:
    return draw_sample(rows, OptimizationOptions(**options), counter(token_budget))


def indices(step: PlannedStep) -> list[int]:
    return [index for index, _ in step.rows]


# --- what rows cost --------------------------------------------------------------------------------------------------


def test_one_row_is_counted_by_the_formula() -> None:
    ids, labels = torch.tensor([1, 2, 3, 4]), torch.tensor([IGNORED, 3, 4, IGNORED])
    stream = lay_out(ids, labels, [4])
    attention = 14 * (3 * 4 / 2) * 4 * 2 * 3  # of the three tokens that something depends on
    expected = 3 * (4 * BODY + 6 * 100) + 4 * 50 * 8 * 2 + attention
    assert useful_flops(SHAPE, stream, num_supervised=2, num_trainable=100) == pytest.approx(expected)


def test_smaller_micro_batches_cost_more_by_what_each_costs_beside_its_tokens() -> None:
    rows = list(enumerate(examples(10, 10, 10, 10)))
    whole, halves = counter(40).of_rows(rows), counter(20).of_rows(rows)
    assert (whole.num_micro_batches, halves.num_micro_batches) == (1, 2)
    assert whole.num_tokens == halves.num_tokens == 40
    assert halves.cost - whole.cost == pytest.approx(FIXED_TOKENS * 4 * SHAPE.body_size)


def test_batches_that_are_accumulated_are_cut_each_by_itself() -> None:
    rows = tuple(enumerate(examples(10, 10, 10, 10)))
    assert counter().of_step(PlannedStep((rows,))).num_micro_batches == 1
    assert counter().of_step(PlannedStep((rows[:2], rows[2:]))).num_micro_batches == 2


def test_what_the_fast_path_leaves_out_costs_nothing() -> None:
    """A shared prefix counts once, and what follows the last learned token not at all."""
    head = tuple(range(40, 60))
    rows = [
        (number, TokenizedExample((*head, *row.input_ids), (*[IGNORED] * len(head), *row.labels), row.location))
        for number, row in enumerate(examples(10, 10))
    ]
    path = FastPath(build_lora(), Techniques.without(["alignment"]), longest=30)
    assert counter().of_rows(rows).num_tokens == 60
    assert counter(fast=path).of_rows(rows).num_tokens == 20 + 9 + 9


# --- which steps -----------------------------------------------------------------------------------------------------


def test_the_planned_steps_hold_every_row_once_and_the_last_is_smaller() -> None:
    sample = sample_of(examples(*LENGTHS), per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert [[len(batch) for batch in step.batches] for step in sample.steps] == [[2, 2], [2, 2], [2]]
    assert sorted(index for step in sample.steps for index in indices(step)) == list(range(10))
    assert sample.num_tokens == sum(LENGTHS)
    steps = plan_steps(
        TokenizedDataset(tuple(examples(*LENGTHS)), ()),
        OptimizationOptions(per_device_train_batch_size=2, gradient_accumulation_steps=2),
    )
    assert len(sample.steps) == steps.steps_per_epoch


def test_a_large_dataset_is_sampled_in_whole_steps() -> None:
    sample = sample_of(examples(*[4] * (MOST_SAMPLED_ROWS + 300)), per_device_train_batch_size=10)
    assert len(sample.rows) == MOST_SAMPLED_ROWS // 10 * 10
    assert sample.rows != tuple(enumerate(examples(*[4] * (MOST_SAMPLED_ROWS + 300))))[: len(sample.rows)]


def test_a_step_larger_than_the_sample_is_still_one_step() -> None:
    sample = sample_of(examples(*[4] * 700), per_device_train_batch_size=600)
    assert [len(step.rows) for step in sample.steps] == [600]


def test_steps_are_timed_in_pairs_as_far_above_the_middle_as_below() -> None:
    rows = examples(*range(10, 50))
    sample = sample_of(rows, per_device_train_batch_size=1)
    ranks = sorted(step.num_tokens for step in sample.steps)
    pairs = [(ranks.index(low.num_tokens), ranks.index(high.num_tokens)) for low, high in pairs_to_time(sample)]
    assert len(pairs) == len(PAIRS)
    assert pairs[0] == (10, 30)
    assert all(low + high in (39, 40) for low, high in pairs)


def test_a_single_step_is_both_of_a_pair() -> None:
    sample = sample_of(examples(5, 6))
    assert all(low == high == sample.steps[0] for low, high in pairs_to_time(sample))


def test_a_step_of_many_long_rows_is_timed_on_some_of_them_short_and_long() -> None:
    lengths = [100] * 12 + [200] * 12
    sample = sample_of(examples(*lengths), per_device_train_batch_size=24)
    low, _ = next(pairs_to_time(sample))
    timed = sorted(len(row.input_ids) for _, row in low.rows)
    assert sum(timed) <= MOST_TIMED_TOKENS * 1.25
    assert {100, 200} == set(timed)


def test_of_accumulated_batches_whole_ones_are_timed() -> None:
    sample = sample_of(examples(*[500] * 16), per_device_train_batch_size=2, gradient_accumulation_steps=8)
    low, _ = next(pairs_to_time(sample))
    assert [len(batch) for batch in low.batches] == [2, 2]


@pytest.mark.fault("A11")
def test_the_first_step_is_the_largest_micro_batch() -> None:
    sample = sample_of(examples(*LENGTHS), token_budget=60, per_device_train_batch_size=3)
    step = heaviest_step(sample, counter(60))
    assert len(step.batches) == 1
    assert 51 <= step.num_tokens <= 60


@pytest.mark.parametrize("most_tokens", [1, 30, 100, 257, 1000])
def test_rows_spread_evenly_are_some_of_the_rows_and_one_at_least(most_tokens: int) -> None:
    rows = tuple(enumerate(examples(*LENGTHS)))
    chosen = evenly(rows, most_tokens=most_tokens)
    assert set(chosen) <= set(rows)
    assert len(set(chosen)) == len(chosen) >= 1
    assert (chosen == rows) is (most_tokens >= sum(LENGTHS))


# --- the time --------------------------------------------------------------------------------------------------------


def machine(rate: float, *, update: float = 0.5, warm_up: float = 0.0) -> Any:
    """Timings of a machine that takes `rate` seconds for a cost of one, and `warm_up` more in its first step."""

    def timed(sample: Sample) -> Measured:
        low, high = next(pairs_to_time(sample))
        costs = [counter().of_step(step).cost for step in (low, high)]
        first = counter().of_step(heaviest_step(sample, counter())).cost
        some = counter().of_rows(sample.rows[:3]).cost
        return Measured(
            loading=7.0,
            warm_up=Timing(rate * first + warm_up, first),
            steps=tuple(Timing(rate * cost, cost) for cost in costs),
            update=update,
            confirming=Timing(rate / 3 * some, some),
            proving=2.0,
        )

    return timed


def planned(rows: list[TokenizedExample], measured: Any, **options: Any) -> tuple[TimePlan, Sample]:
    sample = sample_of(rows, **options)
    steps = plan_steps(TokenizedDataset(tuple(rows), ()), OptimizationOptions(**options))
    return plan_time(measured(sample), preparing=3.0, sample=sample, steps=steps, counter=counter()), sample


@pytest.mark.parametrize("epochs", [1, 3])
def test_on_a_machine_that_takes_its_time_for_each_cost_the_plan_is_exact(epochs: int) -> None:
    """Rows of all lengths, a last smaller step: what was timed is a fraction of it."""
    rate = 1e-6
    time, sample = planned(examples(*LENGTHS), machine(rate), per_device_train_batch_size=4, num_train_epochs=epochs)
    each = [rate * counter().of_step(step).cost + 0.5 for step in sample.steps]
    assert time.stepping == pytest.approx(epochs * sum(each))
    assert time.confirming == pytest.approx(rate / 3 * counter().of_rows(sample.rows).cost)
    assert (time.preparing, time.loading, time.proving, time.num_timed) == (3.0, 7.0, 2.0, 2)
    assert time.total == pytest.approx(3 + 7 + 2 + time.stepping + time.confirming)


def test_twice_as_many_steps_take_twice_as_long_but_for_what_only_the_first_takes() -> None:
    rows = examples(*LENGTHS)
    short, _ = planned(rows, machine(1e-6, warm_up=4.0), per_device_train_batch_size=5, max_steps=4)
    long, _ = planned(rows, machine(1e-6, warm_up=4.0), per_device_train_batch_size=5, max_steps=8)
    assert long.stepping - 4.0 == pytest.approx(2 * (short.stepping - 4.0))
    assert short.confirming == long.confirming


def test_a_first_step_that_was_no_slower_takes_nothing_off() -> None:
    rows = examples(*LENGTHS)
    usual, _ = planned(rows, machine(1e-6))
    quick, _ = planned(rows, machine(1e-6, warm_up=-1e-4))
    assert quick.stepping == usual.stepping
