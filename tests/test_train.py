"""`train(config)` from a dataset to a published adapter, interrupted, repeated, damaged and refused."""

import hashlib
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangzhu import checkpoint
from pangzhu.adapter import describe, file_hashes, read_manifest, verify_files
from pangzhu.config import GenerationOptions, ModelOptions, TrainConfig
from pangzhu.data.findings import BadRowsError
from pangzhu.errors import (
    DivergedError,
    InterruptedRunError,
    LockedError,
    PangzhuError,
    ResourceError,
    UsageError,
    VerificationError,
)
from pangzhu.messages import text
from pangzhu.model import base_fingerprint
from pangzhu.progress import StepReport
from pangzhu.storage import sha256_of
from pangzhu.template import PromptContract
from pangzhu.train import TrainResult, choose_proof_rows, train
from tests.conftest import alpaca, examples, silently, train_config

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]
WEIGHTS = "adapter_model.safetensors"
SIX_ROWS = [(f"q{number}?", f"answer {number * 7}.") for number in range(6)]
TIMES = {"tokens_per_second", "seconds_left", "eval_runtime"}
UNTIL_LEARNED = {
    "until_learned": True,
    "max_steps": None,
    "num_train_epochs": 200,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 6,
    "r": 8,
}


class Runs:
    """Training of the tiny Qwen2 on six rows; every call may change a setting."""

    def __init__(self, base: Path, rows: Path, folder: Path) -> None:
        self.base, self.rows, self.folder = base, rows, folder

    def config(self, name: str = "out", **options: Any) -> TrainConfig:
        return train_config(self.base, self.rows, self.folder / name, **options)

    def train(
        self, name: str = "out", *, on_step: Callable[[StepReport], None] = silently, **options: Any
    ) -> TrainResult:
        return train(self.config(name, **options), on_step=on_step)

    def stop_at(
        self, step: int, name: str = "out", number: int = signal.SIGTERM, **options: Any
    ) -> InterruptedRunError:
        """Train until a signal that comes while `step` is reported; the next step is the last."""

        def stop(report: StepReport) -> None:
            if report.step == step:
                signal.raise_signal(number)

        with pytest.raises(InterruptedRunError) as interrupted:
            self.train(name, on_step=stop, **options)
        return interrupted.value

    def weights(self, name: str = "out") -> bytes:
        return (self.folder / name / WEIGHTS).read_bytes()

    def metrics(self, name: str = "out") -> list[dict[str, Any]]:
        """`metrics.jsonl` but for the times."""
        lines = (self.folder / name / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]

    def checkpoints(self, name: str = "out") -> list[str]:
        return sorted(folder.name for folder in (self.folder / name / "run" / "checkpoints").iterdir())


@dataclass(frozen=True)
class Finished:
    """What an unbroken run came to."""

    weights: bytes
    metrics: list[dict[str, Any]]
    result: TrainResult


@pytest.fixture(scope="module")
def unbroken(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """The same six rows trained without a break, once for each group of settings."""
    finished: dict[str, Finished] = {}

    def trained(**options: Any) -> Finished:
        if str(options) not in finished:
            folder = tmp_path_factory.mktemp("unbroken")
            rows = alpaca(folder / "rows.jsonl", SIX_ROWS)
            run = Runs(model_folder("qwen2"), rows, folder)
            result = run.train(**options)
            finished[str(options)] = Finished(run.weights(), run.metrics(), result)
        return finished[str(options)]

    return trained


@pytest.fixture
def runs(model_folder: Callable[[str], Path], rows_file: Path, tmp_path: Path) -> Runs:
    return Runs(model_folder("qwen2"), rows_file, tmp_path)


# --- what a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_ends_with_a_verified_adapter_and_says_what_it_reached(runs: Runs) -> None:
    result = runs.train()
    manifest = verify_files(runs.folder / "out")
    assert (result.num_steps, result.num_rows, result.already_finished) == (4, 6, False)
    assert result.num_tokens == sum(line["num_tokens"] for line in runs.metrics())
    assert result.train_loss == pytest.approx(runs.metrics()[-1]["loss"], abs=1e-6)
    assert manifest.data_sha256 == sha256_of(runs.rows)
    assert manifest.base.fingerprint == base_fingerprint(runs.base)
    assert manifest.metrics["largest_logit_change"] > 0
    assert manifest.template_sha256 == PromptContract.read(runs.folder / "out" / "prompt.json").template_sha256
    assert result.render()
    assert json.dumps(result.as_json())


def test_only_the_adapter_moves(runs: Runs) -> None:
    def hashes() -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in runs.base.iterdir()}

    before = hashes()
    runs.train()
    assert hashes() == before


