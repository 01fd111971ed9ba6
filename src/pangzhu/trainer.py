"""transformers' Trainer, stepping over our rows: no padding, exact loss, live counts of learned rows.

Trainer keeps its loop, optimizer, scheduler, accumulation and `num_items_in_batch`; what differs is the micro-batch
(`training_step` splits it under the token budget, with the same gradient) and what is told after each step
(`Progress`). A loss or gradient that is not finite stops the run and names the rows.

Left to others: the forward pass (`pangzhu.step`), what the validation rows say (`pangzhu.validation`), what happens around
the loop (`pangzhu.train`).
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pangzhu import checkpoint, storage
from pangzhu.adapter import rounded
from pangzhu.batching import MicroBatch, RowDataset, as_micro_batch, collate
from pangzhu.config import TrainConfig
from pangzhu.errors import DivergedError, is_out_of_memory
from pangzhu.fast.path import FastPath
from pangzhu.messages import say
from pangzhu.model import trainable_parameters
from pangzhu.progress import Progress, stop_on_signal
from pangzhu.step import NOTHING_HELD, HeldToBase, forward_rows, measure_rows, num_computed, split_rows
from pangzhu.tokenization import TokenizedExample
from pangzhu.trackers import continue_tensorboard
from pangzhu.validation import Validation, ValidationReport

if TYPE_CHECKING:
    from peft import PeftModel

FEW_MISSING = 0.2  # share of the rows; a pass over more costs more than it can save
TRAINER_STATE = "trainer_state.json"  # Trainer's own, in each checkpoint


@dataclass(frozen=True, slots=True)
class Beside:
    """Rows beside those that are to be learned.

    Args:
        held: trained rows that are held to the base instead of to their labels.
        validation: rows that are measured on the way; None where there are none.
    """

    held: HeldToBase = NOTHING_HELD
    validation: Validation | None = None


NOTHING_BESIDE = Beside()


class RowTrainer(Trainer):  # type: ignore[misc]  # transformers' classes carry no types
    """Trainer over rows laid end to end.

    Args:
        model: base with its adapter.
        config: the run.
        progress: is told what happens.
        token_budget: most tokens in one forward pass.
        fast: the model's fast path; None takes the reference path.
        beside: rows beside those that are to be learned.
    """

    def __init__(
        self,
        model: "PeftModel",
        config: TrainConfig,
        progress: Progress,
        *,
        token_budget: int,
        fast: FastPath | None = None,
        beside: Beside = NOTHING_BESIDE,
    ) -> None:
        self._progress = progress
        self._validation = beside.validation
        self._fast = fast
        self._held = beside.held
        self._token_budget = token_budget
        self._sees_learned = config.lora_dropout == 0
        super().__init__(
            model=model,
            args=training_arguments(config, progress.num_steps, on_cpu=model.device.type == "cpu"),
            train_dataset=RowDataset(progress.examples),
            data_collator=collate,
            callbacks=[_RunCallback(progress, config, token_budget, fast, beside.validation)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # makes Trainer count the supervised tokens of the whole step

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Step until done, until learned, or until a signal asks to stop after the step under way.

        A checkpoint after the last step is only loaded: Trainer by itself would do one step more.
        """
        folder = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        step = self._begin(folder)
        if folder is not None and self._progress.finished:
            self.load_weights(folder)
            self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE))
            if self._validation is not None and self._validation.last is None:
                self._measure(self._validation)  # the rows were given after the last step
            return
        run_dir = Path(self.args.output_dir).parent
        continue_tensorboard(self.callback_handler.callbacks, run_dir, first_step=step + 1)
        with stop_on_signal(self._progress):
            super().train(resume_from_checkpoint=resume_from_checkpoint)

    def load_weights(self, folder: Path) -> None:
        """Put a checkpoint's masters into the model."""
        self._load_from_checkpoint(str(folder))

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Measure the validation rows with the weights as they would be saved; asked for by the run's callback, after a step.

        Trainer's own evaluation would pad rows into batches.
        """
        if self._validation is None:
            raise AssertionError("an evaluation without validation rows")
        figures = self._measure(self._validation).as_logs()
        self.log(dict(figures))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        self._progress.restart_clock()
        return figures

    def _measure(self, validation: Validation) -> ValidationReport:
        step = self.state.global_step
        with rounded(self.model):
            report = validation.measure(self.model, step=step, token_budget=self._token_budget, fast=self._fast)
        self._progress.write(report.as_record())
        return report

    def _begin(self, folder: Path | None) -> int:
        """Count from nothing or from a checkpoint; gives the steps done."""
        if folder is None:
            self._progress.start()
            return 0
        if self._validation is not None:
            self._validation.restore(folder)
        return self._progress.restore(folder)

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
        pieces = self._split(batch)
        while pieces:
            piece, *rest = pieces
            with nullcontext() if not rest else self.accelerator.no_sync(model=model):
                loss = self._within_memory(model, piece, scale)
            if loss is None:
                pieces = [smaller for piece in pieces for smaller in self._split(piece)]
            else:
                total += loss
                pieces = rest
        return total

    def _split(self, batch: MicroBatch) -> list[MicroBatch]:
        return split_rows(batch, self._token_budget, self._fast)

    def _within_memory(self, model: torch.nn.Module, piece: MicroBatch, scale: float) -> torch.Tensor | None:
        """One piece forward and backward; its share of the loss, or None where memory ran out.

        Then the budget is halved, the fast path's buffers are given back, and the gradients are again those of the pieces
        before: the step stays the same step.
        """
        divisible = len(piece.row_lengths) > 1
        before = [p.grad.clone() if divisible and p.grad is not None else None for p in trainable_parameters(model)]
        try:
            outcome = forward_rows(model, piece, self._fast, self._held)
            loss = outcome.loss_sum * scale
            self._require_finite(loss, piece)
            self.accelerator.backward(loss)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not divisible:
                raise
        else:
            self._progress.count(piece, outcome.rows)
            return loss.detach()
        for parameter, gradient in zip(trainable_parameters(model), before, strict=True):
            parameter.grad = gradient
        self._token_budget = min(self._token_budget, num_computed(piece, self._fast)) // 2
        if self._fast is not None:
            self._fast.release()
        say("train.out_of_memory", budget=self._token_budget)
        return None

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Trainer's own files of a checkpoint, in a folder of their own."""
        with storage.library_writes(Path(self.args.output_dir).parent):
            super()._save_checkpoint(model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass a step's figures on to the progress, and its own to the trackers; Trainer's closing summary is not a step."""
        if "loss" in logs:
            report = self._progress.report(self.state.global_step, logs, sees_learned=self._sees_learned)
            logs = logs | report.as_logs()
        super().log(logs, start_time)

    def _require_finite(self, loss: torch.Tensor, piece: MicroBatch) -> None:
        if not torch.isfinite(loss.detach()):
            places = ", ".join(str(self._progress.examples[index].location) for index in piece.row_indices)
            raise DivergedError("error.train.loss_not_finite", where=places, step=self.state.global_step + 1)


def training_arguments(config: TrainConfig, num_steps: int, *, on_cpu: bool) -> TrainingArguments:
    """Our options as Trainer's; what is not ours to choose is set so that nothing is hidden, or told where nobody asked for it.

    Warm-up steps are rounded down: Trainer would round up, and the only step of a short run would have learning rate 0.
    """
    return TrainingArguments(
        output_dir=str(config.output_dir / checkpoint.RUN / checkpoint.CHECKPOINTS),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=int(config.warmup_ratio * num_steps),
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to=list(config.report_to),
        run_name=config.output_dir.resolve().name,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=on_cpu,
    )


def confirm_learned(
    model: "PeftModel", rows: Iterable[tuple[int, TokenizedExample]], token_budget: int, fast: FastPath | None = None
) -> dict[int, bool]:
    """Whether each row, by its index, is learned with the weights as they are: one teacher-forced pass without dropout."""
    return {outcome.row_index: outcome.learned for outcome in measure_rows(model, rows, token_budget, fast)}


class _RunCallback(TrainerCallback):  # type: ignore[misc]  # transformers' classes carry no types
    """Between steps: refuse a gradient that is not finite, stop when asked, learned or no longer better, seal checkpoints."""

    def __init__(
        self,
        progress: Progress,
        config: TrainConfig,
        token_budget: int,
        fast: FastPath | None = None,
        validation: Validation | None = None,
    ) -> None:
        self._progress = progress
        self._config = config
        self._token_budget = token_budget
        self._fast = fast
        self._validation = validation

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: "PeftModel",
        **_: object,
    ) -> None:
        """Before the weights move: a NaN would stay in them and in every later checkpoint."""
        parameters = trainable_parameters(model)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise DivergedError("error.train.gradient_not_finite", step=state.global_step + 1)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: "PeftModel",
        **_: object,
    ) -> None:
        """After each optimizer step: stop when done, learned or asked to, and then keep a checkpoint."""
        progress = self._progress
        progress.step_done()
        learned = self._config.until_learned and self._all_learned(model, state)
        if learned:
            say("train.all_learned", step=state.global_step)
        progress.finished = learned or state.global_step >= state.max_steps
        if progress.finished:
            control.should_log = control.should_save = control.should_training_stop = True
        if self._validation is not None and self._validation.is_due(state.global_step, finished=progress.finished):
            control.should_log = control.should_evaluate = True
        if progress.signal_number is not None:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """The validation rows were measured: keep the best weights, stop where nothing gets better or where asked to."""
        progress, validation = self._progress, self._validation
        if validation is None:
            return
        if validation.is_wanted(state.global_step):
            control.should_save = True
        if validation.is_exhausted and not progress.finished:
            validation.say_exhausted()
            progress.finished = True
        if progress.finished or progress.signal_number is not None:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """A checkpoint's files are there: add ours, seal it, delete what is too old."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._progress.save(folder, state.global_step)
        if self._validation is not None:
            self._validation.keep(folder)
        checkpoint.seal_checkpoint(folder)
        checkpoint.prune(Path(args.output_dir).parent)

    def _all_learned(self, model: "PeftModel", state: TrainerState) -> bool:
        """Every row was learned when last seen, and a pass with the rounded weights confirms it.

        A row last seen early in a pass may have been learned since: where few are missing at the end of one, they are
        looked at again. With dropout a step's own pass does not tell, so all are.
        """
        progress = self._progress
        missing = [index for index, learned in enumerate(progress.learned) if not learned]
        few = len(missing) <= FEW_MISSING * len(progress.learned) or self._config.lora_dropout > 0
        if missing and not (few and float(state.epoch or 0).is_integer()):
            return False
        say("train.confirming")
        with rounded(model):
            if missing:
                self._look_again(model, missing)
            if all(progress.learned):
                self._look_again(model, range(len(progress.learned)))
                progress.confirmed = all(progress.learned)
        model.train()
        return progress.confirmed

    def _look_again(self, model: "PeftModel", indices: Iterable[int]) -> None:
        rows = ((index, self._progress.examples[index]) for index in indices)
        for index, learned in confirm_learned(model, rows, self._token_budget, self._fast).items():
            self._progress.learned[index] = learned
