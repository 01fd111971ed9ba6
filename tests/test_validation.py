"""Rows that are measured and never trained: their figures are the published weights', and they decide which those are."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangzhu import adapter, checkpoint
from pangzhu.adapter import describe, read_manifest, rounded
from pangzhu.data import load_dataset
from pangzhu.data.findings import BadRowsError
from pangzhu.errors import DataError, DivergedError, InterruptedRunError
from pangzhu.evaluate import measure
from pangzhu.fast.path import FastPath
from pangzhu.fast.techniques import Techniques
from pangzhu.messages import text
from pangzhu.model import trainable_parameters
from pangzhu.plan import ValidationPlan
from pangzhu.progress import StepReport
from pangzhu.step import RowOutcome
from pangzhu.tokenization import TokenizedDataset
from pangzhu.train import TrainResult, train
from pangzhu.validation import Validation, ValidationReport
from tests.conftest import alpaca, build_lora, examples
from tests.test_families import plain_loss
from tests.test_train import SIX_ROWS, TIMES, UNTIL_LEARNED, WEIGHTS, Runs
from tests.use_helpers import load

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]
HELD_OUT = [(f"r{number}?", f"{number * 11} is it") for number in range(4)]  # their loss falls until step 6, then rises
EVERY_TWO: dict[str, Any] = {"max_steps": 10, "eval_steps": 2, "learning_rate": 1e-2, "r": 8}
FALLS_THEN_RISES = (3.0, 2.0, 1.0, 1.5, 1.2)


class Validated(Runs):
    """Training of six rows, with four others measured on the way."""

    def __init__(self, base: Path, rows: Path, folder: Path) -> None:
        super().__init__(base, rows, folder)
        self.held_out = alpaca(folder / "held_out.jsonl", HELD_OUT)

    def config(self, name: str = "out", **options: Any) -> Any:
        return super().config(name, **({"validation_path": self.held_out} | options))

    def measured(self, name: str = "out") -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl` that are the validation's."""
        return [line for line in self.metrics(name) if "eval_loss" in line]

    def checkpoint(self, step: int, name: str = "out") -> Path:
        return self.folder / name / "run" / "checkpoints" / f"checkpoint-{step}"

    def publishes(self, step: int, name: str = "out") -> bool:
        """Whether the published weights are those of a step's checkpoint, rounded."""
        masters = load_file(self.checkpoint(step, name) / WEIGHTS)
        published = load_file(self.folder / name / WEIGHTS)
        return all(torch.equal(published[key], masters[key].to(torch.bfloat16)) for key in published)


@pytest.fixture
def runs(model_folder: Callable[[str], Path], rows_file: Path, tmp_path: Path) -> Validated:
    return Validated(model_folder("qwen2"), rows_file, tmp_path)


