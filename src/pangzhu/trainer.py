"""transformers' Trainer, stepping over our rows: no padding, exact loss, live counts of learned rows.

Trainer keeps its loop, optimizer, scheduler, accumulation and `num_items_in_batch`; what differs is the micro-batch
(`training_step` splits it under the token budget, with the same gradient) and what is told after each step
(`Progress`). A loss or gradient that is not finite stops the run and names the rows.

Left to others: the forward pass (`pangzhu.step`), what happens around the loop (`pangzhu.train`).
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pangzhu import checkpoint
from pangzhu.adapter import round_to_bf16
from pangzhu.batching import MicroBatch, RowDataset, as_micro_batch, collate, lay_end_to_end, split_to_budget
from pangzhu.config import TrainConfig
from pangzhu.errors import DivergedError, InterruptedRunError
from pangzhu.messages import say
from pangzhu.model import trainable_parameters
from pangzhu.plan import StepPlan
from pangzhu.step import RowOutcome, forward_rows
from pangzhu.tokenization import TokenizedExample

if TYPE_CHECKING:
    from peft import PeftModel

LEARNED_FILE = "learned.json"
TRAINER_STATE = "trainer_state.json"  # Trainer's own, in each checkpoint
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, as told to the user and written to `metrics.jsonl`.

    Args:
        step: steps done, of `num_steps`.
        loss: mean over the step's supervised tokens, nats.
        grad_norm: before clipping.
        learned: rows whose latest forward pass predicted every learned token by a margin, of `num_rows`; None where
            dropout hides it.
        num_tokens: tokens since the last report; `tokens_per_second` likewise.
        seconds_left: estimate from this call's steps so far.
    """

    step: int
    num_steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    learned: int | None
    num_rows: int
    num_tokens: int
    tokens_per_second: float
    seconds_left: float


def say_step(report: StepReport) -> None:
    """One line a step."""
    minutes, seconds = divmod(round(report.seconds_left), 60)
    learned = "-" if report.learned is None else report.learned
    values = asdict(report) | {"learned": learned, "left": f"{minutes}:{seconds:02d}"}
    say("train.step", **values)


