"""The arithmetic of a run, before it starts."""

from pathlib import Path
from typing import Any

import pytest

from pangzhu.config import OptimizationOptions
from pangzhu.plan import (
    MAX_TOKEN_BUDGET,
    MIN_TOKEN_BUDGET,
    ModelShape,
    bytes_per_token,
    choose_token_budget,
    plan_steps,
)
from pangzhu.tokenization import TokenizedDataset
from tests.conftest import examples

QWEN = ModelShape(num_layers=24, hidden_size=896, intermediate_size=4864, vocab_size=151_936)


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


def test_the_token_budget_stays_within_its_bounds() -> None:
    assert choose_token_budget(QWEN, supervised_share=0.5, free_bytes=0) == MIN_TOKEN_BUDGET
    assert choose_token_budget(QWEN, supervised_share=0.5, free_bytes=2**40) == MAX_TOKEN_BUDGET


def test_more_memory_and_fewer_learned_tokens_allow_larger_micro_batches() -> None:
    budgets = [choose_token_budget(QWEN, supervised_share=0.5, free_bytes=gigabytes * 10**9) for gigabytes in (1, 2, 3)]
    assert budgets == sorted(budgets)
    assert bytes_per_token(QWEN, 0.1) < bytes_per_token(QWEN, 0.9)


def test_a_budgets_micro_batch_fits_in_the_memory_it_was_chosen_for(tmp_path: Path) -> None:
    free = 2 * 10**9
    budget = choose_token_budget(QWEN, supervised_share=0.5, free_bytes=free)
    assert MIN_TOKEN_BUDGET < budget < MAX_TOKEN_BUDGET
    assert budget * bytes_per_token(QWEN, 0.5) <= free
