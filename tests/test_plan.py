"""The arithmetic of a run, before it starts."""

from dataclasses import replace
from typing import Any

import pytest

from pangzhu.config import OptimizationOptions, ValidationOptions
from pangzhu.plan import (
    MAX_TOKEN_BUDGET,
    MIN_TOKEN_BUDGET,
    REFERENCE,
    TIMES_KEPT,
    FastParts,
    ModelShape,
    ValidationPlan,
    choose_token_budget,
    largest_micro_batch,
    plan_disk,
    plan_memory,
    plan_steps,
    plan_validation,
)
from pangzhu.tokenization import TokenizedDataset
from tests.conftest import examples

QWEN = ModelShape(
    num_layers=24,
    hidden_size=896,
    intermediate_size=4864,
    vocab_size=151_936,
    num_heads=14,
    key_width=128,
    head_dim=64,
    normed_heads=False,
    num_parameters=494_032_768,
)


def steps(num_rows: int, **options: Any) -> Any:  # a StepPlan
    return plan_steps(TokenizedDataset(tuple(examples(*[5] * num_rows)), ()), OptimizationOptions(**options))


@pytest.mark.parametrize(
    ("num_rows", "batch", "accumulation", "epochs", "expected"),
    [(96, 8, 1, 3, 36), (97, 8, 1, 3, 39), (96, 8, 2, 3, 18), (100, 8, 4, 1, 4), (3, 8, 1, 3, 3), (10, 2, 1, 0.5, 3)],
)
def test_a_last_smaller_step_of_each_pass_counts(
    num_rows: int, batch: int, accumulation: int, epochs: float, expected: int
) -> None:
    plan = steps(
        num_rows,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
    )
    assert plan.num_steps == expected


def test_max_steps_wins_over_epochs() -> None:
    plan = steps(96, max_steps=50, num_train_epochs=100)
    assert (plan.num_steps, plan.steps_per_epoch) == (50, 12)
    assert plan.passes == pytest.approx(50 / 12)


def test_rows_per_step_is_never_more_than_there_are_rows() -> None:
    assert steps(5, per_device_train_batch_size=8).rows_per_step == 5
    assert steps(50, per_device_train_batch_size=4, gradient_accumulation_steps=3).rows_per_step == 12


@pytest.mark.parametrize(
    ("options", "too_few"),
    [({"max_steps": 19, "num_train_epochs": 1}, True), ({"max_steps": 36}, False), ({"max_steps": 35}, True)],
)
def test_a_run_that_can_hardly_learn_is_known_before_it_starts(options: dict[str, Any], too_few: bool) -> None:
    """96 rows by 8: 12 steps a pass, so 36 steps are three passes."""
    assert steps(96, **options).too_few is too_few


def test_the_counts_of_the_plan_are_those_of_the_rows() -> None:
    plan = steps(4)
    assert (plan.num_rows, plan.num_tokens, plan.num_supervised) == (4, 20, 8)


PARTS = {True: FastParts(), False: REFERENCE}


def memory(*, fast: bool = True, supervised_share: float = 0.5, rank: int = 8, **parts: Any) -> Any:  # a MemoryPlan
    return plan_memory(
        QWEN,
        num_trainable=QWEN.adapter_size(rank),
        precision="float32",
        fast=replace(PARTS[fast], **parts),
        supervised_share=supervised_share,
    )


@pytest.mark.parametrize("fast", [True, False])
def test_the_token_budget_stays_within_its_bounds(fast: bool) -> None:
    assert choose_token_budget(memory(fast=fast), free_bytes=0) == MIN_TOKEN_BUDGET
    assert choose_token_budget(memory(fast=fast), free_bytes=2**40) == MAX_TOKEN_BUDGET


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.fault("A11")
def test_a_budgets_micro_batch_fits_in_the_memory_it_was_chosen_for(fast: bool) -> None:
    planned = memory(fast=fast)
    free = int(planned.fixed + planned.most_logits + 700 * planned.per_token)
    budget = choose_token_budget(planned, free_bytes=free)
    assert MIN_TOKEN_BUDGET < budget < MAX_TOKEN_BUDGET
    assert planned.peak(budget) <= free


def test_a_small_micro_batch_takes_no_more_than_loading_the_model() -> None:
    """The file is mapped while its weights are converted."""
    planned = memory()
    assert planned.peak(0) == planned.libraries + planned.weights + planned.loading
    assert planned.peak(1024) > planned.peak(0)


def test_more_memory_allows_larger_micro_batches() -> None:
    budgets = [choose_token_budget(memory(), free_bytes=gigabytes * 10**9) for gigabytes in (3, 4, 5)]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[-1]


