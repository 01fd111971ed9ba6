"""Advice is given where it applies and nowhere else, and its figures hold when it is followed."""

from typing import Any

import pytest

from pangzhu import advice
from pangzhu.config import OptimizationOptions
from pangzhu.estimate import Sample, WorkCounter, draw_sample
from pangzhu.messages import LANGUAGES, set_language
from pangzhu.plan import (
    MIN_PASSES,
    MIN_STEPS,
    DiskPlan,
    FastParts,
    MemoryPlan,
    StepPlan,
    plan_memory,
    plan_steps,
)
from pangzhu.tokenization import TokenizedDataset
from tests.conftest import examples
from tests.test_plan import QWEN

GIGABYTE = 10**9


def steps_of(num_rows: int, **options: Any) -> tuple[StepPlan, OptimizationOptions]:
    chosen = OptimizationOptions(**options)
    return plan_steps(TokenizedDataset(tuple(examples(*[5] * num_rows)), ()), chosen), chosen


def memory(precision: Any = "float32") -> MemoryPlan:
    return plan_memory(
        QWEN, num_trainable=QWEN.adapter_size(8), precision=precision, fast=FastParts(), supervised_share=0.5
    )


def sample_of(*lengths: int, token_budget: int = 1024, **options: Any) -> Sample:
    counter = WorkCounter(QWEN, QWEN.adapter_size(8), token_budget, None)
    return draw_sample(examples(*lengths), OptimizationOptions(**options), counter)


def on_batches(*lengths: int, token_budget: int = 1024, **options: Any) -> advice.Advice | None:
    steps, chosen = steps_of(len(lengths), **options)
    sample = sample_of(*lengths, token_budget=token_budget, **options)
    return advice.on_batches(steps, chosen, sample=sample, token_budget=token_budget)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_rows", "options", "key", "name"),
    [
        (96, {"max_steps": 10}, "plan.advice.more_steps", "max_steps"),
        (96, {"num_train_epochs": 1}, "plan.advice.more_passes", "epochs"),
        (5, {}, "plan.advice.more_passes", "epochs"),
        (8, {}, "plan.advice.smaller_batch", "batch_size"),
        (40, {"num_train_epochs": 3.5}, "plan.advice.smaller_batch", "batch_size"),
        (40, {}, "plan.advice.smaller_batch", "batch_size"),
        (40, {"gradient_accumulation_steps": 2}, "plan.advice.smaller_batch", "batch_size"),
    ],
)
def test_a_run_that_follows_the_advice_has_enough_steps_and_passes(
    num_rows: int, options: dict[str, Any], key: str, name: str
) -> None:
    given = advice.on_steps(*steps_of(num_rows, **options))
    assert given is not None
    assert given.key == key
    option = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}.get(name, name)
    followed, _ = steps_of(num_rows, **options | {option: given.values[name]})
    assert followed.num_steps >= MIN_STEPS
    assert followed.passes >= MIN_PASSES
    assert given.values.get("then", followed.num_steps) == followed.num_steps


@pytest.mark.parametrize(("num_rows", "options"), [(96, {}), (170, {"max_steps": 100}), (7, {"num_train_epochs": 20})])
def test_a_run_that_is_long_enough_is_left_alone(num_rows: int, options: dict[str, Any]) -> None:
    assert advice.on_steps(*steps_of(num_rows, **options)) is None


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_few_long_rows_are_told_with_what_leaving_them_out_saves() -> None:
    lengths = [100] * 98 + [2000, 3000]
    given = advice.on_long_rows(lengths)
    assert given is not None
    assert given.values == {
        "limit": 100,
        "num_longer": 2,
        "rows": 100,
        "left_out": pytest.approx(100 * 5000 / 14_800),
        "cut": pytest.approx(100 * 4800 / 14_800),
    }


@pytest.mark.parametrize("lengths", [[100] * 50, range(50, 150), [100] * 98 + [200, 300], [500], [40, 41]])
def test_rows_that_differ_no_more_than_usual_are_left_alone(lengths: list[int]) -> None:
    assert advice.on_long_rows(lengths) is None


# --- batches ---------------------------------------------------------------------------------------------------------


