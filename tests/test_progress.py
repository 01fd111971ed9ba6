"""What is told of a step: its own time, and none left once the run has ended."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.batching import lay_end_to_end
from pangzhu.plan import StepPlan
from pangzhu.progress import EARLY_STEPS, LEARNED_FILE, Progress, StepReport
from tests.conftest import examples

GIGABYTE = 10**9

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


# --- what all calls took -----------------------------------------------------------------------------------------


def progress_in(folder: Path) -> Progress:
    return Progress(folder / "metrics.jsonl", examples(20, 20), TEN_STEPS, lambda _: None)


def do_steps(progress: Progress, clock: Clock, number: int, *, seconds: float) -> None:
    for _ in range(number):
        clock.now += seconds
        progress.step_done()


def test_the_time_of_all_steps_is_told_after_a_few_and_not_again(tmp_path: Path, clock: Clock) -> None:
    progress = progress_in(tmp_path)
    progress.start()
    do_steps(progress, clock, EARLY_STEPS - 1, seconds=2.0)
    assert progress.planned_seconds is None
    do_steps(progress, clock, 1, seconds=7.0)
    assert progress.planned_seconds == 30.0
    do_steps(progress, clock, 1, seconds=100.0)
    assert progress.planned_seconds == 30.0


def test_a_run_of_few_steps_has_no_time_planned(tmp_path: Path, clock: Clock) -> None:
    steps = StepPlan(
        num_rows=2, num_tokens=40, num_supervised=34, rows_per_step=2, steps_per_epoch=1, num_steps=EARLY_STEPS
    )
    progress = Progress(tmp_path / "metrics.jsonl", examples(20, 20), steps, lambda _: None)
    do_steps(progress, clock, EARLY_STEPS, seconds=2.0)
    assert progress.planned_seconds is None


def test_seconds_and_peak_memory_are_those_of_all_calls_and_the_plan_is_the_first_ones(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.progress.machine.peak_memory", lambda: 3 * GIGABYTE)
    first = progress_in(tmp_path)
    first.start()
    do_steps(first, clock, EARLY_STEPS - 2, seconds=2.0)
    first.save(tmp_path, EARLY_STEPS - 2)
    clock.now += 1000.0  # between the calls
    monkeypatch.setattr("pangzhu.progress.machine.peak_memory", lambda: 2 * GIGABYTE)
    second = progress_in(tmp_path)
    second.restore(tmp_path)
    do_steps(second, clock, 2, seconds=4.0)
    assert second.seconds == 2.0 * (EARLY_STEPS - 2) + 8.0
    assert second.planned_seconds == pytest.approx(second.seconds / EARLY_STEPS * 10)
    assert second.peak_memory == 3 * GIGABYTE


def test_a_checkpoint_that_counted_no_seconds_leaves_them_unknown(tmp_path: Path, clock: Clock) -> None:
    progress = progress_in(tmp_path)
    progress.save(tmp_path, 3)
    state = json.loads((tmp_path / LEARNED_FILE).read_text(encoding="utf-8"))
    for name in ("seconds", "planned_seconds", "peak_memory"):
        del state[name]
    (tmp_path / LEARNED_FILE).write_text(json.dumps(state), encoding="utf-8")
    progress.restore(tmp_path)
    do_steps(progress, clock, 7, seconds=2.0)
    assert progress.seconds is None
    assert progress.planned_seconds is None


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
