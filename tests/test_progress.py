"""What is told of a step: its own time, and none left once the run has ended."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.batching import lay_end_to_end
from pangzhu.plan import StepPlan
from pangzhu.progress import Progress, StepReport
from tests.conftest import examples

TEN_STEPS = StepPlan(num_rows=2, num_tokens=40, num_supervised=34, rows_per_step=2, steps_per_epoch=1, num_steps=10)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pangzhu.progress.time.perf_counter", clock)
    return clock


@pytest.fixture
def told() -> list[StepReport]:
    """What was told."""
    return []


@pytest.fixture
def progress(tmp_path: Path, clock: Clock, told: list[StepReport]) -> Progress:
    """Of two rows of 20 tokens."""
    return Progress(tmp_path / "metrics.jsonl", examples(20, 20), TEN_STEPS, told.append)


@pytest.fixture
def step(progress: Progress, clock: Clock, told: list[StepReport]) -> Callable[..., StepReport]:
    """Do a step of 40 tokens in `seconds`, then something else for `after` seconds, then report."""
    rows = examples(20, 20)

    def do(number: int, *, seconds: float, after: float = 0.0, finished: bool = False) -> StepReport:
        progress.count(lay_end_to_end(list(enumerate(rows))), [])
        clock.now += seconds
        progress.step_done()
        clock.now += after
        progress.finished = finished
        progress.report(number, {"grad_norm": 1.0, "learning_rate": 1e-3}, sees_learned=True)
        return told[-1]

    return do


def test_a_step_is_told_with_its_own_time(step: Callable[..., StepReport]) -> None:
    first, second = step(1, seconds=2.0), step(2, seconds=4.0)
    assert (first.tokens_per_second, first.seconds_left) == (20.0, 18.0)
    assert (second.tokens_per_second, second.seconds_left) == (10.0, 24.0)


def test_confirming_what_was_learned_is_no_part_of_a_step(step: Callable[..., StepReport]) -> None:
    assert step(1, seconds=2.0, after=90.0).tokens_per_second == 20.0
    assert step(2, seconds=2.0).tokens_per_second == 20.0


def test_a_run_that_ends_early_has_no_time_left(step: Callable[..., StepReport]) -> None:
    assert step(3, seconds=2.0, finished=True).seconds_left == 0


def test_measuring_validation_rows_is_no_part_of_the_next_step(
    progress: Progress, step: Callable[..., StepReport], clock: Clock
) -> None:
    step(1, seconds=2.0)
    clock.now += 90.0
    progress.restart_clock()
    assert step(2, seconds=2.0).tokens_per_second == 20.0


@pytest.mark.parametrize(("learned", "told"), [(1, {"learned": 1}), (None, {})])
def test_trackers_are_told_the_steps_own_figures(learned: int | None, told: dict[str, int]) -> None:
    report = StepReport(1, 2, 0.5, 1.0, 1e-3, learned, 3, 40, 20.0, 0.0)
    assert report.as_logs() == {"loss": 0.5, "tokens_per_second": 20.0} | told
