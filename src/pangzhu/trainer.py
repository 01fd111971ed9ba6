"""transformers' Trainer, stepping over our rows: no padding, exact loss, live counts of learned rows.

Trainer keeps its loop, optimizer, scheduler, accumulation and `num_items_in_batch`; what differs is the micro-batch
(`training_step` splits it under the token budget, with the same gradient) and what is told after each step
(`Progress`). A loss or gradient that is not finite stops the run and names the rows.

Left to others: the forward pass (`pangzhu.step`), what happens around the loop (`pangzhu.train`).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pangzhu import checkpoint, storage
from pangzhu.adapter import round_to_bf16
from pangzhu.batching import MicroBatch, RowDataset, as_micro_batch, collate, lay_end_to_end
from pangzhu.config import TrainConfig
from pangzhu.errors import DivergedError, is_out_of_memory
from pangzhu.fast.path import FastPath
from pangzhu.messages import say
from pangzhu.model import trainable_parameters
from pangzhu.progress import Progress, stop_on_signal
from pangzhu.step import forward_rows, num_computed, split_rows
from pangzhu.tokenization import TokenizedExample

if TYPE_CHECKING:
    from peft import PeftModel

FEW_MISSING = 0.2  # share of the rows; a pass over more costs more than it can save
TRAINER_STATE = "trainer_state.json"  # Trainer's own, in each checkpoint


class RowTrainer(Trainer):  # type: ignore[misc]  # transformers' classes carry no types
    """Trainer over rows laid end to end.

    Args:
        model: base with its adapter.
        config: the run.
        progress: is told what happens.
        token_budget: most tokens in one forward pass.
        fast: the model's fast path; None takes the reference path.
    """

    def __init__(
        self,
        model: "PeftModel",
        config: TrainConfig,
        progress: Progress,
        *,
        token_budget: int,
        fast: FastPath | None = None,
    ) -> None:
        self._progress = progress
        self._fast = fast
        self._token_budget = token_budget
        self._sees_learned = config.lora_dropout == 0
        super().__init__(
            model=model,
            args=training_arguments(config, progress.num_steps, on_cpu=model.device.type == "cpu"),
            train_dataset=RowDataset(progress.examples),
            data_collator=collate,
            callbacks=[_RunCallback(progress, config, token_budget, fast)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # makes Trainer count the supervised tokens of the whole step

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
        with stop_on_signal(self._progress):
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
            outcome = forward_rows(model, piece, self._fast)
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
        """Pass a step's figures on to the progress; Trainer's closing summary is not a step."""
        if "loss" in logs:
            self._progress.report(self.state.global_step, logs, sees_learned=self._sees_learned)
        super().log(logs, start_time)

    def _require_finite(self, loss: torch.Tensor, piece: MicroBatch) -> None:
        if not torch.isfinite(loss.detach()):
            places = ", ".join(str(self._progress.examples[index].location) for index in piece.row_indices)
            raise DivergedError("error.train.loss_not_finite", where=places, step=self.state.global_step + 1)


def training_arguments(config: TrainConfig, num_steps: int, *, on_cpu: bool) -> TrainingArguments:
    """Our options as Trainer's; what is not ours to choose is set so that nothing is hidden or logged elsewhere.

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
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=on_cpu,
    )


def confirm_learned(
    model: "PeftModel", rows: Sequence[tuple[int, TokenizedExample]], token_budget: int, fast: FastPath | None = None
) -> dict[int, bool]:
    """Whether each row, by its index, is learned with the weights as they are: one teacher-forced pass without dropout."""
    learned: dict[int, bool] = {}
    model.eval()
    with torch.no_grad():
        for piece in split_rows(lay_end_to_end(rows), token_budget, fast):
            for outcome in forward_rows(model, piece.to(model.device), fast).rows:
                learned[outcome.row_index] = outcome.learned
    return learned


class _RunCallback(TrainerCallback):  # type: ignore[misc]  # transformers' classes carry no types
    """Between steps: refuse a gradient that is not finite, stop when asked or learned, seal checkpoints."""

    def __init__(
        self, progress: Progress, config: TrainConfig, token_budget: int, fast: FastPath | None = None
    ) -> None:
        self._progress = progress
        self._config = config
        self._token_budget = token_budget
        self._fast = fast

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
        if progress.signal_number is not None:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """A checkpoint's files are there: add ours, seal it, delete what is too old."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._progress.save(folder, state.global_step)
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
        with _rounded(model):
            if missing:
                self._look_again(model, missing)
            if all(progress.learned):
                self._look_again(model, range(len(progress.learned)))
                progress.confirmed = all(progress.learned)
        model.train()
        return progress.confirmed

    def _look_again(self, model: "PeftModel", indices: Iterable[int]) -> None:
        rows = [(index, self._progress.examples[index]) for index in indices]
        for index, learned in confirm_learned(model, rows, self._token_budget, self._fast).items():
            self._progress.learned[index] = learned


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