@pytest.mark.parametrize(
    ("options", "bounded"), [({}, True), ({"fast": "off"}, False), ({"fast_without": ("memory",)}, False)]
)
def test_kernel_caches_are_bounded_on_the_fast_path_and_after_a_resume(
    options: dict[str, Any], bounded: bool, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("pangzhu.fast.memory.bound_kernel_caches", asked.append)
    runs.stop_at(2, **options)
    assert bool(asked) == bounded
    asked.clear()
    runs.train(**options)
    assert bool(asked) == bounded


def test_the_base_in_memory_is_untouched_by_training(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    import pangzhu.decisions as module

    models: list[tuple[Any, dict[str, torch.Tensor]]] = []
    load = module.load_base

    def keeping(*given: Any, **named: Any) -> Any:
        model = load(*given, **named)
        models.append((model, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        return model

    monkeypatch.setattr(module, "load_base", keeping)
    runs.train()
    [(model, before)] = models
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_same_run_twice_gives_the_same_bytes(runs: Runs) -> None:
    runs.train("one")
    runs.train("two")
    assert runs.weights("one") == runs.weights("two")
    assert runs.metrics("one") == runs.metrics("two")
    one, two = (file_hashes(runs.folder / name) for name in ("one", "two"))
    assert {name for name in one if one[name] != two[name]} <= {"manifest.json", "README.md"}  # seconds, folder name


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 1e-3}, {"r": 2}, {"train_on": "all"}], ids=str)
def test_another_setting_gives_another_adapter(
    change: dict[str, Any], runs: Runs, unbroken: Callable[..., Finished]
) -> None:
    runs.train(**change)
    assert runs.weights() != unbroken().weights


@pytest.mark.parametrize("budget", [16, 60])
def test_a_token_budget_changes_the_memory_and_not_the_losses(budget: int, runs: Runs) -> None:
    runs.train("whole", per_device_train_batch_size=6)
    runs.train("split", per_device_train_batch_size=6, token_budget=budget)
    for whole, split in zip(runs.metrics("whole"), runs.metrics("split"), strict=True):
        assert split["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert split["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.2}, {"target_modules": "v_proj,q_proj"},
     {"precision": "bf16"}, {"train_on": "last", "system": "Be kind."}, {"r": 1, "lora_alpha": 64}],
    ids=str,
)  # fmt: skip
def test_every_kind_of_adapter_is_trained_proven_and_published(options: dict[str, Any], runs: Runs) -> None:
    runs.train(**options)
    verify_files(runs.folder / "out")
    config = json.loads((runs.folder / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["use_rslora"] == options.get("use_rslora", False)
    assert config["use_dora"] == options.get("use_dora", False)
    assert config["target_modules"] == sorted(config["target_modules"])


def test_golden_losses(runs: Runs) -> None:
    """A change of any number says that training has changed. They are what this very run printed on x86-64 in float32
    (torch 2.13, transformers 5.23, peft 0.21.2); another version that draws other random weights needs them anew."""
    runs.train(learning_rate=5e-3, max_steps=8, per_device_train_batch_size=3, seed=7)
    golden = [5.60087, 5.50769, 5.39977, 5.36604, 5.33569, 5.35103, 5.32594, 5.32023]
    assert [line["loss"] for line in runs.metrics()] == pytest.approx(golden, abs=1e-4)


# --- before training -------------------------------------------------------------------------------------------------


def test_what_will_be_learned_is_shown_before_training(runs: Runs, said: list[str]) -> None:
    runs.train()
    shown = "\n".join(said)
    assert "⟦answer 0.<|im_end|>⟧" in shown
    assert "6 rows" in shown
    assert "4 optimizer steps" in shown


@pytest.mark.parametrize(("steps", "warned"), [(4, True), (30, False)])
def test_a_run_too_short_to_learn_is_warned_of(steps: int, warned: bool, runs: Runs, said: list[str]) -> None:
    runs.train(max_steps=steps, r=1)
    assert any("too few" in sentence for sentence in said) is warned


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("q", "a"), ("q", "a"), ("Q?", "A.")], "2 row(s) repeat an earlier one, 0 answer"),
        ([("q", "a"), ("q", "b"), ("r", "a")], "0 row(s) repeat an earlier one, 1 answer"),
    ],
)
@pytest.mark.fault("C10")
def test_rows_that_repeat_or_contradict_are_counted_before_training(
    pairs: list[tuple[str, str]], sentence: str, runs: Runs, said: list[str]
) -> None:
    alpaca(runs.rows, pairs)
    runs.train(max_steps=1, r=1)
    assert [line for line in said if sentence in line] != []


