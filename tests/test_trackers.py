"""Figures reach the trackers that were asked for, as they stand in `metrics.jsonl`; nothing is reported anywhere else."""

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pangzhu import trackers
from pangzhu.config import TrainConfig
from pangzhu.errors import UsageError
from pangzhu.messages import text
from pangzhu.progress import StepReport
from pangzhu.trackers import PACKAGES, choose_trackers
from tests.conftest import alpaca
from tests.test_train import Runs
from tests.test_validation import HELD_OUT

pytestmark = pytest.mark.usefixtures("one_core", "_elsewhere")
Called = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run where a file written into the current folder is seen."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def runs(model_folder: Callable[[str], Path], rows_file: Path, tmp_path: Path) -> Runs:
    return Runs(model_folder("qwen2"), rows_file, tmp_path)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these packages be installed, and no other."""

    def only(*names: str) -> None:
        found = {name: ModuleSpec(name, None, origin=f"{name}/__init__.py") for name in names}
        monkeypatch.setattr(trackers, "find_spec", found.get)

    return only


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard would show of a run: values by step, by name."""
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def logged(runs: Runs, name: str, of: str = "out") -> dict[int, float]:
    """A figure of `metrics.jsonl` by step."""
    return {line["step"]: line[name] for line in runs.metrics(of) if name in line}


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_shows_what_metrics_jsonl_holds(runs: Runs, tmp_path: Path, said: list[str]) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", HELD_OUT)
    runs.train(report_to=("tensorboard",), validation_path=held_out, max_steps=5, eval_steps=2)
    shown = scalars(runs.folder / "out")
    assert shown["train/loss"] == pytest.approx(logged(runs, "loss"), rel=1e-6)
    assert shown["train/grad_norm"] == pytest.approx(logged(runs, "grad_norm"), rel=1e-6)
    assert shown["train/learned"] == logged(runs, "learned")
    assert shown["train/tokens_per_second"].keys() == {1, 2, 3, 4, 5}
    assert shown["eval/loss"] == pytest.approx(logged(runs, "eval_loss"), rel=1e-6)
    assert shown["eval/perplexity"] == pytest.approx(logged(runs, "eval_perplexity"), rel=1e-6)
    assert shown["eval/learned"].keys() == {2, 4, 5}
    folder = runs.folder / "out" / "run" / "tensorboard"
    assert text("trackers.tensorboard", folder=folder) in said


def test_tensorboard_shows_the_loss_of_the_step_even_where_few_steps_are_logged(runs: Runs) -> None:
    runs.train(report_to=("tensorboard",), max_steps=5, logging_steps=2)
    assert scalars(runs.folder / "out")["train/loss"] == pytest.approx(logged(runs, "loss"), rel=1e-6)


def test_after_a_crash_tensorboard_shows_no_step_of_the_lost_part(runs: Runs) -> None:
    """Steps 3 and 4 were logged, then lost, then taken again with other losses."""

    def crash(report: StepReport) -> None:
        if report.step == 4:
            raise ZeroDivisionError

    options: dict[str, Any] = {"report_to": ("tensorboard",), "save_steps": 2}
    with pytest.raises(ZeroDivisionError):
        runs.train(on_step=crash, max_steps=5, **options)
    runs.train(max_steps=5, **options)
    shown = scalars(runs.folder / "out")
    assert list(shown["train/loss"]) == [1, 2, 3, 4, 5]
    assert shown["train/loss"] == pytest.approx(logged(runs, "loss"), rel=1e-6)


def test_reporting_leaves_training_as_it_is(runs: Runs) -> None:
    runs.train("told", report_to=("tensorboard",))
    runs.train("silent")
    assert runs.weights("told") == runs.weights("silent")
    assert not (runs.folder / "silent" / "run" / "tensorboard").exists()


# --- SwanLab and W&B, by modules that stand in for them --------------------------------------------------------------


class Config(dict[str, Any]):
    """A tracker's settings, which are updated with a flag that dictionaries know nothing of."""

    def update(self, *given: Any, allow_val_change: bool = False) -> None:  # type: ignore[override]
        super().update(*given)


def module(name: str, monkeypatch: pytest.MonkeyPatch, **content: Any) -> ModuleType:
    """A module that is imported in place of a package."""
    stand_in = ModuleType(name)
    stand_in.__spec__ = ModuleSpec(name, None, origin="stand-in")
    stand_in.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, stand_in)
    return stand_in


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Called:
    called: Called = []

    def init(**given: Any) -> None:
        called.append(("init", given))
        stand_in.run = SimpleNamespace(_label=lambda **_: None, summary={}, name=given["name"], id="1")

    stand_in = module("wandb", monkeypatch, run=None, init=init, config=Config(), define_metric=lambda *_, **__: None)
    stand_in.__dict__["log"] = lambda figures: called.append(("log", figures))
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        module(name, monkeypatch)
    module("wandb.sdk.lib.config_util", monkeypatch, ConfigError=KeyError)
    monkeypatch.setenv("WANDB_PROJECT", "law")
    return called


