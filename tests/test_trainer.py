"""transformers' Trainer over our rows: the same gradient however the rows are cut, the steps that were planned."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, get_cosine_schedule_with_warmup

from pangzhu.config import TrainConfig
from pangzhu.errors import DivergedError, InterruptedRunError
from pangzhu.fast.path import FastPath
from pangzhu.fast.techniques import Techniques
from pangzhu.fast.workspace import Workspace
from pangzhu.plan import StepPlan, plan_steps
from pangzhu.progress import Progress, StepReport
from pangzhu.step import measure_rows
from pangzhu.tokenization import TokenizedDataset, TokenizedExample
from pangzhu.trainer import RowTrainer, confirm_learned
from tests.conftest import build_lora, examples, silently
from tests.test_families import plain_loss

UNEQUAL = (4, 9, 17, 6, 12, 5, 21, 8, 7, 15, 4, 11, 6, 19, 5, 10)  # sixteen rows
pytestmark = pytest.mark.usefixtures("one_core")


def config_for(folder: Path, **options: Any) -> TrainConfig:
    fixed: dict[str, Any] = {"output_dir": folder, "device": "cpu", "max_grad_norm": 0, "max_steps": 1}
    return TrainConfig(**(fixed | options))


def plan_for(rows: list[TokenizedExample], config: TrainConfig) -> StepPlan:
    return plan_steps(TokenizedDataset(tuple(rows), ()), config)


def trainer_for(
    model: Any,
    rows: list[TokenizedExample],
    config: TrainConfig,
    *,
    token_budget: int = 1024,
    on_step: Any = silently,
    fast: bool = False,
) -> RowTrainer:
    run = config.output_dir / "run"
    run.mkdir(parents=True, exist_ok=True)
    progress = Progress(run / "metrics.jsonl", rows, plan_for(rows, config), on_step)
    path = FastPath(model, Techniques(), longest=64) if fast else None
    return RowTrainer(model, config, progress, token_budget=token_budget, fast=path)


class Gradients(TrainerCallback):  # type: ignore[misc]
    """Keeps the gradient of each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        named = model.named_parameters()
        self.steps.append({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})