@pytest.fixture(scope="module")
def unbroken(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """One run without a break, whose best step is not its last."""
    folder = tmp_path_factory.mktemp("unbroken")
    run = Validated(model_folder("qwen2"), alpaca(folder / "rows.jsonl", SIX_ROWS), folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pangzhu.machine.num_physical_cores", lambda: 1)
        run.result = run.train(**EVERY_TWO)  # type: ignore[attr-defined]
    return run


Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Let the validation rows have these losses, one a measurement."""

    def scripted(*losses: float) -> None:
        left = iter(losses)
        outcome = {"num_supervised": 1, "learned": False, "lead": 0.0, "near_tie": False, "ended": False}
        monkeypatch.setattr("pangzhu.validation.measure_rows", lambda *_: [RowOutcome(0, next(left), **outcome)])

    return scripted


def validation_of(*lengths: int, **options: Any) -> Validation:
    rows = TokenizedDataset(tuple(examples(*lengths)), ())
    plan = ValidationPlan(len(lengths), rows.num_supervised, every=2, times=5)
    return Validation(rows, plan, **({"keeps_best": True, "patience": 0} | options))


def equals(run: Validated, other: Validated, result: TrainResult) -> bool:
    """Weights to the bit, every line of metrics, and what the run says it reached."""
    assert run.metrics() == other.metrics()
    left_out = {"output_dir", "seconds", "total_seconds"}
    reached, wanted = result.as_json(), other.result.as_json()  # type: ignore[attr-defined]
    assert {name: reached[name] for name in reached if name not in left_out} == {
        name: wanted[name] for name in wanted if name not in left_out
    }
    return run.weights() == other.weights()


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1024, 12])
@pytest.mark.parametrize("fast", [False, True])
def test_the_loss_is_the_mean_over_all_supervised_tokens_and_not_over_rows(fast: bool, budget: int) -> None:
    model, rows = build_lora(), examples(5, 19, 8)
    path = FastPath(model, Techniques(), longest=19) if fast else None
    report = validation_of(5, 19, 8).measure(model, step=2, token_budget=budget, fast=path)
    with torch.no_grad():
        losses = [float(plain_loss(model, row)) for row in rows]
    total = sum(row.num_supervised for row in rows)
    assert report.loss == pytest.approx(sum(losses) / total, rel=1e-5)
    means = [loss / row.num_supervised for loss, row in zip(losses, rows, strict=True)]
    assert report.loss != pytest.approx(sum(means) / 3, rel=1e-4)
    assert report.perplexity == pytest.approx(math.exp(report.loss))
    assert (report.step, report.learned, report.num_rows) == (2, 0, 3)


def test_measuring_moves_nothing_and_draws_nothing() -> None:
    model = build_lora(lora_dropout=0.5)
    state, before = torch.get_rng_state(), [parameter.clone() for parameter in trainable_parameters(model)]
    validation = validation_of(5, 9)
    with rounded(model):
        inside = [parameter.clone() for parameter in trainable_parameters(model)]
        first = validation.measure(model, step=2, token_budget=1024, fast=None)
    again = validation.measure(model, step=4, token_budget=1024, fast=None)
    after = list(trainable_parameters(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, after))
    assert all(torch.equal(one, other.to(torch.bfloat16).float()) for one, other in zip(inside, before, strict=True))
    assert first.loss != again.loss  # rounded weights are others


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 7}, [3, 6, 7]),  # six rows by two are three steps a pass
        ({"max_steps": 6}, [3, 6]),
        ({"max_steps": 2}, [2]),
        ({"max_steps": 5, "eval_steps": 2}, [2, 4, 5]),
        ({"max_steps": 5, "eval_steps": 2, "logging_steps": 3}, [2, 4, 5]),
    ],
)
def test_the_rows_are_measured_once_a_pass_or_as_said_and_at_the_end(
    options: dict[str, Any], steps: list[int], runs: Validated, said: list[str]
) -> None:
    runs.train(**options)
    assert [line["step"] for line in runs.measured()] == steps
    assert [sentence for sentence in said if f"{len(steps)} times at the most" in sentence] != []
    logged = [line["step"] for line in runs.metrics() if "loss" in line]
    assert set(steps) <= set(logged)
    assert logged == sorted(set(logged))


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.3}, {"gradient_accumulation_steps": 2}], ids=str)
def test_measuring_leaves_training_as_it_is(options: dict[str, Any], runs: Validated) -> None:
    runs.train("watched", max_steps=5, eval_steps=1, load_best_model_at_end=False, **options)
    runs.train("alone", max_steps=5, validation_path=None, **options)
    assert runs.weights("watched") == runs.weights("alone")
    steps = [line for line in runs.metrics("watched") if "loss" in line]
    assert steps == runs.metrics("alone")


def test_what_is_told_of_the_published_weights_is_what_the_adapter_on_disk_gives(unbroken: Validated) -> None:
    result = unbroken.result  # type: ignore[attr-defined]
    engine = load(unbroken.base, str(unbroken.folder / "out"))
    (measured,) = measure(engine, engine.names[1], load_dataset(unbroken.held_out).conversations)
    assert measured.loss == pytest.approx(result.validation_loss, abs=1e-5)
    assert (measured.num_rows, measured.num_exact) == (result.num_validation_rows, result.validation_learned)


def test_every_measurement_is_told_with_the_lowest_so_far(runs: Validated, script: Script, said: list[str]) -> None:
    script(2.0, 3.0)
    runs.train(max_steps=4, eval_steps=2)
    values = {"learned": 0, "num_rows": 1}
    lowest = text("validation.lowest")
    first = text("validation.measured", step=2, loss=2.0, perplexity=math.exp(2), standing=lowest, **values)
    other = text("validation.not_lowest", loss=2.0, step=2)
    second = text("validation.measured", step=4, loss=3.0, perplexity=math.exp(3), standing=other, **values)
    assert [sentence for sentence in said if sentence.startswith("validation after")] == [first, second]


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_row(runs: Validated, tmp_path: Path) -> None:
    """A token that stands in no training row; each row is a micro-batch by itself."""
    runs.base = Path(shutil.copytree(runs.base, tmp_path / "broken"))
    alpaca(runs.held_out, [*HELD_OUT[:2], ("~?", "yes")])
    weights = load_file(runs.base / "model.safetensors")
    tilde = load(runs.base).tokenizer.convert_tokens_to_ids("~")
    weights["model.embed_tokens.weight"][tilde, 0] = math.nan
    save_file(weights, runs.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergedError) as diverged:
        runs.train(max_steps=2, token_budget=16)
    assert diverged.value.key == "error.train.validation_not_finite"
    assert diverged.value.where == f"{runs.held_out}:3"
    assert not (runs.folder / "out" / WEIGHTS).exists()


# --- which rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "options"),
    [([("q", "a"), ("q", "")], {}), ([("q", "a"), ("q", "b" * 200)], {"max_seq_length": 100})],
)
def test_a_bad_validation_row_stops_the_run_before_the_model_is_loaded_and_is_named(
    pairs: list[tuple[str, str]], options: dict[str, Any], runs: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.decisions.load_base", None)
    alpaca(runs.held_out, pairs)
    with pytest.raises(BadRowsError) as refused:
        runs.train(**options)
    assert [str(finding.location) for finding in refused.value.findings] == [f"{runs.held_out}:2"]
    assert not (runs.folder / "out").exists()


def test_skip_bad_does_not_hold_for_validation_rows(runs: Validated) -> None:
    alpaca(runs.held_out, [("q", f"a{number}") for number in range(200)] + [("q", "")])
    with pytest.raises(BadRowsError):
        runs.train(skip_bad=True)


def test_a_validation_file_of_which_nothing_is_left_is_an_error(runs: Validated) -> None:
    alpaca(runs.held_out, [("q", "b" * 200)])
    with pytest.raises(DataError) as refused:
        runs.train(max_seq_length=100, overlong="drop")
    assert (refused.value.key, refused.value.where) == ("error.data.nothing_to_measure", str(runs.held_out))


def test_validation_rows_that_are_left_out_or_cut_are_counted(runs: Validated, said: list[str]) -> None:
    alpaca(runs.held_out, [("q", "a"), ("r", "b" * 200)])
    result = runs.train(max_steps=1, max_seq_length=100, overlong="drop")
    assert result.num_validation_rows == 1
    assert text("train.overlong", dropped=1, truncated=0) in said


def test_rows_that_are_trained_and_measured_are_warned_of(runs: Validated, tmp_path: Path, said: list[str]) -> None:
    replay = alpaca(tmp_path / "replay.jsonl", [("R1 ?", "seen already")])
    alpaca(runs.held_out, [*HELD_OUT, ("Q3？", "another answer")])
    runs.train(max_steps=1, replay_path=replay)
    places = {"first": f"{runs.rows}:4", "other": f"{runs.held_out}:5"}
    assert text("validation.overlap", num_rows=2, **places) in said


def test_rows_that_are_only_measured_are_not(runs: Validated, said: list[str]) -> None:
    runs.train(max_steps=1)
    assert not [sentence for sentence in said if "validation file asks" in sentence]


# --- which weights are published -------------------------------------------------------------------------------------


def test_the_weights_with_the_lowest_loss_are_published_and_it_is_said(
    runs: Validated, script: Script, said: list[str]
) -> None:
    script(*FALLS_THEN_RISES)
    result = runs.train(**EVERY_TWO, save_steps=3)
    assert runs.publishes(6)
    assert not runs.publishes(10)
    assert (result.published_step, result.validation_loss, result.num_steps) == (6, 1.0, 10)
    assert text("validation.publishes_best", step=6, loss=1.0) in said
    manifest = read_manifest(runs.folder / "out")
    assert (manifest.metrics["published_step"], manifest.metrics["validation_loss"]) == (6, 1.0)


def test_rows_are_counted_as_learned_by_the_weights_that_are_published(
    runs: Validated, script: Script, said: list[str]
) -> None:
    """After one step nothing is learned; after the last everything is."""
    alpaca(runs.rows, [("a?", "y")])
    learning = {**UNTIL_LEARNED, "warmup_ratio": 0.0, "max_steps": 300}
    learned_at = runs.train("learned", validation_path=None, **learning).num_steps
    options = {**learning, "until_learned": False, "max_steps": learned_at}
    assert 1 < learned_at < 300
    said.clear()
    script(1.0, *[2.0] * learned_at)
    best = runs.train("best", **options)
    script(1.0, *[2.0] * learned_at)
    last = runs.train("last", load_best_model_at_end=False, **options)
    assert (best.published_step, best.num_learned) == (1, 0)
    assert (last.published_step, last.num_learned) == (learned_at, 1)
    assert said.count(text("train.confirming")) == 2


def test_of_equal_losses_the_first_is_the_best(runs: Validated, script: Script) -> None:
    script(2.0, 1.0, 1.0, 1.0, 1.0)
    assert runs.train(**EVERY_TWO).published_step == 4


def test_the_last_weights_are_published_where_that_is_wanted(runs: Validated, script: Script, said: list[str]) -> None:
    script(*FALLS_THEN_RISES)
    result = runs.train(**EVERY_TWO, load_best_model_at_end=False)
    assert runs.publishes(10)
    assert (result.published_step, result.validation_loss) == (10, 1.2)
    values = {"step": 10, "loss": 1.2, "best": 6, "lowest": 1.0}
    assert text("validation.publishes_last", **values) in said
    assert [folder.name for folder in runs.checkpoint(0).parent.iterdir()] == ["checkpoint-10"]


def test_without_validation_rows_nothing_is_said_of_them(runs: Validated, said: list[str]) -> None:
    result = runs.train(validation_path=None, max_steps=2)
    assert (result.published_step, result.validation_loss, result.num_validation_rows) == (None, None, None)
    assert not [sentence for sentence in said if sentence.startswith(("Validation", "validation", "Published"))]


def test_weights_that_have_learned_all_rows_are_published_whatever_their_validation_loss(
    runs: Validated, script: Script, said: list[str]
) -> None:
    """`--until_learned` asks for them, and they are confirmed."""
    script(*map(float, range(1, 300)))
    result = runs.train(**UNTIL_LEARNED)
    assert result.num_learned == len(SIX_ROWS)
    assert result.published_step == result.num_steps
    assert runs.publishes(result.num_steps)
    values = {"step": result.num_steps, "loss": result.validation_loss, "best": 1, "lowest": 1.0}
    assert text("validation.publishes_learned", **values) in said


def test_a_crash_after_all_rows_are_learned_publishes_the_same_weights(
    runs: Validated, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpaca(runs.rows, SIX_ROWS[:2])
    script(*map(float, range(1, 300)))
    whole = runs.train("whole", **UNTIL_LEARNED)
    script(*map(float, range(1, 300)))
    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.adapter.write_adapter", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.train(**UNTIL_LEARNED)
    again = runs.train(**UNTIL_LEARNED)
    assert again.published_step == whole.published_step
    assert again.num_learned == 2
    assert runs.weights() == runs.weights("whole")


def test_a_run_that_ends_before_all_rows_are_learned_publishes_the_best(runs: Validated, script: Script) -> None:
    script(*FALLS_THEN_RISES)
    assert runs.train(**EVERY_TWO, until_learned=True).published_step == 6
    assert runs.publishes(6)


# --- stopping early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "losses", "num_steps"),
    [(1, (3, 2, 2.5), 6), (2, (3, 2, 2.5, 2), 8), (2, (3, 2, 2.5, 1, 1.5), 10), (0, (1, 2, 3, 4, 5), 10)],
)
def test_a_run_stops_after_so_many_measurements_without_a_lower_loss(
    patience: int, losses: tuple[float, ...], num_steps: int, runs: Validated, script: Script, said: list[str]
) -> None:
    script(*losses)
    result = runs.train(**EVERY_TWO, early_stopping_patience=patience)
    assert result.num_steps == num_steps
    assert result.validation_loss == min(losses)
    assert runs.metrics()[-2]["step"] == num_steps  # the last step, and then its measurement
    stopped = [sentence for sentence in said if sentence.startswith("Stopping after step")]
    assert len(stopped) == (1 if num_steps < 10 else 0)


def test_a_run_that_stopped_early_is_finished(runs: Validated, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script(3.0, 2.0, 2.5)
    options = {**EVERY_TWO, "early_stopping_patience": 1}
    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.adapter.write_adapter", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.train(**options)
    result = runs.train(**options)
    assert (result.num_steps, result.published_step) == (6, 4)
    assert runs.publishes(4)
    assert runs.train(**options).already_finished


# --- resumed equals unbroken -----------------------------------------------------------------------------------------


def test_the_best_step_of_the_unbroken_run_is_not_its_last(unbroken: Validated) -> None:
    """Or the tests below would show nothing."""
    assert unbroken.result.published_step == 4  # type: ignore[attr-defined]
    assert unbroken.publishes(4)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 9])
def test_resumed_equals_unbroken_to_the_bit(step: int, runs: Validated, unbroken: Validated) -> None:
    """A signal before, in and after the step that turns out to be the best."""
    runs.stop_at(step, **EVERY_TWO)
    assert equals(runs, unbroken, runs.train(**EVERY_TWO))


def test_a_run_interrupted_again_and_again_ends_the_same(runs: Validated, unbroken: Validated) -> None:
    for step in (1, 4, 7):
        runs.stop_at(step, **EVERY_TWO)
    assert equals(runs, unbroken, runs.train(**EVERY_TWO))


def test_a_signal_while_the_rows_are_measured_stops_at_that_step(
    runs: Validated, unbroken: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Validation.measure

    def interrupted(self: Validation, *given: Any, step: int, **named: Any) -> ValidationReport:
        report = measure(self, *given, step=step, **named)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return report

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "measure", interrupted)
        with pytest.raises(InterruptedRunError):
            runs.train(**EVERY_TWO)
    assert runs.checkpoints()[-1] == "checkpoint-4"
    assert equals(runs, unbroken, runs.train(**EVERY_TWO))


@pytest.mark.parametrize(("where", "calls_before"), [("round_to_bf16", 5), ("prove_adapter", 0), ("publish", 0)])
def test_a_crash_after_the_last_step_is_made_good_by_the_same_command(
    where: str, calls_before: int, runs: Validated, unbroken: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five measurements round the weights before they are rounded to be saved."""
    original, calls = getattr(adapter, where), iter(range(calls_before))

    def crash(*given: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            raise ZeroDivisionError
        return original(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(adapter, where, crash)
        with pytest.raises(ZeroDivisionError):
            runs.train(**EVERY_TWO)
    assert not (runs.folder / "out" / WEIGHTS).exists()
    assert equals(runs, unbroken, runs.train(**EVERY_TWO))


def test_a_crash_between_measuring_and_saving_measures_again(
    runs: Validated, unbroken: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = checkpoint.seal_checkpoint

    def crash(folder: Path) -> None:
        if folder.name == "checkpoint-4":
            raise ZeroDivisionError
        seal(folder)

    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.checkpoint.seal_checkpoint", crash)
        with pytest.raises(ZeroDivisionError):
            runs.train(**EVERY_TWO)
    assert equals(runs, unbroken, runs.train(**EVERY_TWO))


def test_a_damaged_newest_checkpoint_costs_its_steps_and_not_the_best(runs: Validated, unbroken: Validated) -> None:
    """The newest names itself; the one before it names an earlier one, which is still there."""
    runs.stop_at(3, **EVERY_TWO, save_steps=3)
    assert runs.checkpoints() == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    (runs.checkpoint(4) / "validation.json").write_text("{", encoding="utf-8")
    assert equals(runs, unbroken, runs.train(**EVERY_TWO, save_steps=3))


def test_an_early_stop_is_the_same_after_a_resume(runs: Validated) -> None:
    options = {**EVERY_TWO, "max_steps": 30, "early_stopping_patience": 2}
    whole = runs.train("whole", **options)
    assert whole.num_steps < 30
    runs.stop_at(whole.num_steps - 3, **options)
    assert runs.train(**options).num_steps == whole.num_steps
    assert runs.weights() == runs.weights("whole")
    assert runs.metrics() == runs.metrics("whole")


# --- the best checkpoint ---------------------------------------------------------------------------------------------


def test_the_best_checkpoint_outlives_newer_ones_and_is_sealed(runs: Validated, script: Script) -> None:
    script(2.0, 1.0, 3.0, 3.0, 3.0)
    runs.train(**EVERY_TWO, save_steps=1)
    assert runs.checkpoints() == ["checkpoint-10", "checkpoint-4", "checkpoint-9"]
    assert checkpoint.intact_at(runs.folder / "out" / "run", 4) == runs.checkpoint(4)


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_best_checkpoint_that_was_lost_is_told_and_the_last_weights_are_published(
    damage: str, runs: Validated, script: Script, said: list[str]
) -> None:
    def spoil(report: StepReport) -> None:
        if report.step == 9 and damage == "gone":
            shutil.rmtree(runs.checkpoint(6))
        elif report.step == 9:
            weights = runs.checkpoint(6) / WEIGHTS
            content = weights.read_bytes()
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    script(*FALLS_THEN_RISES)
    result = train(runs.config(**EVERY_TWO), on_step=spoil)
    assert (result.published_step, result.validation_loss) == (10, 1.2)
    assert runs.publishes(10)
    values = {"step": 10, "loss": 1.2, "best": 6, "lowest": 1.0, "folder": runs.checkpoint(6)}
    assert text("validation.best_lost", **values) in said
    assert describe(runs.folder / "out").fault is None


def test_a_finished_run_whose_adapter_was_damaged_makes_the_best_again(runs: Validated, script: Script) -> None:
    script(*FALLS_THEN_RISES)
    runs.train(**EVERY_TWO)
    good = runs.weights()
    (runs.folder / "out" / WEIGHTS).unlink()
    assert runs.train(**EVERY_TWO).published_step == 6
    assert runs.weights() == good


# --- the same run, or another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"eval_steps": 3}, True),  # a pass, which is the default
        ({"load_best_model_at_end": True}, True),
        ({"eval_steps": 2}, False),
        ({"early_stopping_patience": 5}, False),
        ({"load_best_model_at_end": False}, False),
        ({"validation_path": None}, False),
        ({"report_to": ()}, True),
    ],
    ids=str,
)
def test_what_decides_about_the_weights_makes_another_run(change: dict[str, Any], same: bool, runs: Validated) -> None:
    runs.train(max_steps=3)
    assert runs.train(**({"max_steps": 3} | change)).already_finished is same


def test_other_validation_rows_make_another_run_where_they_decide(runs: Validated) -> None:
    runs.train("decides", max_steps=3)
    runs.train("told", max_steps=3, load_best_model_at_end=False)
    runs.held_out = runs.held_out.rename(runs.held_out.with_name("renamed.jsonl"))
    assert runs.train("decides", max_steps=3).already_finished
    alpaca(runs.held_out, HELD_OUT[:2])
    assert not runs.train("decides", max_steps=3).already_finished
    assert runs.train("told", max_steps=3, load_best_model_at_end=False).already_finished


def test_a_run_without_validation_rows_is_still_the_run_it_was(runs: Validated) -> None:
    """Records of earlier versions know nothing of them."""
    runs.train(max_steps=2, validation_path=None)
    record = checkpoint.read_record(runs.folder / "out" / "run")
    assert record is not None
    assert not {"validation", "validation_path", "eval_steps", "report_to"} & record.identity.keys()


def test_rows_that_are_given_after_the_last_step_are_measured(runs: Validated, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.adapter.write_adapter", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.train(max_steps=3, validation_path=None)
    result = runs.train(max_steps=3, load_best_model_at_end=False)
    assert result.published_step == 3
    assert [line["step"] for line in runs.measured()] == [3]
    assert result.validation_loss == pytest.approx(runs.measured()[0]["eval_loss"], abs=1e-6)


def test_the_card_of_the_adapter_tells_the_published_step(runs: Validated, script: Script) -> None:
    script(*FALLS_THEN_RISES)
    runs.train(**EVERY_TWO)
    card = (runs.folder / "out" / "README.md").read_text(encoding="utf-8")
    assert "| step whose weights are published | 6 |\n| their validation loss | 1.0000 |\n" in card
    assert "\n\n\n" not in card


def test_what_is_logged_of_a_measurement_is_spelled_as_trainer_spells_it() -> None:
    report = ValidationReport(step=4, loss=1.0, learned=2, num_rows=3, seconds=0.5)
    assert report.as_record() == {
        "step": 4,
        "eval_loss": 1.0,
        "eval_perplexity": math.e,
        "eval_learned": 2,
        "eval_num_rows": 3,
        "eval_runtime": 0.5,
    }
    assert "eval_runtime" in TIMES
    assert json.loads(json.dumps(report.as_record())) == report.as_record()
