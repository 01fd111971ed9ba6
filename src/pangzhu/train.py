"""LoRA fine-tuning: `train(config) -> TrainResult`.

The stages, in order: prepare base and rows (labels proven), plan the steps, open the run folder (start, go on, or say it
is done), load the base and attach LoRA, let transformers' Trainer step, confirm what was learned with the rounded
weights, prove the adapter and publish it.

Left to others: one forward pass (`pangzhu.step`), Trainer's loop with our batches (`pangzhu.trainer`), the run folder
(`pangzhu.checkpoint`), the adapter folder (`pangzhu.adapter`).

Try it: `train(TrainConfig(output_dir="out", model_name_or_path="packaged:smollm2-135m-instruct"))`.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pangzhu import adapter, checkpoint, machine, plan
from pangzhu.card import model_card
from pangzhu.config import RunOptions, TrainConfig
from pangzhu.messages import say, text
from pangzhu.model import attach_lora, base_fingerprint, load_base, trainable_parameters
from pangzhu.preparation import (
    PreparedBase,
    PreparedRows,
    decide_device,
    label_rows,
    prepare_base,
    read_dataset,
    require_trainable,
)
from pangzhu.tokenization import supervised_preview
from pangzhu.trainer import Progress, RowTrainer, confirm_learned, say_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftModel
    from transformers import PreTrainedModel

    from pangzhu.trainer import StepReport

REJECTED = "rejected.txt"  # rows left out by --skip_bad, beside the record
NUM_PROOF_ROWS = 4
# Settings that leave the weights as they are: another value is still the same run.
NOT_IDENTITY = frozenset({*RunOptions.model_fields, "hub", "dataset_path", "model_name_or_path", "revision"})


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run reached. `seconds` are those of the optimizer steps of this call; `num_learned` counts rows whose
    every learned token the published weights predict by a margin."""

    output_dir: Path
    base_name: str
    num_steps: int
    num_rows: int
    num_learned: int
    train_loss: float
    num_tokens: int
    seconds: float
    already_finished: bool = False

    def as_json(self) -> dict[str, object]:
        """The result as plain values."""
        return asdict(self) | {"output_dir": str(self.output_dir)}

    def render(self) -> str:
        """The result as a sentence."""
        key = "train.already_finished" if self.already_finished else "train.done"
        return text(key, **self.as_json())


def train(config: TrainConfig, *, on_step: "Callable[[StepReport], None]" = say_step) -> TrainResult:
    """Fine-tune an adapter as configured and publish it in `config.output_dir`.

    Args:
        config: the run.
        on_step: told after every logged optimizer step.

    Raises:
        PangzhuError: bad rows, no such model, a folder in use, NaN, an adapter that cannot be proven, or an interruption.
    """
    dataset = read_dataset(config)
    base = prepare_base(config, system=config.system)
    return train_rows(config, base, label_rows(dataset, config, base), on_step=on_step)


def train_rows(
    config: TrainConfig,
    base: PreparedBase,
    rows: PreparedRows,
    *,
    on_step: "Callable[[StepReport], None]" = say_step,
) -> TrainResult:
    """The second half of `train`, from rows that are labelled: for scripts that show the stages one by one.

    Raises:
        PangzhuError: as `train`.
    """
    require_trainable(rows, skip_bad=config.skip_bad)
    steps = plan.plan_steps(rows.tokenized, config)
    _show(base, rows, steps)
    with checkpoint.locked(config.output_dir) as run_dir:
        record = checkpoint.open_run(config.output_dir, _identity(config, base, rows), resume=config.resume == "auto")
        if record.state == "finished":
            fault = adapter.describe(config.output_dir).fault
            if fault is None:
                return replace(TrainResult(**record.result | {"output_dir": config.output_dir}), already_finished=True)
            say("train.adapter_damaged", fault=fault)
            record = replace(record, state="running")
        _keep_rejects(run_dir, rows)
        return _run(config, base, rows, _Run(run_dir, record, steps, on_step))


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is under way: its folder, its record, its plan, and who is told."""

    folder: Path
    record: checkpoint.RunRecord
    steps: plan.StepPlan
    on_step: "Callable[[StepReport], None]"


def _run(config: TrainConfig, base: PreparedBase, rows: PreparedRows, run: _Run) -> TrainResult:
    """From an open run folder to a published adapter."""
    resumed_from = checkpoint.newest_valid(run.folder)
    model, decisions = _load_model(config, base, rows, run.record.decisions)
    record = replace(run.record, decisions=decisions)
    checkpoint.write_record(run.folder, record)
    progress = Progress(run.folder / checkpoint.METRICS, rows.tokenized.examples, run.steps, run.on_step)
    trainer = RowTrainer(model, config, progress, token_budget=decisions["token_budget"])
    if resumed_from:
        say("train.resumed", checkpoint=resumed_from.name)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    seconds = time.perf_counter() - started
    progress.raise_if_interrupted(config.output_dir)
    adapter.round_to_bf16(model)
    say("train.confirming")
    learned = confirm_learned(model, rows.tokenized.examples, decisions["token_budget"])
    result = TrainResult(
        output_dir=config.output_dir,
        base_name=base.source.name,
        num_steps=int(trainer.state.global_step),
        num_rows=len(learned),
        num_learned=sum(learned),
        train_loss=round(progress.last_loss, 6),
        num_tokens=progress.num_tokens,
        seconds=round(seconds, 2),
    )
    _publish(config, base, rows, run=run, model=model, result=result)
    checkpoint.write_record(run.folder, replace(record, state="finished", result=result.as_json()))
    return result


def _keep_rejects(run_dir: Path, rows: PreparedRows) -> None:
    """Write down the rows that `--skip_bad` left out, and why."""
    if rows.findings:
        checkpoint.write_atomically(run_dir / REJECTED, "".join(f"{finding}\n" for finding in rows.findings))
        say("data.rejects_kept", file=run_dir / REJECTED, rows=len(rows.findings))


def _load_model(
    config: TrainConfig, base: PreparedBase, rows: PreparedRows, earlier: dict[str, Any]
) -> "tuple[PeftModel, dict[str, Any]]":
    """The base with a fresh adapter, and what was decided: precision, token budget, threads, device. A resumed run
    reuses what its first start decided."""
    import torch
    from transformers import set_seed

    decisions = earlier or _decide(config, base)
    torch.set_num_threads(decisions["num_threads"])
    model = load_base(base.source.folder, precision=decisions["precision"], device=decisions["device"])
    if "token_budget" not in decisions:
        decisions |= {"token_budget": config.token_budget or _token_budget(model, rows)}
    set_seed(config.seed)
    lora = attach_lora(model, config)
    say(
        "train.model",
        trainable=sum(parameter.numel() for parameter in trainable_parameters(lora)),
        precision=decisions["precision"],
        threads=decisions["num_threads"],
        budget=decisions["token_budget"],
    )
    return lora, decisions


def _decide(config: TrainConfig, base: PreparedBase) -> dict[str, Any]:
    """Device, threads and number format; a probe, not the processor's name, decides the last."""
    device = decide_device(config.device)
    precision: Literal["bf16", "float32"]
    evidence: dict[str, Any] = {}
    if config.precision != "auto":
        precision = config.precision
    elif device == "cuda":
        precision = "bf16"
    else:
        probe = machine.probe_precision_for(base.source.folder)
        precision, evidence = probe.chosen, asdict(probe)
        say("train.probe", chosen=probe.chosen, bf16=probe.bf16_gflops, float32=probe.float32_gflops)
    return {
        "device": device,
        "precision": precision,
        "num_threads": machine.num_physical_cores(),
        "probe": evidence,
    }