def test_the_fast_path_takes_less_and_the_reference_path_more_for_more_learned_tokens() -> None:
    assert memory().per_token < 0.6 * memory(fast=False).per_token
    shares = [memory(fast=False, supervised_share=share).per_token for share in (0.1, 0.9)]
    assert shares[0] < shares[1]


def test_the_adapter_of_the_half_billion_qwen_is_counted_exactly() -> None:
    """549,888 numbers for each rank, with master, gradient and two moments in float32."""
    assert memory(rank=8).adapter == 8 * 549_888 * 16


def test_wider_heads_and_norms_of_heads_are_counted() -> None:
    """Qwen3: queries are wider than the hidden states, and their norms are kept too."""

    def per_token(**sizes: Any) -> float:
        shape = replace(QWEN, **sizes)
        planned = plan_memory(shape, num_trainable=1, precision="bf16", fast=FastParts(), supervised_share=0.5)
        return planned.per_token

    assert per_token(head_dim=128) > per_token()
    assert per_token(normed_heads=True) - per_token() == QWEN.num_layers * (14 * 64 + 128) * 2


@pytest.mark.parametrize("how", TIMES_KEPT)
def test_adapters_that_are_computed_apart_keep_a_multiple(how: str) -> None:
    assert memory(adapters=how).per_token == TIMES_KEPT[how] * memory().per_token
    assert (memory(adapters=how).per_token == memory().per_token) is (how == "fused")


def test_a_head_of_its_own_keeps_logits_and_a_fast_head_beside_reference_layers_does_not() -> None:
    """Gemma 3: the layers are transformers', the head is not."""
    gemma = memory(fast=False, head=True)
    assert gemma.per_token == memory(fast=False, supervised_share=0.0).per_token
    assert 0 < gemma.logits_of(10) < gemma.logits_of(10**6) == gemma.most_logits
    assert memory(head=False).per_token > memory().per_token
    assert memory(head=False).logits_of(10**6) == 0


def test_a_row_longer_than_the_budget_is_a_micro_batch_by_itself() -> None:
    assert largest_micro_batch([10, 40, 20, 30], rows_per_batch=2, token_budget=100) == 70
    assert largest_micro_batch([10, 40, 20, 30], rows_per_batch=2, token_budget=60) == 60
    assert largest_micro_batch([10, 40, 20, 30], rows_per_batch=2, token_budget=30) == 40


@pytest.mark.parametrize(("num_steps", "num_checkpoints"), [(49, 1), (50, 1), (51, 2), (100, 2), (101, 3), (5000, 3)])
def test_the_disk_holds_the_adapter_and_as_many_checkpoints_as_there_are_at_once(
    num_steps: int, num_checkpoints: int
) -> None:
    """Two are kept; a third is whole before the oldest goes."""
    disk = plan_disk(1000, num_steps=num_steps, save_steps=50, tokenizer_bytes=7)
    assert disk.num_checkpoints == num_checkpoints
    assert disk.total == 2000 + 7 + num_checkpoints * 12_000


@pytest.mark.parametrize(
    ("options", "rows_seen"), [({"num_train_epochs": 3}, 30), ({"max_steps": 3}, 10), ({"max_steps": 4}, 14)]
)
def test_rows_seen_are_those_of_every_step(options: dict[str, Any], rows_seen: int) -> None:
    """Ten rows by four: steps of 4, 4 and 2."""
    assert steps(10, per_device_train_batch_size=4, **options).num_rows_seen == rows_seen


@pytest.mark.parametrize(
    ("num_steps", "eval_steps", "every", "times"), [(9, None, 3, 3), (10, None, 3, 4), (2, None, 3, 1), (10, 5, 5, 2)]
)
def test_validation_rows_are_measured_once_a_pass_or_as_said_and_after_the_last_step(
    num_steps: int, eval_steps: int | None, every: int, times: int
) -> None:
    rows = TokenizedDataset(tuple(examples(5, 9)), ())
    planned = plan_validation(
        rows, steps(6, per_device_train_batch_size=2, max_steps=num_steps), ValidationOptions(eval_steps=eval_steps)
    )
    assert planned == ValidationPlan(num_rows=2, num_supervised=8, every=every, times=times)


def test_without_validation_rows_there_is_no_plan_for_them() -> None:
    assert plan_validation(TokenizedDataset((), ()), steps(6), ValidationOptions()) is None


@pytest.mark.parametrize(("num_steps", "num_bests", "num_checkpoints"), [(40, 3, 4), (40, 1, 2), (5000, 9, 4)])
def test_a_best_checkpoint_is_kept_beside_the_newest(num_steps: int, num_bests: int, num_checkpoints: int) -> None:
    disk = plan_disk(1000, num_steps=num_steps, save_steps=50, tokenizer_bytes=7, num_bests=num_bests)
    assert disk.num_checkpoints == num_checkpoints
