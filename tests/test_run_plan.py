"""`plan_run(config)`: what it tells of a run is what the run does, and nothing is left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pangzhu import machine, measure
from pangzhu.checkpoint import NUM_KEPT, RUN
from pangzhu.config import PlanConfig
from pangzhu.data.findings import BadRowsError
from pangzhu.errors import UsageError
from pangzhu.messages import LANGUAGES, set_language, text
from pangzhu.plan import TIMES_KEPT
from pangzhu.run_plan import RunPlan, plan_run
from pangzhu.train import train
from tests.conftest import alpaca, build_lora, silently, train_config
from tests.test_compare import squeezed

pytestmark = pytest.mark.usefixtures("one_core")
PARTS = ("preparing", "loading", "stepping", "confirming", "proving")


class Plans:
    """Plans of the tiny Qwen2 on six rows; every call may change a setting."""

    def __init__(self, base: Callable[[str], Path], rows: Path, folder: Path) -> None:
        self.base, self.rows, self.folder = base, rows, folder

    def plan(self, family: str = "qwen2", *, measure: bool = False, **options: Any) -> RunPlan:
        run = train_config(self.base(family), self.rows, self.folder / "out", **options)
        return plan_run(PlanConfig(**run.model_dump(exclude_unset=True), measure=measure))


@pytest.fixture
def plans(model_folder: Callable[[str], Path], rows_file: Path, tmp_path: Path) -> Plans:
    return Plans(model_folder, rows_file, tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of steps is enough."""
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)


def shown(plan: RunPlan) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(plan.render())
    return captured.get()


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# --- what is told is what is done ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "q_proj,v_proj", "r": 3},
        {"use_dora": True},
        {"max_steps": None, "num_train_epochs": 2.5},
    ],
)
def test_steps_rows_and_trainable_parameters_are_those_of_the_run(options: dict[str, Any], plans: Plans) -> None:
    planned = plans.plan(**options)
    config = train_config(plans.base("qwen2"), plans.rows, plans.folder / "out", **options)
    result = train(config, on_step=silently)
    saved = json.loads((plans.folder / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    lora = {name: saved[name] for name in ("r", "use_dora")} | {"target_modules": ",".join(saved["target_modules"])}
    trainable = sum(p.numel() for p in build_lora(**lora).parameters() if p.requires_grad)
    assert (planned.steps.num_steps, planned.steps.num_rows) == (result.num_steps, result.num_rows)
    assert planned.outlook.num_trainable == trainable
    assert planned.steps.num_tokens * planned.steps.num_rows_seen == pytest.approx(
        result.num_tokens * planned.steps.num_rows, rel=0.2
    )


def test_the_decisions_are_those_that_training_records(plans: Plans) -> None:
    planned = plans.plan()
    train(train_config(plans.base("qwen2"), plans.rows, plans.folder / "out"), on_step=silently)
    record = json.loads((plans.folder / "out" / RUN / "record.json").read_text(encoding="utf-8"))
    assert planned.as_json()["decisions"] == record["decisions"]


def test_the_files_of_a_run_have_the_sizes_that_were_planned(plans: Plans) -> None:
    options = {"r": 64, "max_steps": 6, "save_steps": 1}
    disk = plans.plan(**options).disk
    train(train_config(plans.base("qwen2"), plans.rows, plans.folder / "out", **options), on_step=silently)
    out = plans.folder / "out"
    checkpoints = list((out / RUN / "checkpoints").iterdir())
    assert disk.num_checkpoints == NUM_KEPT + 1 == len(checkpoints) + 1
    assert (out / "adapter_model.safetensors").stat().st_size == pytest.approx(disk.adapter, rel=0.1)
    for checkpoint in checkpoints:
        size = sum(file.stat().st_size for file in checkpoint.iterdir())
        assert size == pytest.approx(disk.checkpoint, rel=0.15)


def test_a_measured_plan_has_every_part_and_their_sum(plans: Plans, quick: None) -> None:
    planned = plans.plan(measure=True)
    assert planned.time is not None
    parts = [getattr(planned.time, part) for part in PARTS]
    assert all(seconds > 0 for seconds in parts)
    assert planned.time.total == pytest.approx(sum(parts))
    assert planned.time.num_timed == 2


def test_steps_are_timed_until_they_have_taken_long_enough(plans: Plans) -> None:
    planned = plans.plan(measure=True)  # the tiny model's steps take milliseconds
    assert planned.time is not None
    assert planned.time.num_timed == 8


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.1}, {"fast": "off"}, {"learning_rate": 1e-12}]
)
def test_whatever_can_be_trained_can_be_timed(options: dict[str, Any], plans: Plans, quick: None) -> None:
    planned = plans.plan(measure=True, **options)
    assert planned.time is not None
    assert planned.time.stepping > 0