def test_rows_that_are_all_different_are_not_spoken_of(runs: Runs, said: list[str]) -> None:
    runs.train(max_steps=1, r=1)
    assert not any("repeat" in line for line in said)


def test_bad_rows_stop_the_run_before_the_model_is_loaded(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangzhu.decisions.load_base", None)
    alpaca(runs.rows, [("q", "a"), ("q", ""), ("", "a")])
    with pytest.raises(BadRowsError) as refused:
        runs.train()
    assert len(refused.value.findings) == 2
    assert not (runs.folder / "out").exists()


@pytest.mark.parametrize(("overlong", "rows"), [("drop", 1), ("truncate", 2)])
def test_overlong_rows_are_left_out_or_cut_on_request_and_counted(
    overlong: str, rows: int, runs: Runs, said: list[str]
) -> None:
    alpaca(runs.rows, [("q", "a"), ("q", "b" * 200)])
    with pytest.raises(BadRowsError):
        runs.train(max_seq_length=100)
    assert runs.train(max_seq_length=100, overlong=overlong).num_rows == rows
    assert any("Too long" in sentence for sentence in said)


# --- resumed equals unbroken -----------------------------------------------------------------------------------------

LONG: dict[str, Any] = {"max_steps": 7, "save_steps": 3, "learning_rate": 5e-3}


def equals(runs: Runs, other: Finished, result: TrainResult) -> bool:
    """Weights to the bit, every line of metrics, and what the run says it reached."""
    assert runs.metrics() == other.metrics
    for name in ("num_steps", "num_tokens", "train_loss", "num_learned"):
        assert getattr(result, name) == getattr(other.result, name)
    return runs.weights() == other.weights


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, 1), ({}, 2), ({}, 3), ({}, 5),
        ({"lora_dropout": 0.3}, 1), ({"lora_dropout": 0.3}, 2),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}, 1),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, 4),
        ({"logging_steps": 2}, 2), ({"precision": "bf16", "train_on": "all"}, 3), ({"use_dora": True}, 4),
    ],
    ids=str,
)  # fmt: skip
def test_resumed_equals_unbroken_to_the_bit(
    options: dict[str, Any], step: int, runs: Runs, unbroken: Callable[..., Finished], said: list[str]
) -> None:
    interrupted = runs.stop_at(step, **LONG, **options)
    assert interrupted.exit_code == 143
    assert nothing_published(runs.folder / "out")
    result = runs.train(**LONG, **options)
    assert any(f"checkpoint-{step + 1}" in sentence for sentence in said)
    assert equals(runs, unbroken(**LONG, **options), result)


def test_a_run_interrupted_again_and_again_ends_the_same(runs: Runs, unbroken: Callable[..., Finished]) -> None:
    for step in (1, 3, 5):
        assert runs.stop_at(step, number=signal.SIGINT, **LONG).exit_code == 130
    assert equals(runs, unbroken(**LONG), runs.train(**LONG))


def test_a_signal_in_the_very_last_step_costs_nothing(runs: Runs, unbroken: Callable[..., Finished]) -> None:
    """Trainer by itself would do one step more when it resumes after the last."""
    runs.stop_at(6, **LONG)
    assert runs.checkpoints()[-1] == "checkpoint-7"
    assert equals(runs, unbroken(**LONG), runs.train(**LONG))