@pytest.fixture
def swanlab(monkeypatch: pytest.MonkeyPatch) -> Called:
    called: Called = []
    runs: list[dict[str, Any]] = []

    def init(**given: Any) -> None:
        called.append(("init", given))
        runs.append(given)

    stand_in = module("swanlab", monkeypatch, init=init, config=Config(), get_run=lambda: runs[0] if runs else None)
    stand_in.__dict__["log"] = lambda figures, step: called.append(("log", figures | {"at": step}))
    monkeypatch.setenv("SWANLAB_PROJECT", "law")
    return called


def told(called: Called, name: str) -> dict[int, float]:
    """A figure by step, as a tracker was told it."""
    figures = [given for what, given in called if what == "log"]
    return {given["train/global_step"]: given[name] for given in figures if name in given}


def test_wandb_is_told_the_run_and_its_figures(runs: Runs, tmp_path: Path, wandb: Called) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", HELD_OUT)
    runs.train("my-lora", report_to=("wandb",), validation_path=held_out, max_steps=4, eval_steps=2)
    assert wandb[0] == ("init", {"project": "law", "name": "my-lora"})
    assert told(wandb, "train/loss") == logged(runs, "loss", "my-lora")
    assert told(wandb, "train/learned") == logged(runs, "learned", "my-lora")
    assert told(wandb, "eval/loss") == logged(runs, "eval_loss", "my-lora")
    assert sys.modules["wandb"].config["learning_rate"] == 2e-4
    assert sys.modules["wandb"].config["run_name"] == "my-lora"


def test_swanlab_is_told_the_run_and_its_figures(runs: Runs, tmp_path: Path, swanlab: Called) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", HELD_OUT)
    runs.train("my-lora", report_to=("swanlab",), validation_path=held_out, max_steps=4, eval_steps=2)
    assert swanlab[0] == ("init", {"project": "law", "experiment_name": "my-lora"})
    assert told(swanlab, "train/loss") == logged(runs, "loss", "my-lora")
    assert told(swanlab, "train/tokens_per_second").keys() == {1, 2, 3, 4}
    assert told(swanlab, "eval/loss") == logged(runs, "eval_loss", "my-lora")
    assert all(given["at"] == given["train/global_step"] for what, given in swanlab if "train/global_step" in given)
    assert sys.modules["swanlab"].config["per_device_train_batch_size"] == 2


def test_several_trackers_are_told_the_same(runs: Runs, swanlab: Called, wandb: Called, said: list[str]) -> None:
    runs.train(report_to=("swanlab", "wandb", "tensorboard"))
    shown = scalars(runs.folder / "out")["train/loss"]
    assert told(swanlab, "train/loss") == told(wandb, "train/loss") == pytest.approx(shown, rel=1e-6)
    assert text("trackers.reports_to", names="swanlab, wandb, tensorboard") in said


def test_a_run_that_reports_nowhere_calls_no_tracker(runs: Runs, swanlab: Called, wandb: Called) -> None:
    """Though they are installed."""
    runs.train()
    assert (swanlab, wandb) == ([], [])
    assert not (runs.folder / "out" / "run" / "tensorboard").exists()


# --- which trackers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_that_is_not_installed_is_told_before_anything_is_fetched_or_read(
    name: str, runs: Runs, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(*(other for other in PACKAGES if other != name))
    monkeypatch.setattr("pangzhu.train.prepare_training_base", None)
    monkeypatch.setattr("pangzhu.train.read_dataset", None)
    with pytest.raises(UsageError) as refused:
        runs.train(report_to=(name,))
    assert (refused.value.key, refused.value.exit_code) == ("error.train.tracker_missing", 2)
    assert f"pip install {name}" in refused.value.fix


def test_the_second_half_of_training_asks_too(
    runs: Runs, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pangzhu.preparation import label_rows, prepare_training_base, read_dataset
    from pangzhu.train import train_rows

    installed()
    monkeypatch.setattr("pangzhu.decisions.load_base", None)
    config = runs.config(report_to=("tensorboard",))
    base = prepare_training_base(config)
    with pytest.raises(UsageError):
        train_rows(config, base, label_rows(read_dataset(config), config, base))


def test_all_are_those_that_are_installed(installed: Callable[..., None]) -> None:
    installed("tensorboard", "wandb", "mlflow")
    assert choose_trackers(("all",)) == ("tensorboard", "wandb")
    installed()
    with pytest.raises(UsageError) as refused:
        choose_trackers(("all",))
    assert refused.value.key == "error.train.no_tracker"
    assert choose_trackers(()) == ()


def test_a_mere_folder_of_the_name_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B writes its runs into a folder called as its package is."""
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "runs" / "wandb").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "runs")])
    with pytest.raises(UsageError):
        choose_trackers(("wandb",))


def test_a_plan_reports_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch, wandb: Called) -> None:
    from pangzhu import measure
    from pangzhu.config import PlanConfig
    from pangzhu.run_plan import plan_run

    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)
    config = runs.config(report_to=("wandb", "tensorboard")).model_dump(exclude_unset=True)
    plan_run(PlanConfig(**config))
    assert wandb == []
    assert not (runs.folder / "out").exists()


def test_the_name_of_the_run_is_that_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pangzhu.trainer import training_arguments

    (tmp_path / "law").mkdir()
    monkeypatch.chdir(tmp_path / "law")
    assert training_arguments(TrainConfig(output_dir=Path()), 1, on_cpu=True).run_name == "law"