# --- what is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timed", [False, True])
def test_nothing_is_written_beside_a_finished_run(timed: bool, plans: Plans, quick: None) -> None:
    train(train_config(plans.base("qwen2"), plans.rows, plans.folder / "out"), on_step=silently)
    before = files_below(plans.folder)
    plans.plan(measure=timed)
    assert files_below(plans.folder) == before


def test_an_output_folder_that_is_not_there_is_not_made(plans: Plans, quick: None) -> None:
    planned = plans.plan(measure=True)
    assert not (plans.folder / "out").exists()
    assert planned.free_disk > 0


def test_without_measuring_the_weights_are_not_loaded(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangzhu.decisions.load_base", None)
    planned = plans.plan()
    assert planned.time is None
    assert planned.as_json()["time"] is None
    assert "--no_measure" in shown(planned)


def test_the_same_steps_are_planned_each_time(plans: Plans) -> None:
    assert plans.plan().sample.rows == plans.plan().sample.rows


# --- what takes which path -------------------------------------------------------------------------------------------


def test_a_family_that_the_fast_path_does_not_know_is_planned_on_the_reference_path(plans: Plans) -> None:
    gemma, qwen = plans.plan("gemma3"), plans.plan("qwen2")
    assert qwen.reasons == ()
    assert gemma.reasons is not None
    assert "Gemma3TextModel" in gemma.reasons[0]
    memory, off = gemma.outlook.memory, plans.plan("gemma3", fast="off").outlook.memory
    assert memory.heap == off.heap == 0 < qwen.outlook.memory.heap
    assert memory.logits > 0 == off.logits
    assert memory.per_token < off.per_token  # the head stays fast


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, "fused"),
        ({"lora_dropout": 0.1}, "dropout"),
        ({"fast_without": ("lora",)}, "peft"),
        ({"use_dora": True}, "dora"),
        ({"use_dora": True, "lora_dropout": 0.1}, "dora"),
    ],
)
def test_adapters_that_are_computed_apart_are_planned_with_their_memory(
    options: dict[str, Any], how: str, plans: Plans
) -> None:
    fused = plans.plan().outlook.memory.per_token
    assert plans.plan(**options).outlook.memory.per_token == TIMES_KEPT[how] * fused


def test_the_fast_path_switched_off_is_told(plans: Plans) -> None:
    planned = plans.plan(fast="off")
    assert planned.reasons is None
    assert planned.as_json()["fast"] == {"on": False, "reasons": []}
    assert "Fast path: off" in shown(planned)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_bad_rows_are_refused_as_in_training(plans: Plans, tmp_path: Path) -> None:
    plans.rows = alpaca(tmp_path / "bad.jsonl", [("q", "a"), ("q", "")])
    with pytest.raises(BadRowsError):
        plans.plan()