def _token_budget(model: "PreTrainedModel", rows: PreparedRows) -> int:
    shape = plan.ModelShape(
        num_layers=model.config.num_hidden_layers,
        hidden_size=model.config.hidden_size,
        intermediate_size=model.config.intermediate_size,
        vocab_size=model.config.vocab_size,
        weight_bytes=model.get_memory_footprint(),
    )
    share = rows.tokenized.num_supervised / rows.tokenized.num_tokens
    return plan.choose_token_budget(shape, supervised_share=share, free_bytes=machine.available_memory())


def _identity(config: TrainConfig, base: PreparedBase, rows: PreparedRows) -> dict[str, str]:
    """What makes this run this run: settings that shape the weights, and hashes of what they are applied to."""
    settings = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    identity = {name: str(value) for name, value in settings.items()}
    identity |= {f"base.{part}": value for part, value in asdict(base_fingerprint(base.source.folder)).items()}
    identity |= {"data": rows.dataset.sha256[:16], "template": base.contract.template_sha256[:16]}
    return identity


def _publish(
    config: TrainConfig,
    base: PreparedBase,
    rows: PreparedRows,
    *,
    run: _Run,
    model: "PeftModel",
    result: TrainResult,
) -> None:
    """Write, prove, and only then put the adapter where it is looked for."""
    from pangzhu.batching import lay_end_to_end

    staged = run.folder / "staged"
    recorded = adapter.BaseRecord(
        name=str(base.source.folder.resolve()) if base.source.origin == "folder" else base.source.name,
        public_id=base.source.public_id,
        revision=base.source.revision,
        fingerprint=base_fingerprint(base.source.folder),
    )
    adapter.write_adapter(staged, model, tokenizer=base.tokenizer, contract=base.contract, base=recorded)
    proof_rows = list(enumerate(rows.tokenized.examples[:NUM_PROOF_ROWS]))
    change = adapter.prove_adapter(staged, model, lay_end_to_end(proof_rows).to(model.device))
    say("train.proven", change=change)
    (staged / adapter.CARD).write_text(model_card(config, recorded, result.as_json()), encoding="utf-8")
    manifest = adapter.Manifest(
        base=recorded,
        data_sha256=rows.dataset.sha256,
        template_sha256=base.contract.template_sha256,
        files=adapter.file_hashes(staged),
        versions=adapter.library_versions(),
        metrics=result.as_json() | {"output_dir": None, "largest_logit_change": change},
    )
    adapter.publish(staged, config.output_dir, manifest)


def _show(base: PreparedBase, rows: PreparedRows, steps: plan.StepPlan) -> None:
    """Say before training what will be learned: base, counts, batch arithmetic, one example with its learned part."""
    say("train.base", why=base.source.why)
    tokenized = rows.tokenized
    say(
        "train.rows",
        path=rows.dataset.path,
        rows=steps.num_rows,
        tokens=steps.num_tokens,
        supervised=steps.num_supervised,
        share=100 * steps.num_supervised / steps.num_tokens,
        longest=tokenized.longest,
    )
    if tokenized.num_dropped or tokenized.num_truncated:
        say("train.overlong", dropped=tokenized.num_dropped, truncated=tokenized.num_truncated)
    say(
        "train.steps",
        steps=steps.num_steps,
        rows_per_step=steps.rows_per_step,
        per_epoch=steps.steps_per_epoch,
        passes=steps.passes,
    )
    if steps.too_few:
        say("train.too_few_steps", steps=steps.num_steps, passes=steps.passes)
    preview = supervised_preview(base.tokenizer, tokenized.examples[0])
    say("train.preview", preview="".join(f"⟦{run}⟧" if learned else run for run, learned in preview))