def test_accumulated_small_batches_are_better_taken_together() -> None:
    """The same optimizer steps, fewer readings of the weights."""
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    lengths = [60] * 80
    given = on_batches(*lengths, **options)
    assert given is not None
    assert (given.key, given.values["batch_size"]) == ("plan.advice.joined_batches", 8)
    before = sample_of(*lengths, **options).work
    after = sample_of(*lengths, per_device_train_batch_size=8).work
    assert after.num_tokens == before.num_tokens
    assert given.values["saved"] == pytest.approx(100 * (1 - after.cost / before.cost), abs=0.1)


def test_small_batches_of_many_rows_may_grow_while_steps_remain() -> None:
    given = on_batches(*[60] * 200, per_device_train_batch_size=1)
    assert given is not None
    assert given.key == "plan.advice.larger_batch"
    size = given.values["batch_size"]
    assert isinstance(size, int)
    followed, _ = steps_of(200, per_device_train_batch_size=size)
    assert followed.num_steps == given.values["then"] >= MIN_STEPS
    assert size * 60 <= 1024


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ([120] * 100, {}),  # 960 tokens a micro-batch
        ([60] * 21, {"per_device_train_batch_size": 3}),  # larger ones would leave too few steps
        ([60] * 200, {"per_device_train_batch_size": 1, "max_steps": 200}),
        ([900] * 40, {"per_device_train_batch_size": 8}),  # cut by the budget
    ],
)
def test_batches_that_fill_their_products_or_cannot_grow_are_left_alone(
    lengths: list[int], options: dict[str, Any]
) -> None:
    assert on_batches(*lengths, **options) is None


# --- memory and disk -------------------------------------------------------------------------------------------------


def on_memory(free_bytes: float, *, precision: str = "float32", longest: int = 100) -> advice.Advice | None:
    return advice.on_memory(
        memory(precision),
        largest=1024,
        longest=longest,
        free_bytes=int(free_bytes),
        is_float32=precision == "float32",
    )


def test_memory_that_suffices_needs_no_word() -> None:
    assert on_memory(16 * GIGABYTE) is None


def test_a_smaller_budget_is_advised_where_it_suffices() -> None:
    planned = memory()
    given = on_memory(planned.peak(1024) - planned.libraries)
    assert given is not None
    assert (given.key, given.values["budget"]) == ("plan.advice.smaller_budget", 128)
    assert given.values["then"] == pytest.approx((planned.peak(128) - planned.libraries) / GIGABYTE)


def test_a_budget_cuts_no_row_so_that_float32_is_what_can_go() -> None:
    planned = memory()
    given = on_memory(planned.peak(1024) - planned.libraries, longest=1024)
    assert given is not None
    assert given.key == "plan.advice.bf16"
    in_bf16 = memory("bf16")
    assert given.values["then"] == pytest.approx((in_bf16.peak(1024) - in_bf16.libraries) / GIGABYTE, rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_where_nothing_else_helps_the_base_is_too_large(precision: str) -> None:
    given = on_memory(GIGABYTE, precision=precision)
    assert given is not None
    assert given.key == "plan.advice.smaller_model"


def test_a_disk_that_is_too_small_is_told() -> None:
    disk = DiskPlan(adapter=10**7, tokenizer=0, checkpoint=10**8, num_checkpoints=3)
    assert advice.on_disk(disk, free_bytes=disk.total) is None
    given = advice.on_disk(disk, free_bytes=disk.total - 1)
    assert given is not None
    assert given.values["needed"] == pytest.approx(310)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_piece_of_advice_has_its_sentence_in_both_languages(language: Any) -> None:
    set_language(language)
    disk = DiskPlan(adapter=1, tokenizer=0, checkpoint=1, num_checkpoints=1)
    planned = memory()
    given = [
        advice.on_steps(*steps_of(96, max_steps=10)),
        advice.on_steps(*steps_of(96, num_train_epochs=1)),
        advice.on_steps(*steps_of(40)),
        advice.on_long_rows([100] * 99 + [5000]),
        on_batches(*[60] * 80, per_device_train_batch_size=1, gradient_accumulation_steps=8),
        on_batches(*[60] * 200, per_device_train_batch_size=1),
        on_memory(planned.peak(1024) - planned.libraries),
        on_memory(3 * GIGABYTE),
        on_memory(GIGABYTE, precision="bf16"),
        advice.on_disk(disk, free_bytes=0),
    ]
    assert all(piece is not None for piece in given)
    assert len({str(piece) for piece in given}) == len(given)
    assert all(piece.as_json()["sentence"] == str(piece) for piece in given if piece)