class Progress:
    """What is known while the steps go on: learned rows, tokens, time; told on and written to `metrics.jsonl`.

    Args:
        metrics_file: one JSON object a logged step is appended here.
        examples: the rows, in the dataset's order.
        steps: the plan.
        on_step: told after every logged step.
    """

    def __init__(
        self,
        metrics_file: Path,
        examples: Sequence[TokenizedExample],
        steps: StepPlan,
        on_step: Callable[[StepReport], None],
    ) -> None:
        self.examples = examples
        self.num_tokens = 0
        self.last_loss = math.nan
        self.finished = False  # no further step is to be done
        self.signal_number: int | None = None
        self.learned = [False] * len(examples)
        self._file = metrics_file
        self._steps = steps
        self._on_step = on_step
        self._since_report = (0, time.perf_counter())  # tokens, when
        self._steps_here = 0
        self._step_loss, self._step_supervised = 0.0, 0
        self._started = time.perf_counter()

    def count(self, batch: MicroBatch, outcomes: Sequence[RowOutcome]) -> None:
        """Take in one micro-batch's outcome."""
        self.num_tokens += batch.num_tokens
        for outcome in outcomes:
            self._step_loss += outcome.loss
            self._step_supervised += outcome.num_supervised
            self.learned[outcome.row_index] = outcome.learned

    def step_done(self) -> None:
        """One optimizer step is over."""
        self._steps_here += 1
        self.last_loss = self._step_loss / max(1, self._step_supervised)
        self._step_loss, self._step_supervised = 0.0, 0

    def report(self, state: TrainerState, logs: dict[str, float], *, sees_learned: bool) -> None:
        """Tell and write a logged step."""
        tokens_before, then = self._since_report
        now = time.perf_counter()
        self._since_report = (self.num_tokens, now)
        seconds_a_step = (now - self._started) / max(1, self._steps_here)
        report = StepReport(
            step=state.global_step,
            num_steps=state.max_steps,
            loss=self.last_loss,
            grad_norm=logs["grad_norm"],
            learning_rate=logs["learning_rate"],
            learned=sum(self.learned) if sees_learned else None,
            num_rows=len(self.learned),
            num_tokens=self.num_tokens - tokens_before,
            tokens_per_second=(self.num_tokens - tokens_before) / max(1e-9, now - then),
            seconds_left=seconds_a_step * (state.max_steps - state.global_step),
        )
        with self._file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(asdict(report)) + "\n")
        self._on_step(report)

    def start(self) -> None:
        """Count from nothing; what an earlier start left in `metrics.jsonl` is taken back."""
        self._file.unlink(missing_ok=True)

    def save(self, folder: Path, step: int) -> None:
        """Keep the counts beside a checkpoint."""
        state = {
            "step": step,
            "learned": self.learned,
            "num_tokens": self.num_tokens,
            "num_tokens_reported": self._since_report[0],
            "last_loss": self.last_loss,
            "finished": self.finished,
        }
        (folder / LEARNED_FILE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on counting from a checkpoint; lines of `metrics.jsonl` after its step are taken back."""
        state = json.loads((folder / LEARNED_FILE).read_text(encoding="utf-8"))
        self.learned, self.num_tokens = state["learned"], state["num_tokens"]
        self.last_loss, self.finished = state["last_loss"], state["finished"]
        self._since_report = (state["num_tokens_reported"], time.perf_counter())
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if _step_of(line) <= state["step"])
            checkpoint.write_atomically(self._file, kept)

    def raise_if_interrupted(self, output_dir: Path) -> None:
        """End an interrupted run with its own exit code; the checkpoint has been written."""
        if self.signal_number is not None:
            raise InterruptedRunError(
                "error.train.interrupted", signal_number=self.signal_number, where=str(output_dir)
            )


class RowTrainer(Trainer):  # type: ignore[misc]  # transformers' classes carry no types
    """Trainer over rows laid end to end.

    Args:
        model: base with its adapter.
        config: the run.
        progress: is told what happens.
        token_budget: most tokens in one forward pass.
    """

    def __init__(self, model: "PeftModel", config: TrainConfig, progress: Progress, *, token_budget: int) -> None:
        self._progress = progress
        self._token_budget = token_budget
        self._sees_learned = config.lora_dropout == 0
        super().__init__(
            model=model,
            args=training_arguments(config, on_cpu=model.device.type == "cpu"),
            train_dataset=RowDataset(progress.examples),
            data_collator=collate,
            callbacks=[_RunCallback(self, config)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # makes Trainer count the supervised tokens of the whole step

    @property
    def progress(self) -> Progress:
        """What is known of the run so far."""
        return self._progress

    @property
    def token_budget(self) -> int:
        """Most tokens in one forward pass."""
        return self._token_budget

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Step until done, until learned, or until a signal asks to stop after the step under way.

        A checkpoint after the last step is only loaded: Trainer by itself would do one step more.
        """
        if resume_from_checkpoint is None:
            self._progress.start()
        else:
            self._progress.restore(Path(resume_from_checkpoint))
        if resume_from_checkpoint is not None and self._progress.finished:
            self._load_from_checkpoint(resume_from_checkpoint)
            self.state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE))
            return
        with _stop_on_signal(self._progress):
            super().train(resume_from_checkpoint=resume_from_checkpoint)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward over one batch, in pieces under the token budget; returns the step's share of the loss."""
        if num_items_in_batch is None:
            raise AssertionError("Trainer did not count the supervised tokens")
        model.train()
        batch = as_micro_batch(inputs).to(self.args.device)
        # DDP averages gradients over processes, while num_items_in_batch counts the tokens of all of them.
        scale = self.accelerator.num_processes / max(1, int(num_items_in_batch))
        total = torch.zeros((), device=self.args.device)
        pieces = split_to_budget(batch, self._token_budget)
        for number, piece in enumerate(pieces, start=1):
            last = number == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(model=model):
                outcome = forward_rows(model, piece)
                loss = outcome.loss_sum * scale
                self._require_finite(loss, piece)
                self.accelerator.backward(loss)
            self._progress.count(piece, outcome.rows)
            total += loss.detach()
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass a step's figures on to the progress; Trainer's closing summary is not a step."""
        if "loss" in logs:
            self._progress.report(self.state, logs, sees_learned=self._sees_learned)
        super().log(logs, start_time)

    def _require_finite(self, loss: torch.Tensor, piece: MicroBatch) -> None:
        if not torch.isfinite(loss.detach()):
            places = ", ".join(str(self._progress.examples[index].location) for index in piece.row_indices)
            raise DivergedError("error.train.loss_not_finite", where=places, step=self.state.global_step + 1)


def training_arguments(config: TrainConfig, *, on_cpu: bool) -> TrainingArguments:
    """Our options as Trainer's; what is not ours to choose is set so that nothing is hidden or logged elsewhere."""
    return TrainingArguments(
        output_dir=str(config.output_dir / checkpoint.RUN / checkpoint.CHECKPOINTS),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=on_cpu,
    )