def gradients(
    folder: Path, *, batch: int, accumulation: int, double: bool, token_budget: int = 1024, fast: bool = False
) -> dict[str, torch.Tensor]:
    """The first optimizer step's gradient through Trainer."""
    model = build_lora()
    if double:
        model.double()
    config = config_for(folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    trainer = trainer_for(model, examples(*UNEQUAL), config, token_budget=token_budget, fast=fast)
    kept = Gradients()
    trainer.add_callback(kept)
    trainer.train()
    return kept.steps[0]


@cache
def reference(*, double: bool) -> dict[str, torch.Tensor]:
    """The mean over all learned tokens of all rows, one row at a time, by the textbook."""
    model, rows = build_lora(), examples(*UNEQUAL)
    if double:
        model.double()
    total = sum(row.num_supervised for row in rows)
    for row in rows:
        (plain_loss(model, row) / total).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def agree(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert mine.keys() == other.keys()
    for name in mine:
        difference = (mine[name] - other[name]).norm() / other[name].norm()
        assert difference < tolerance, f"{name}: {difference}"


# --- trap 4: mean of means -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-6), (False, 1e-4)])
@pytest.mark.parametrize(
    ("batch", "accumulation", "token_budget"),
    [(16, 1, 1024), (4, 4, 1024), (1, 16, 1024), (16, 1, 30), (4, 4, 16), (8, 2, 1)],
)
def test_the_gradient_does_not_depend_on_how_the_rows_of_a_step_are_cut(
    batch: int, accumulation: int, token_budget: int, double: bool, tolerance: float, fast: bool, tmp_path: Path
) -> None:
    through_trainer = gradients(
        tmp_path, batch=batch, accumulation=accumulation, double=double, token_budget=token_budget, fast=fast
    )
    agree(through_trainer, reference(double=double), tolerance)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("most_tokens", [60, 25])
@pytest.mark.fault("A11")
def test_out_of_memory_halves_the_budget_and_the_step_stays_the_same(
    most_tokens: int, fast: bool, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the backward pass, after part of the gradients were added."""
    from pangzhu.batching import MicroBatch
    from pangzhu.step import StepOutcome, forward_rows

    def cramped(model: Any, piece: MicroBatch, *rest: Any) -> StepOutcome:
        outcome = forward_rows(model, piece, *rest)
        if piece.num_tokens > most_tokens:
            outcome.loss_sum.backward()
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")
        return outcome

    monkeypatch.setattr("pangzhu.trainer.forward_rows", cramped)
    found = gradients(tmp_path, batch=8, accumulation=2, double=True, fast=fast)
    agree(found, reference(double=True), 1e-6)
    assert len([sentence for sentence in said if "Memory ran out" in sentence]) >= 1


@pytest.mark.fault("A11")
def test_out_of_memory_gives_the_fast_paths_buffers_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out while a buffer is taken; smaller pieces then take smaller ones."""
    taken: list[tuple[str, int]] = []
    take = Workspace.take

    def cramped(self: Workspace, name: str, shape: Any, like: torch.Tensor, **parts: int) -> torch.Tensor:
        if name == "attended" and shape[0] > 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")
        buffer = take(self, name, shape, like, **parts)
        taken.append((name, buffer.untyped_storage().nbytes()))
        return buffer

    monkeypatch.setattr(Workspace, "take", cramped)
    found = gradients(tmp_path, batch=16, accumulation=1, double=True, fast=True)
    agree(found, reference(double=True), 1e-6)
    sizes = [size for name, size in taken if name == "attention's input"]
    assert sizes[-1] < sizes[0]


@pytest.mark.fault("A11")
def test_a_single_row_that_does_not_fit_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cramped(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")

    monkeypatch.setattr("pangzhu.trainer.forward_rows", cramped)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        gradients(tmp_path, batch=4, accumulation=1, double=False)


def test_rows_of_unequal_length_really_would_show_a_mean_of_means() -> None:
    model, rows = build_lora(), examples(*UNEQUAL)
    for row in rows:
        (plain_loss(model, row) / row.num_supervised / len(rows)).backward()
    wrong = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    right = reference(double=False)
    assert max(float((wrong[name] - right[name]).norm() / right[name].norm()) for name in wrong) > 0.01


def test_trainer_counts_the_learned_tokens_of_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_items_in_batch` is the sum over the step's batches, the last smaller step included."""
    seen: list[tuple[int, int, int]] = []
    training_step = RowTrainer.training_step

    def recording(self: RowTrainer, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        labels = inputs["shift_labels"]
        seen.append((self.state.global_step, int((labels != -100).sum()), int(num_items_in_batch)))
        return training_step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(RowTrainer, "training_step", recording)
    rows = examples(*UNEQUAL[:7])
    config = config_for(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=None, num_train_epochs=1
    )
    trainer_for(build_lora(), rows, config).train()
    for step in (0, 1):
        own = [(labels, items) for at, labels, items in seen if at == step]
        assert {items for _, items in own} == {sum(labels for labels, _ in own)}
    assert [at for at, _, _ in seen] == [0, 0, 0, 1]
    assert sum(labels for _, labels, _ in seen) == sum(row.num_supervised for row in rows)


def test_without_the_count_of_learned_tokens_no_step_is_made(tmp_path: Path) -> None:
    trainer = trainer_for(build_lora(), examples(5), config_for(tmp_path))
    with pytest.raises(AssertionError):
        trainer.training_step(trainer.model, {}, None)


WORKER = """
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
import torch
from safetensors.torch import save_file
from tests.conftest import build_lora, examples
from tests.test_trainer import Gradients, UNEQUAL, config_for, trainer_for

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), sys.argv[2]
config = config_for(folder / rank, per_device_train_batch_size=4, gradient_accumulation_steps=2)
trainer = trainer_for(build_lora(), examples(*UNEQUAL), config, token_budget=30)
kept = Gradients()
trainer.add_callback(kept)
trainer.train()
assert trainer.accelerator.num_processes == 2
step = {name.removeprefix("module."): gradient for name, gradient in kept.steps[0].items()}
save_file(step, folder / f"{rank}.safetensors")
"""


@pytest.mark.slow
def test_over_two_processes_both_hold_the_gradient_of_one(tmp_path: Path) -> None:
    """Two processes of 2 x 4 rows each are one step of the same sixteen rows."""
    from safetensors.torch import load_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), rank],
            cwd=root,
            env=shared | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for worker in workers:
        _, complaints = worker.communicate(timeout=120)
        assert worker.returncode == 0, complaints
    one = reference(double=False)
    for rank in ("0", "1"):
        agree(load_file(tmp_path / f"{rank}.safetensors"), one, 1e-4)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_rows", "options"),
    [
        (6, {"per_device_train_batch_size": 2, "num_train_epochs": 2}),
        (7, {"per_device_train_batch_size": 2, "num_train_epochs": 1}),
        (7, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 2}),
        (5, {"per_device_train_batch_size": 8, "num_train_epochs": 3}),
        (7, {"per_device_train_batch_size": 2, "num_train_epochs": 1.5}),
        (7, {"per_device_train_batch_size": 3, "num_train_epochs": 0.1}),
        (3, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "num_train_epochs": 2.5}),
        (7, {"per_device_train_batch_size": 2, "max_steps": 5, "num_train_epochs": 9}),
        (1, {"per_device_train_batch_size": 1, "max_steps": 3}),
    ],
)
def test_the_planned_steps_are_those_trainer_takes(num_rows: int, options: dict[str, Any], tmp_path: Path) -> None:
    rows = examples(*[5] * num_rows)
    config = config_for(tmp_path, **({"max_steps": None} | options))
    trainer = trainer_for(build_lora(r=1), rows, config)
    trainer.train()
    assert trainer.state.global_step == plan_for(rows, config).num_steps == trainer.state.max_steps


def test_the_last_smaller_step_is_trained(tmp_path: Path) -> None:
    """Five rows by two are three steps a pass, and every row is in one of them."""
    rows = examples(5, 6, 7, 8, 9)
    config = config_for(tmp_path, per_device_train_batch_size=2, max_steps=None, num_train_epochs=1)
    trainer = trainer_for(build_lora(), rows, config)
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer._progress.num_tokens == 5 + 6 + 7 + 8 + 9


@pytest.mark.parametrize("scheduler", ["cosine", "constant"])
def test_warm_up_and_decay_are_transformers_own(scheduler: str, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    config = config_for(tmp_path, max_steps=10, warmup_ratio=0.25, learning_rate=1e-3, lr_scheduler_type=scheduler)
    trainer_for(build_lora(r=1), examples(5, 6), config, on_step=reports.append).train()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(0.25 * 10), 10)
    expected = []
    for _ in range(10):
        expected.append(1e-3 if scheduler == "constant" else optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [report.learning_rate for report in reports] == pytest.approx(expected)


def test_the_optimizer_moves_float32_masters_even_by_a_hair(tmp_path: Path) -> None:
    """A bf16 adapter would stand still at such a learning rate."""
    model = build_lora()
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    config = config_for(tmp_path, learning_rate=1e-6, lr_scheduler_type="constant")
    trainer = trainer_for(model, examples(9, 12), config)
    trainer.train()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == ("lora_" in name), name
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert all(value.dtype == torch.float32 for value in states)


# --- what is told ------------------------------------------------------------------------------------------------------


def test_every_step_is_told_with_its_own_loss_tokens_and_norm(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    rows = examples(5, 6, 7, 8)
    config = config_for(tmp_path, per_device_train_batch_size=4, max_steps=2)
    trainer_for(build_lora(), rows, config, on_step=reports.append).train()
    assert [(report.step, report.num_steps, report.num_tokens) for report in reports] == [(1, 2, 26), (2, 2, 26)]
    total = sum(row.num_supervised for row in rows)
    with torch.no_grad():
        mean = sum(plain_loss(build_lora(), row) for row in rows) / total
    assert reports[0].loss == pytest.approx(float(mean), rel=1e-5)
    norm = torch.stack([gradient.norm() for gradient in _plain_gradients(rows)]).norm()
    assert reports[0].grad_norm == pytest.approx(float(norm), rel=1e-4)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [report.loss for report in reports]


def _plain_gradients(rows: list[TokenizedExample]) -> list[torch.Tensor]:
    model = build_lora()
    total = sum(row.num_supervised for row in rows)
    for row in rows:
        (plain_loss(model, row) / total).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_the_last_step_is_told_even_between_two_reports(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    config = config_for(tmp_path, max_steps=5, logging_steps=2, per_device_train_batch_size=2)
    trainer_for(build_lora(r=1), examples(5, 5), config, on_step=reports.append).train()
    assert [(report.step, report.num_tokens) for report in reports] == [(2, 20), (4, 20), (5, 10)]


def test_with_dropout_the_learned_count_is_not_pretended_to_be_known(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    config = config_for(tmp_path, lora_dropout=0.5)
    trainer_for(build_lora(lora_dropout=0.5), examples(5), config, on_step=reports.append).train()
    assert reports[0].learned is None


def test_the_learned_count_is_what_a_pass_over_the_rows_finds(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    rows = examples(5, 6, 7, prompt=4)
    config = config_for(tmp_path, max_steps=40, learning_rate=0.005, lr_scheduler_type="constant", max_grad_norm=1)
    model = build_lora(r=8)
    trainer_for(model, rows, config, on_step=reports.append).train()
    counts = [report.learned for report in reports]
    assert counts[0] == 0
    assert counts[-1] == 3
    assert sum(confirm_learned(model, list(enumerate(rows)), 1024).values()) == 3
    assert confirm_learned(model, list(enumerate(rows)), 1) == confirm_learned(model, list(enumerate(rows)), 1024)


def test_rows_that_are_looked_at_in_lots_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build_lora(), list(enumerate(examples(5, 6, 7, 8, 9)))
    together = measure_rows(model, rows, 1024)
    monkeypatch.setattr("pangzhu.step.TOKENS_TOGETHER", 11)
    apart = measure_rows(model, iter(rows), 1024)
    assert [outcome.row_index for outcome in apart] == list(range(5))
    assert [outcome.loss for outcome in apart] == pytest.approx([outcome.loss for outcome in together], rel=1e-5)


def test_learned_rows_are_found_without_moving_anything() -> None:
    model, rows = build_lora(lora_dropout=0.5), examples(5, 6)
    state = torch.get_rng_state()
    before = [parameter.clone() for parameter in model.parameters()]
    confirm_learned(model, list(enumerate(rows)), 1024)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(mine, other) for mine, other in zip(before, model.parameters(), strict=True))


# --- nothing to learn, too much ----------------------------------------------------------------------------------------


def test_batches_without_a_learned_token_are_steps_without_nan(tmp_path: Path) -> None:
    """Trap 5: half of the batches, then all of them."""
    reports: list[StepReport] = []
    rows = [*examples(6, 7), *examples(5, 4, prompt=9)]
    config = config_for(tmp_path, per_device_train_batch_size=1, max_steps=None, num_train_epochs=2)
    model = build_lora()
    trainer = trainer_for(model, rows, config, on_step=reports.append)
    trainer.train()
    assert trainer.state.global_step == plan_for(rows, config).num_steps == 8
    assert all(math.isfinite(report.loss) and math.isfinite(report.grad_norm) for report in reports)
    assert sorted(report.loss for report in reports)[:4] == [0.0] * 4
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.fault("A12")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path: Path) -> None:
    model, rows = build_lora(), examples(6, 7, 8)
    poisoned = TokenizedExample((*rows[1].input_ids[:3], 5, 9), rows[1].labels[:5], rows[1].location)
    config = config_for(tmp_path, per_device_train_batch_size=1, max_steps=None, num_train_epochs=1)
    trainer = trainer_for(model, [rows[0], poisoned, rows[2]], config)
    model.get_input_embeddings().weight.data[5, 3] = math.nan
    with pytest.raises(DivergedError) as diverged:
        trainer.train()
    assert diverged.value.exit_code == 6
    assert diverged.value.key == "error.train.loss_not_finite"
    assert diverged.value.where == "rows.jsonl:2"


@pytest.mark.fault("A12")
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path: Path) -> None:
    """Even where no step is logged: a NaN would stay in every later checkpoint."""
    model = build_lora()
    masters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters[3].register_hook(lambda gradient: gradient * math.inf)
    config = config_for(tmp_path, max_steps=3, logging_steps=100)
    with pytest.raises(DivergedError) as diverged:
        trainer_for(model, examples(6), config).train()
    assert diverged.value.key == "error.train.gradient_not_finite"
    assert diverged.value.values["step"] == 1
    assert all(parameter.isfinite().all() for parameter in masters)
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


# --- stopping ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("A4")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_under_way(
    number: signal.Signals, tmp_path: Path, said: list[str]
) -> None:
    def stop(report: StepReport) -> None:
        if report.step == 2:
            signal.raise_signal(number)

    earlier = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    trainer = trainer_for(build_lora(r=1), examples(5), config_for(tmp_path, max_steps=9), on_step=stop)
    trainer.train()
    with pytest.raises(InterruptedRunError) as interrupted:
        trainer._progress.raise_if_interrupted(tmp_path)
    assert interrupted.value.exit_code == 128 + number
    assert trainer.state.global_step == 3
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-3" / "manifest.json").exists()
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == earlier
    assert len(said) == 1


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, as at a terminal; a shell's background job ignores it from its start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.fault("A4")
@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = trainer_for(build_lora(r=1), examples(5), config_for(tmp_path, max_steps=9), on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_signal_while_something_is_printed_does_not_break_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reentrant(*_: Any, **__: Any) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("pangzhu.trainer.say", reentrant)

    def stop(report: StepReport) -> None:
        if report.step == 1:
            signal.raise_signal(signal.SIGTERM)

    trainer = trainer_for(build_lora(r=1), examples(5), config_for(tmp_path, max_steps=9), on_step=stop)
    trainer.train()
    assert trainer._progress.signal_number == signal.SIGTERM


def test_no_more_than_two_sealed_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer_for(build_lora(r=1), examples(5), config_for(tmp_path, max_steps=7, save_steps=2)).train()
    kept = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["checkpoint-6", "checkpoint-7"]


def test_until_learned_stops_when_rounded_weights_confirm_it(tmp_path: Path, said: list[str]) -> None:
    rows = examples(5, 6, prompt=4)
    config = config_for(
        tmp_path, until_learned=True, max_steps=200, learning_rate=0.005, lr_scheduler_type="constant", max_grad_norm=1
    )
    model = build_lora(r=8)
    trainer = trainer_for(model, rows, config)
    trainer.train()
    assert 1 < trainer.state.global_step < 200
    assert trainer._progress.learned == [True, True]
    assert any(str(trainer.state.global_step) in sentence for sentence in said)


def test_few_missing_rows_are_looked_at_again_at_the_end_of_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row counts as it was when last seen: the first of a pass may have been learned by the end of it."""
    asked: list[list[int]] = []

    def confirm(_: Any, rows: Iterable[tuple[int, TokenizedExample]], *__: Any) -> dict[int, bool]:
        asked.append([index for index, _ in rows])
        return dict.fromkeys(asked[-1], True)

    monkeypatch.setattr("pangzhu.trainer.confirm_learned", confirm)
    config = config_for(tmp_path, until_learned=True, max_steps=40, per_device_train_batch_size=2)
    trainer = trainer_for(build_lora(r=1), examples(*[5] * 10), config)
    monkeypatch.setattr(trainer._progress, "count", lambda *_: None)
    trainer._progress.learned = [True] * 8 + [False] * 2
    trainer.train()
    assert trainer.state.global_step == 5  # five steps a pass
    assert asked == [[8, 9], list(range(10))]


def test_many_missing_rows_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangzhu.trainer.confirm_learned", lambda *_: pytest.fail("a pass that can save nothing"))
    config = config_for(tmp_path, until_learned=True, max_steps=5, per_device_train_batch_size=2)
    trainer = trainer_for(build_lora(r=1), examples(*[5] * 10), config)
    monkeypatch.setattr(trainer._progress, "count", lambda *_: None)
    trainer._progress.learned = [True] * 7 + [False] * 3
    trainer.train()
    assert trainer.state.global_step == 5


def test_until_learned_with_dropout_looks_at_the_end_of_each_pass(tmp_path: Path) -> None:
    rows = examples(5, 6, 7, prompt=4)
    config = config_for(
        tmp_path,
        until_learned=True,
        max_steps=300,
        learning_rate=0.005,
        max_grad_norm=1,
        lr_scheduler_type="constant",
        lora_dropout=0.05,
        per_device_train_batch_size=2,
    )
    model = build_lora(r=8, lora_dropout=0.05)
    trainer = trainer_for(model, rows, config)
    trainer.train()
    assert trainer.state.global_step < 300
    assert trainer.state.global_step % 2 == 0  # two steps a pass
    assert all(confirm_learned(model, list(enumerate(rows)), 1024).values())