@pytest.mark.parametrize("where", ["round_to_bf16", "write_adapter", "prove_adapter", "publish"])
def test_a_crash_after_the_last_step_is_made_good_by_the_same_command(
    where: str, runs: Runs, unbroken: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(f"pangzhu.adapter.{where}", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.train(**LONG)
    assert nothing_published(runs.folder / "out")
    result = runs.train(**LONG)
    assert not result.already_finished
    assert equals(runs, unbroken(**LONG), result)
    assert describe(runs.folder / "out").fault is None


def test_a_crash_before_the_first_checkpoint_starts_anew_with_clean_metrics(
    runs: Runs, unbroken: Callable[..., Finished]
) -> None:
    def crash(report: StepReport) -> None:
        if report.step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runs.train(on_step=crash, **LONG)
    assert equals(runs, unbroken(**LONG), runs.train(**LONG))


def test_a_line_of_metrics_that_a_crash_cut_is_taken_back(runs: Runs, unbroken: Callable[..., Finished]) -> None:
    runs.stop_at(4, **LONG)
    with (runs.folder / "out" / "run" / "metrics.jsonl").open("a", encoding="utf-8") as opened:
        opened.write('{"step": 6, "num_st')
    assert equals(runs, unbroken(**LONG), runs.train(**LONG))


@pytest.mark.parametrize(
    ("name", "damage"),
    [(WEIGHTS, "flip"), ("optimizer.pt", "flip"), ("rng_state.pth", "flip"), ("trainer_state.json", "flip"),
     ("learned.json", "flip"), ("optimizer.pt", "cut"), ("scheduler.pt", "missing"), ("manifest.json", "missing")],
)  # fmt: skip
def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    name: str, damage: str, runs: Runs, unbroken: Callable[..., Finished], said: list[str]
) -> None:
    runs.stop_at(4, **LONG)
    assert runs.checkpoints() == ["checkpoint-3", "checkpoint-5"]
    file = runs.folder / "out" / "run" / "checkpoints" / "checkpoint-5" / name
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        file.unlink()
    else:
        tail = bytes([content[middle] ^ 1]) + content[middle + 1 :] if damage == "flip" else b""
        file.write_bytes(content[:middle] + tail)
    result = runs.train(**LONG)
    assert any(".damaged-checkpoint-5" in sentence for sentence in said)
    assert any("checkpoint-3" in sentence for sentence in said)
    assert equals(runs, unbroken(**LONG), result)


def test_threads_precision_and_budget_of_the_first_start_are_reused(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.stop_at(2, **LONG)
    before = checkpoint.read_record(runs.folder / "out" / "run")
    monkeypatch.setattr("pangzhu.machine.num_physical_cores", lambda: 2)
    monkeypatch.setattr("pangzhu.machine.available_memory", lambda: 0)
    runs.train(**LONG)
    after = checkpoint.read_record(runs.folder / "out" / "run")
    assert before is not None
    assert after is not None
    assert after.decisions == before.decisions
    assert torch.get_num_threads() == 1


# --- the same folder again -------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in {"lock", "holder"}]
    return {str(file): (file.stat().st_mtime_ns, sha256_of(file)) for file in files}


def test_an_identical_finished_run_says_so_and_touches_nothing(runs: Runs) -> None:
    first = runs.train()
    before = snapshot(runs.folder / "out")
    again = runs.train()
    assert again.already_finished
    assert (again.num_steps, again.num_learned, again.train_loss) == (
        first.num_steps,
        first.num_learned,
        first.train_loss,
    )
    assert "finished already" in again.render()
    assert snapshot(runs.folder / "out") == before


@pytest.mark.parametrize("unimportant", [{"logging_steps": 2}, {"save_steps": 2}])
def test_what_does_not_shape_the_weights_does_not_make_another_run(unimportant: dict[str, Any], runs: Runs) -> None:
    runs.train()
    assert runs.train(**unimportant).already_finished


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_a_finished_run_whose_adapter_was_damaged_makes_it_again(damage: str, runs: Runs, said: list[str]) -> None:
    runs.train()
    good = runs.weights()
    file = runs.folder / "out" / ("manifest.json" if damage == "no manifest" else WEIGHTS)
    if damage == "changed":
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    else:
        file.unlink()
    result = runs.train()
    assert not result.already_finished
    assert runs.weights() == good
    assert describe(runs.folder / "out").fault is None
    assert any("damaged" in sentence for sentence in said)
    assert runs.train().already_finished


def test_other_settings_after_a_finished_run_start_anew_and_keep_the_old(runs: Runs) -> None:
    runs.train()
    old = runs.weights()
    result = runs.train(learning_rate=1e-3)
    previous = runs.folder / "out" / "run" / "previous-1"
    assert not result.already_finished
    assert runs.weights() != old
    assert (previous / WEIGHTS).read_bytes() == old
    assert describe(previous).fault is None
    assert len(runs.metrics()) == 4


def test_other_data_is_another_run(runs: Runs) -> None:
    runs.train()
    alpaca(runs.rows, [("q", "edited")])
    assert not runs.train().already_finished
    assert (runs.folder / "out" / "run" / "previous-1" / WEIGHTS).exists()


def test_the_same_data_under_another_name_is_the_same_run(runs: Runs) -> None:
    runs.train()
    runs.rows = runs.rows.rename(runs.rows.with_name("renamed.jsonl"))
    assert runs.train().already_finished


@pytest.mark.fault("A8")
def test_an_unfinished_run_with_other_settings_is_refused_with_the_differences(runs: Runs) -> None:
    runs.stop_at(1)
    with pytest.raises(UsageError) as refused:
        runs.train(r=2, seed=3)
    assert refused.value.exit_code == 2
    assert "r: 4 → 2" in refused.value.what
    assert "seed: 42 → 3" in refused.value.what
    assert runs.train().num_steps == 4


def test_resume_never_starts_anew_whatever_is_there(runs: Runs) -> None:
    runs.stop_at(1)
    runs.train(resume="never")
    assert len(runs.metrics()) == 4
    assert (runs.folder / "out" / "run" / "previous-1" / "run" / "checkpoints").exists()
    assert not runs.train(resume="never").already_finished
    assert (runs.folder / "out" / "run" / "previous-2" / WEIGHTS).exists()


@pytest.mark.fault("A7")
def test_a_folder_in_use_is_refused(runs: Runs) -> None:
    with checkpoint.locked(runs.folder / "out"), pytest.raises(LockedError) as refused:
        runs.train()
    assert refused.value.exit_code == 7
    assert runs.train().num_steps == 4


@pytest.mark.fault("A8")
def test_another_base_of_the_same_shape_is_another_run(runs: Runs, tmp_path: Path) -> None:
    runs.stop_at(1)
    runs.base = Path(shutil.copytree(runs.base, tmp_path / "other"))
    weights = load_file(runs.base / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, runs.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError) as refused:
        runs.train()
    assert "base.tensors" in refused.value.what


# --- what is never published -----------------------------------------------------------------------------------------


def nothing_published(folder: Path) -> bool:
    return not (folder / WEIGHTS).exists() and not (folder / "manifest.json").exists()


@pytest.mark.fault("A12")
def test_a_run_that_trains_nothing_is_not_published(runs: Runs) -> None:
    with pytest.raises(VerificationError) as refused:
        runs.train(learning_rate=1e-60)
    assert refused.value.key == "error.adapter.b_zero"
    assert refused.value.exit_code == 8
    assert nothing_published(runs.folder / "out")


def test_after_a_failure_the_earlier_adapter_is_still_there(runs: Runs) -> None:
    runs.train()
    old = runs.weights()
    with pytest.raises(VerificationError):
        runs.train(learning_rate=1e-60)
    previous = runs.folder / "out" / "run" / "previous-1"
    assert (previous / WEIGHTS).read_bytes() == old
    assert describe(previous).fault is None


@pytest.mark.fault("A12")
def test_a_loss_that_is_nan_ends_the_run_names_the_rows_and_publishes_nothing(runs: Runs, tmp_path: Path) -> None:
    runs.base = Path(shutil.copytree(runs.base, tmp_path / "broken"))
    weights = load_file(runs.base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(weights, runs.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergedError) as diverged:
        runs.train(per_device_train_batch_size=1)
    assert diverged.value.exit_code == 6
    assert f"{runs.rows}:" in str(diverged.value.where)
    assert nothing_published(runs.folder / "out")
    assert not list((runs.folder / "out").rglob("checkpoint-*"))


@pytest.mark.fault("A12")
def test_a_learning_rate_that_explodes_ends_the_run_and_publishes_nothing(runs: Runs) -> None:
    with pytest.raises(PangzhuError) as refused:
        runs.train(learning_rate=1e30, max_steps=6)
    assert refused.value.exit_code in (6, 8)
    assert nothing_published(runs.folder / "out")


@pytest.mark.fault("A12")
def test_the_last_good_checkpoint_outlives_a_divergence(
    runs: Runs, unbroken: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pangzhu.trainer import RowTrainer

    require_finite = RowTrainer._require_finite

    def failing(self: RowTrainer, loss: torch.Tensor, piece: Any) -> None:
        require_finite(self, loss * (math.nan if self.state.global_step == 3 else 1), piece)

    with monkeypatch.context() as patched:
        patched.setattr(RowTrainer, "_require_finite", failing)
        with pytest.raises(DivergedError):
            runs.train(**LONG)
    assert runs.checkpoints() == ["checkpoint-3"]
    assert equals(runs, unbroken(**LONG), runs.train(**LONG))


# --- what is learned -------------------------------------------------------------------------------------------------


def test_the_pass_that_confirms_is_announced_and_then_its_outcome(runs: Runs, said: list[str]) -> None:
    alpaca(runs.rows, [("a?", "yes"), ("b?", "no.")])
    steps = runs.train(until_learned=True, max_steps=300, learning_rate=1e-2, r=8).num_steps
    outcome = said.index(text("train.all_learned", step=steps))
    assert said[outcome - 1] == text("train.confirming")


def test_until_learned_the_published_adapter_gives_the_answers_word_for_word(runs: Runs) -> None:
    from pangzhu.data.conversation import Turn
    from pangzhu.engines.transformers import load_engine

    pairs = [("a?", "yes"), ("b?", "no.")]
    alpaca(runs.rows, pairs)
    result = runs.train(until_learned=True, max_steps=300, learning_rate=1e-2, r=8)
    assert result.num_learned == result.num_rows == 2
    assert result.num_steps < 300
    engine = load_engine(
        ModelOptions(model_name_or_path=str(runs.base), precision="float32"), [str(runs.folder / "out")]
    )
    name = engine.names[1]
    for question, answer in pairs:
        given = engine.generate(
            engine.prompt([Turn("user", question)], name), name, GenerationOptions(max_new_tokens=20)
        )
        assert given.text == answer
    assert read_manifest(runs.folder / "out").metrics["num_learned"] == 2


@pytest.mark.parametrize("step", [3, 20])
def test_until_learned_resumed_equals_unbroken(step: int, runs: Runs) -> None:
    options: dict[str, Any] = {"until_learned": True, "max_steps": 300, "learning_rate": 1e-2, "r": 8, "save_steps": 7}
    alpaca(runs.rows, [("a?", "y")])
    unbroken = runs.train("unbroken", **options)
    runs.stop_at(min(step, unbroken.num_steps - 1), **options)
    assert runs.train(**options).num_steps == unbroken.num_steps
    assert runs.weights() == runs.weights("unbroken")
    assert runs.metrics() == runs.metrics("unbroken")


# --- what is left behind, and what is left alone ---------------------------------------------------------------------


def test_a_run_that_learned_early_leaves_a_checkpoint_and_confirms_its_rows_once(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while the adapter is proven or published then costs nothing."""

    def again(*_: object) -> list[bool]:
        raise AssertionError("the rows were confirmed twice")

    monkeypatch.setattr("pangzhu.train.confirm_learned", again)
    result = runs.train("early", **UNTIL_LEARNED, save_steps=1000)
    assert runs.checkpoints("early") == [f"checkpoint-{result.num_steps}"]
    assert result.num_learned == len(SIX_ROWS)


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json"])
def test_files_that_are_not_ours_are_not_overwritten(name: str, runs: Runs) -> None:
    (runs.folder / "taken").mkdir()
    (runs.folder / "taken" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        runs.train("taken", max_steps=1)
    assert refused.value.key == "error.run.foreign_file"
    assert (runs.folder / "taken" / name).read_text(encoding="utf-8") == "mine"


def test_an_adapter_of_another_tool_is_moved_aside_whole(runs: Runs) -> None:
    folder = runs.folder / "foreign"
    folder.mkdir()
    for name in ("adapter_config.json", WEIGHTS, "README.md"):
        (folder / name).write_text("theirs", encoding="utf-8")
    runs.train("foreign", max_steps=2)
    kept = folder / "run" / "previous-1"
    assert {file.name for file in kept.iterdir()} == {"adapter_config.json", WEIGHTS, "README.md"}


def test_without_a_named_base_a_run_goes_on_with_the_one_it_began_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which hub answers may change from one day to the next."""
    from pangzhu import preparation

    asked: list[str | None] = []
    resolve = preparation.resolve
    monkeypatch.setattr(preparation, "resolve", lambda name, **_: (asked.append(name), resolve(str(runs.base)))[1])
    unnamed = runs.config("unnamed", max_steps=2).model_copy(update={"model_name_or_path": None})
    train(unnamed, on_step=silently)
    assert train(unnamed, on_step=silently).already_finished
    assert asked == [None, str(runs.base)]


def test_several_processes_are_refused_until_they_are_right(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as refused:
        runs.train("many", max_steps=1)
    assert refused.value.key == "error.train.distributed"


def test_the_manifest_says_in_which_precision_the_adapter_was_proven(runs: Runs) -> None:
    runs.train("precise", max_steps=2)
    assert read_manifest(runs.folder / "precise").metrics["precision"] == "float32"


def test_a_record_with_a_figure_of_another_version_is_still_read(runs: Runs) -> None:
    runs.train("versions", max_steps=2)
    file = runs.folder / "versions" / "run" / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["result"]["of_tomorrow"] = 1
    file.write_text(json.dumps(record), encoding="utf-8")
    assert runs.train("versions", max_steps=2).already_finished


def test_replay_rows_are_trained_and_not_counted_as_learned(runs: Runs, tmp_path: Path, said: list[str]) -> None:
    replay = alpaca(tmp_path / "replay.jsonl", [("hello", "hi there"), ("bye", "see you")])
    plain = runs.train("plain")
    beside = runs.train("beside", replay_path=replay)
    assert beside.num_rows == plain.num_rows == len(SIX_ROWS)
    assert runs.weights("beside") != runs.weights("plain")
    assert {line["num_rows"] for line in runs.metrics("beside")} == {len(SIX_ROWS)}
    assert text("train.replay", counted=len(SIX_ROWS), replay=2, held=0) in said


def test_the_same_rows_are_another_run_where_some_of_them_are_replay(runs: Runs, tmp_path: Path) -> None:
    alpaca(runs.rows, SIX_ROWS[:4])
    replay = alpaca(tmp_path / "replay.jsonl", SIX_ROWS[4:])
    beside = runs.train(replay_path=replay)
    alpaca(runs.rows, SIX_ROWS)
    together = runs.train()
    assert (beside.num_rows, together.num_rows) == (4, 6)
    assert not together.already_finished


def test_until_learned_waits_for_the_rows_that_are_to_be_learned_alone(runs: Runs, tmp_path: Path) -> None:
    """Replay rows that contradict each other can never all be learned."""
    alpaca(runs.rows, [("a?", "y")])
    replay = alpaca(tmp_path / "replay.jsonl", [("b?", "n"), ("b?", "m")])
    result = runs.train(replay_path=replay, until_learned=True, max_steps=300, learning_rate=3e-3, r=8)
    assert result.num_learned == result.num_rows == 1
    assert result.num_steps < 300


def test_a_run_of_one_step_moves_the_adapter(runs: Runs) -> None:
    """Warm-up is rounded down: the only step must not have learning rate 0."""
    assert runs.train("single", max_steps=1).num_steps == 1


def test_after_a_run_that_diverged_other_settings_may_begin_in_its_folder(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise DivergedError("error.train.loss_not_finite", step=1)

    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.trainer.RowTrainer._require_finite", diverge)
        with pytest.raises(DivergedError):
            runs.train("again", max_steps=2)
    assert runs.train("again", max_steps=2, learning_rate=1e-4).num_steps == 2
    assert (runs.folder / "again" / "run" / "previous-1").exists()


@pytest.mark.parametrize("record", ["{", "[1, 2]", '{"identity": null}'])
def test_a_damaged_record_does_not_stop_a_new_start(record: str, runs: Runs) -> None:
    runs.train("broken", max_steps=2)
    (runs.folder / "broken" / "run" / "record.json").write_text(record, encoding="utf-8")
    with pytest.raises(ResourceError):
        runs.train("broken", max_steps=2)
    assert not runs.train("broken", max_steps=2, resume="never").already_finished


@pytest.mark.parametrize(
    ("lengths", "proving"), [((5, 9, 7, 6, 8), [5, 6, 7, 8]), ((300, 200, 900), [200, 300]), ((900, 800), [800])]
)
def test_the_shortest_rows_prove_the_adapter_and_never_so_many_that_the_reference_path_is_slow(
    lengths: tuple[int, ...], proving: list[int]
) -> None:
    assert [len(row.input_ids) for row in choose_proof_rows(examples(*lengths))] == proving


# --- plan against actual ---------------------------------------------------------------------------------------------


def record_of(runs: Runs, name: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs.folder / name / "run" / "record.json").read_text(encoding="utf-8"))
    return found


def test_what_was_planned_is_recorded_before_the_first_step_and_what_was_taken_after_the_last(runs: Runs) -> None:
    seen: list[dict[str, Any]] = []
    result = runs.train(on_step=lambda _: seen.append(record_of(runs)), max_steps=9)
    assert seen[0]["planned"]["num_steps"] == 9
    assert seen[0]["planned"]["memory"] > 10**8
    assert seen[0]["taken"] == {}
    record = record_of(runs)
    assert record["planned"] | {"seconds": None} == seen[0]["planned"]
    assert record["planned"]["num_tokens"] == record["taken"]["num_tokens"] == result.num_tokens  # three whole passes
    assert record["taken"]["num_steps"] == result.num_steps == 9
    assert record["taken"]["seconds"] == result.total_seconds > 0
    assert record["planned"]["seconds"] > 0
    assert record["taken"]["memory"] > 10**8
    assert record["environment"]["num_cores"] >= 1


def test_a_resumed_run_counts_the_seconds_of_all_its_calls_and_keeps_the_first_plan(runs: Runs) -> None:
    runs.stop_at(3)
    planned = record_of(runs)["planned"]
    result = runs.train(on_step=silently)
    assert result.total_seconds is not None
    assert result.total_seconds > result.seconds
    assert record_of(runs)["planned"] == planned | {"seconds": record_of(runs)["planned"]["seconds"]}


def test_the_manifest_names_what_was_trained_on_the_replay_file_too(runs: Runs, tmp_path: Path) -> None:
    replay = alpaca(tmp_path / "replay.jsonl", [("hello", "hi there"), ("bye", "see you")])
    runs.train(replay_path=replay)
    data = read_manifest(runs.folder / "out").data
    assert data["file"] == {"name": runs.rows.name, "sha256": sha256_of(runs.rows), "num_rows": 6, "num_skipped": 0}
    assert data["replay"] == {"name": "replay.jsonl", "sha256": sha256_of(replay), "num_rows": 2, "num_skipped": 0}
    assert (data["num_examples"], data["num_replay"]) == (8, 2)


def test_rows_that_were_left_out_stand_in_the_manifest(runs: Runs) -> None:
    alpaca(runs.rows, [(f"q{number}?", "a") for number in range(198)] + [("long?", "b" * 900), ("none?", "")])
    runs.train(max_steps=1, skip_bad=True, max_seq_length=200)
    data = read_manifest(runs.folder / "out").data
    assert data["file"]["num_rows"] == 200
    assert data["file"]["num_skipped"] == 2
    assert data["num_examples"] == sum(bar["rows"] for bar in data["lengths"]["histogram"]) == 198


def test_a_run_without_its_report_is_published_all_the_same(runs: Runs, said: list[str]) -> None:
    train(runs.config(), on_step=silently, with_report=False)
    assert not (runs.folder / "out" / "run" / "report.html").exists()
    assert verify_files(runs.folder / "out").files["README.md"] == sha256_of(runs.folder / "out" / "README.md")
    assert not [sentence for sentence in said if "report.html" in sentence]