def confirm_learned(model: "PeftModel", examples: Sequence[TokenizedExample], token_budget: int) -> list[bool]:
    """Whether each row is learned with the weights as they are, by one teacher-forced pass without dropout."""
    learned = [False] * len(examples)
    model.eval()
    with torch.no_grad():
        for piece in split_to_budget(lay_end_to_end(list(enumerate(examples))), token_budget):
            for outcome in forward_rows(model, piece.to(model.device)).rows:
                learned[outcome.row_index] = outcome.learned
    return learned


class _RunCallback(TrainerCallback):  # type: ignore[misc]  # transformers' classes carry no types
    """Between steps: refuse a gradient that is not finite, stop when asked or learned, seal checkpoints."""

    def __init__(self, trainer: RowTrainer, config: TrainConfig) -> None:
        self._trainer = trainer
        self._config = config

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Before the weights move: a NaN would stay in them and in every later checkpoint."""
        parameters = trainable_parameters(self._trainer.model)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise DivergedError("error.train.gradient_not_finite", step=state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """After each optimizer step."""
        progress = self._trainer.progress
        progress.step_done()
        learned = self._config.until_learned and self._all_learned(state)
        if learned:
            say("train.all_learned", step=state.global_step)
        progress.finished = learned or state.global_step >= state.max_steps
        if progress.finished:
            control.should_log = control.should_training_stop = True
        if progress.signal_number is not None:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """A checkpoint's files are there: add ours, seal it, delete what is too old."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._trainer.progress.save(folder, state.global_step)
        checkpoint.seal_checkpoint(folder)
        checkpoint.prune(Path(args.output_dir).parent)

    def _all_learned(self, state: TrainerState) -> bool:
        """Every row was learned when last seen, and a pass with the rounded weights confirms it."""
        progress = self._trainer.progress
        # With dropout a step's own pass does not tell; then a pass is made at the end of each epoch.
        due = all(progress.learned) if self._config.lora_dropout == 0 else float(state.epoch or 0).is_integer()
        if not due:
            return False
        model = self._trainer.model
        with _rounded(model):
            progress.learned = confirm_learned(model, progress.examples, self._trainer.token_budget)
        model.train()
        return all(progress.learned)


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinity for one that a crash cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _rounded(model: "PeftModel") -> Iterator[None]:
    """Inside, the adapter's weights are rounded as they will be saved; after, they are the masters again."""
    masters = [parameter.detach().clone() for parameter in trainable_parameters(model)]
    round_to_bf16(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, master in zip(trainable_parameters(model), masters, strict=True):
                parameter.copy_(master)


@contextmanager
def _stop_on_signal(progress: Progress) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after the step under way; a second one at once."""

    def ask_to_stop(number: int, _: object) -> None:
        progress.signal_number = number
        for name in earlier:
            signal.signal(name, earlier[name])
        with suppress(RuntimeError):  # the signal came while something else was being printed
            say("train.stopping")

    earlier = {name: signal.getsignal(name) for name in STOP_SIGNALS}
    for name in earlier:
        signal.signal(name, ask_to_stop)
    try:
        yield
    finally:
        for name in earlier:
            signal.signal(name, earlier[name])