def test_a_target_module_that_is_not_there_is_refused_before_the_weights_are_loaded(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.decisions.load_base", None)
    with pytest.raises(UsageError) as refused:
        plans.plan(measure=True, target_modules="query")
    assert refused.value.key == "error.model.target_unknown"


# --- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_screen_shows_every_figure(language: Any, plans: Plans, quick: None) -> None:
    set_language(language)
    planned = plans.plan(measure=True)
    screen = shown(planned)
    for figure in (
        planned.dataset_path.name,
        f"{planned.steps.num_tokens:,}",
        f"{planned.outlook.num_trainable:,}",
        f"{planned.outlook.peak / 1e9:.2f} GB",
        f"{planned.outlook.free_bytes / 1e9:.1f} GB",
        f"{planned.disk.total / 1e6:.0f} MB",
        f"{planned.time.total / 60:.1f}" if planned.time else "-",
    ):
        assert figure.replace(" ", "") in squeezed(screen)  # a long path is folded
    assert f"• {planned.advice[0]}"[:40] in screen


def test_the_parts_of_memory_add_up_to_the_peak_or_to_what_loading_takes(plans: Plans) -> None:
    memory: Any = plans.plan().as_json()["memory"]
    parts = sum(memory[part] for part in ("libraries", "heap", "weights", "adapter", "micro_batch", "logits"))
    assert memory["peak"] == pytest.approx(max(parts, memory["libraries"] + memory["weights"] + memory["loading"]))


def test_a_run_that_stops_when_learned_is_told_as_the_most(plans: Plans, quick: None) -> None:
    planned = plans.plan(measure=True, until_learned=True)
    assert "at the most: it stops" in shown(planned)
    figures: Any = planned.as_json()["time"]
    assert figures["at_most"] is True


def test_a_probe_is_shown_with_both_speeds(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = machine.PrecisionProbe(400.0, 130.0, "avx512 avx512_bf16", "bf16", 0.3)
    monkeypatch.setattr("pangzhu.machine.probe_precision_for", lambda folder: probe)
    screen = shown(plans.plan(precision="auto"))
    assert "bf16: 400 GFLOP/s in bf16, 130 in float32 (avx512 avx512_bf16)" in screen


def test_rows_left_out_for_their_length_are_told(plans: Plans, tmp_path: Path) -> None:
    plans.rows = alpaca(tmp_path / "long.jsonl", [("q", "a"), ("q", "b" * 300), ("r", "c")])
    planned = plans.plan(max_seq_length=150, overlong="drop")
    assert planned.steps.num_rows == 2
    assert "Too long: 1 row(s) left out" in shown(planned)


def test_figures_are_plain_values(plans: Plans, quick: None) -> None:
    assert json.loads(json.dumps(plans.plan(measure=True).as_json()))["steps"]["num_rows"] == 6


# --- validation rows -------------------------------------------------------------------------------------------------


def test_the_validation_is_planned_as_the_run_does_it(plans: Plans, quick: None, tmp_path: Path) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", [("r?", "is it"), ("s?", "it is")])
    options: dict[str, Any] = {"max_steps": 5, "eval_steps": 2, "validation_path": held_out}
    planned = plans.plan(measure=True, **options)
    train(train_config(plans.base("qwen2"), plans.rows, plans.folder / "out", **options), on_step=silently)
    lines = (plans.folder / "out" / RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert planned.validation is not None
    assert planned.validation.times == len([line for line in lines if "eval_loss" in line]) == 3
    assert planned.time is not None
    assert planned.time.validating > 0
    assert planned.time.total == pytest.approx(sum(getattr(planned.time, part) for part in (*PARTS, "validating")))
    assert planned.as_json()["validation"] == {"num_rows": 2, "num_supervised": 12, "every": 2, "times": 3}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_validation_is_shown_where_there_is_one(language: Any, plans: Plans, tmp_path: Path) -> None:
    set_language(language)
    held_out = alpaca(tmp_path / "held_out.jsonl", [("r?", "is it")])
    figures = text("plan.validation.figures", rows=1, supervised=6, every=3, times=2)
    assert squeezed(figures) in squeezed(shown(plans.plan(validation_path=held_out)))
    assert text("plan.validation") not in shown(plans.plan())


def test_a_run_that_may_stop_early_is_planned_to_its_end(plans: Plans, quick: None, tmp_path: Path) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", [("r?", "is it")])
    planned = plans.plan(measure=True, validation_path=held_out, early_stopping_patience=1)
    assert planned.as_json()["time"]["at_most"] is True  # type: ignore[index]
    assert "at the most: it stops where the validation loss" in shown(planned)
    assert planned.steps.num_steps == 4


def test_bad_validation_rows_stop_the_plan_too(plans: Plans, tmp_path: Path) -> None:
    held_out = alpaca(tmp_path / "held_out.jsonl", [("r?", "")])
    with pytest.raises(BadRowsError):
        plans.plan(validation_path=held_out)
