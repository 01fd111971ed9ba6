"""LoRA fine-tuning: `train(config) -> TrainResult`.

The stages, in order: prepare base and rows (labels proven), plan the steps, open the run folder (start, go on, or say it
is done), load the base and attach LoRA, let transformers' Trainer step, take the weights that validation rows found best,
confirm what was learned with the rounded weights, prove the adapter and publish it.

Left to others: one forward pass (`pangzhu.step`), Trainer's loop with our batches (`pangzhu.trainer`), the run folder
(`pangzhu.checkpoint`), the adapter folder (`pangzhu.adapter`).

Try it: `train(TrainConfig(output_dir="out", model_name_or_path="packaged:smollm2-135m-instruct"))`.
"""

import gc
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from heapq import nsmallest
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import adapter, checkpoint, machine, plan, storage
from pangzhu.account import Account
from pangzhu.announcing import say_model, say_plan
from pangzhu.card import model_card
from pangzhu.config import ModelOptions, RunOptions, TrainConfig, ValidationOptions
from pangzhu.data_summary import DataSummary, summarize
from pangzhu.decisions import Decisions, bound_caches, choose_path, decide, load_model, plan_run_disk
from pangzhu.errors import DivergedError, UsageError, VerificationError
from pangzhu.measured_rows import lengths_of
from pangzhu.messages import say, text
from pangzhu.model import base_fingerprint, trainable_parameters
from pangzhu.own_words import add_own_words, hold_to_base
from pangzhu.preparation import (
    PreparedBase,
    PreparedRows,
    label_rows,
    prepare_training_base,
    read_dataset,
    require_trainable,
)
from pangzhu.progress import Progress, say_step
from pangzhu.report.build import REPORT, build_run_page, write_run_report
from pangzhu.report.run_facts import RunFacts
from pangzhu.restraint import weaken
from pangzhu.trackers import choose_trackers, say_trackers
from pangzhu.trainer import Beside, RowTrainer, confirm_learned
from pangzhu.validation import Validation, ValidationReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft import PeftModel

    from pangzhu.fast.path import FastPath
    from pangzhu.progress import StepReport
    from pangzhu.tokenization import TokenizedExample

REJECTED = "rejected.txt"  # rows left out by --skip_bad, beside the record
NUM_PROOF_ROWS = 4
MOST_PROOF_TOKENS = (
    512  # of several rows together: the proof takes the reference path, whose attention grows with their square
)
# Settings that leave the weights as they are: another value is still the same run.
NOT_IDENTITY = frozenset(
    {
        *RunOptions.model_fields,
        *ModelOptions.model_fields,
        *ValidationOptions.model_fields,  # as far as they decide, they are the validation's own identity
        "dataset_path",
        "replay_path",
        "validation_path",
        "skip_bad",
        "allow_control_tokens",
    }
) - {"precision", "device"}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run reached. `seconds` are those of the optimizer steps of this call, `total_seconds` those of all calls (None
    where one of 0.1.0 did not count them); `num_learned` counts rows whose every learned token the published weights predict
    by a margin. `published_step` is the step of these weights, and the validation figures are theirs; None where there are
    no validation rows. `weakened_to` is the share of the trained strength that is published, None where all of it is."""

    output_dir: Path
    base_name: str
    precision: str
    num_steps: int
    num_rows: int
    num_learned: int
    train_loss: float
    num_tokens: int
    seconds: float
    total_seconds: float | None = None
    already_finished: bool = False
    weakened_to: float | None = None
    published_step: int | None = None
    validation_loss: float | None = None
    validation_learned: int | None = None
    num_validation_rows: int | None = None

    def with_validation(self, report: ValidationReport) -> "TrainResult":
        """The same, and what the validation rows said of the weights that are published."""
        return replace(
            self,
            published_step=report.step,
            validation_loss=round(report.loss, 6),
            validation_learned=report.learned,
            num_validation_rows=report.num_rows,
        )

    def as_json(self) -> dict[str, object]:
        """The result as plain values."""
        return asdict(self) | {"output_dir": str(self.output_dir)}

    def render(self) -> str:
        """The result as a sentence."""
        key = "train.already_finished" if self.already_finished else "train.done"
        return text(key, **self.as_json())


def train(
    config: TrainConfig, *, on_step: "Callable[[StepReport], None]" = say_step, with_report: bool = True
) -> TrainResult:
    """Fine-tune an adapter as configured and publish it in `config.output_dir`.

    Args:
        config: the run.
        on_step: told after every logged optimizer step.
        with_report: write the page of the run; who asks the adapter next writes one that says more.

    Raises:
        PangzhuError: bad rows, no such model, a folder in use, NaN, an adapter that cannot be proven, or an interruption.
    """
    choose_trackers(config.report_to)  # one that is missing is known before anything is fetched
    dataset = read_dataset(config)
    base = prepare_training_base(config)
    return train_rows(config, base, label_rows(dataset, config, base), on_step=on_step, with_report=with_report)


def train_rows(
    config: TrainConfig,
    base: PreparedBase,
    rows: PreparedRows,
    *,
    on_step: "Callable[[StepReport], None]" = say_step,
    with_report: bool = True,
) -> TrainResult:
    """The second half of `train`, from rows that are labelled: for scripts that show the stages one by one.

    Raises:
        PangzhuError: as `train`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("error.train.distributed", where="WORLD_SIZE")
    config = config.model_copy(update={"report_to": choose_trackers(config.report_to)})
    require_trainable(rows, skip_bad=config.skip_bad)
    rows = add_own_words(rows, config, base)
    steps = plan.plan_steps(rows.tokenized, config)
    summary = summarize(rows)
    validation = Validation.planned(rows, steps, config)
    say_plan(base, rows, steps, summary)
    if validation:
        validation.announce(rows.dataset)
    with checkpoint.locked(config.output_dir) as run_dir:
        identity = _identity(config, base, rows) | (validation.identity if validation else {})
        record = checkpoint.open_run(config.output_dir, identity, resume=config.resume == "auto")
        if record.state == "finished":
            fault = adapter.describe(config.output_dir).fault
            if fault is None:
                if not (run_dir / REPORT).exists():  # the run was cut off between its last two files
                    write_run_report(config.output_dir)
                return _finished_result(record, config.output_dir)
            say("train.adapter_damaged", fault=fault)
            record = replace(record, state="running")
        _keep_rejects(run_dir, rows)
        try:
            result = _run(config, base, rows, _Run(run_dir, record, steps, summary, validation, on_step))
        except (DivergedError, VerificationError):  # the same settings would fail again: let others begin here
            checkpoint.write_record(run_dir, replace(record, state="failed"))
            raise
        if with_report:
            write_run_report(config.output_dir)
    gc.collect()  # Trainer and its callbacks refer to each other and would keep the model in memory
    return result


def _finished_result(record: checkpoint.RunRecord, output_dir: Path) -> TrainResult:
    """What the record says of a finished run, whichever version wrote it."""
    known = {field.name for field in fields(TrainResult)}
    kept = {name: value for name, value in record.result.items() if name in known}
    return TrainResult(**kept | {"output_dir": output_dir, "already_finished": True})


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is under way: its folder, its record, its plan, its data in figures, what it measures on the way, and who is
    told."""

    folder: Path
    record: checkpoint.RunRecord
    steps: plan.StepPlan
    summary: DataSummary
    validation: Validation | None
    on_step: "Callable[[StepReport], None]"


def _run(config: TrainConfig, base: PreparedBase, rows: PreparedRows, run: _Run) -> TrainResult:
    """From an open run folder to a published adapter."""
    resumed_from = checkpoint.newest_valid(run.folder)
    checkpoint.prune(run.folder)  # a crash may have come before it
    bound_caches(config, rows)
    decisions, record = _decide(config, base, rows, run)
    storage.make_folder(run.folder / checkpoint.CHECKPOINTS)
    model = load_model(config, base, decisions)
    say_model(model, decisions)
    _require_room(config, base, run=run, model=model)
    progress = Progress(
        run.folder / checkpoint.METRICS,
        rows.tokenized.examples,
        run.steps,
        run.on_step,
        num_replay=rows.tokenized.num_replay,
    )
    fast = choose_path(config, model, longest=rows.longest)
    budget = decisions.token_budget
    beside = Beside(
        hold_to_base(model, rows.tokenized, weight=config.replay_weight, token_budget=budget, fast=fast), run.validation
    )
    trainer = RowTrainer(model, config, progress, token_budget=budget, fast=fast, beside=beside)
    say_trackers(config.report_to, run.folder)
    if resumed_from:
        say("train.resumed", checkpoint=resumed_from.name)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    seconds = time.perf_counter() - started
    taken = Account.taken(progress, num_steps=int(trainer.state.global_step))
    progress.raise_if_interrupted(config.output_dir)
    validated = run.validation and _load_published(trainer, run.validation, run.folder, all_learned=progress.confirmed)
    adapter.round_to_bf16(model)
    learned = progress.learned if progress.confirmed else _confirm(model, rows, decisions.token_budget, fast)
    weakened_to = _weaken(model, rows, learned, budget, fast) if config.weaken_to_learned else None
    if run.validation and validated and weakened_to:  # what it found is no longer what is published
        validated = run.validation.measure(model, step=validated.step, token_budget=budget, fast=fast)
    result = TrainResult(
        output_dir=config.output_dir,
        base_name=base.source.name,
        precision=decisions.precision,
        num_steps=taken.num_steps,
        num_rows=len(learned),
        num_learned=sum(learned),
        train_loss=round(progress.last_loss, 6),
        num_tokens=taken.num_tokens,
        seconds=round(seconds, 2),
        total_seconds=taken.seconds,
        weakened_to=weakened_to,
    )
    if validated:
        result = result.with_validation(validated)
    planned = record.planned and record.planned | {"seconds": progress.planned_seconds}
    finished = replace(record, state="finished", result=result.as_json(), planned=planned, taken=asdict(taken))
    _publish(config, base, rows, run=replace(run, record=finished), model=model)
    checkpoint.write_record(run.folder, finished)
    return result


def _require_room(config: TrainConfig, base: PreparedBase, *, run: _Run, model: "PeftModel") -> None:
    """Refuse a run whose files would not fit on the disk."""
    disk = plan_run_disk(
        config,
        base.source.folder,
        sum(parameter.numel() for parameter in trainable_parameters(model)),
        num_steps=run.steps.num_steps,
        num_bests=run.validation.num_bests if run.validation else 0,
    )
    checkpoint.require_room(run.folder, disk.total)


def _load_published(
    trainer: RowTrainer, validation: Validation, run_dir: Path, *, all_learned: bool
) -> ValidationReport:
    """Put the weights that are to be published into the model; gives what the validation rows said of them."""
    report, holding = validation.choose(run_dir, all_learned=all_learned)
    if holding is not None:
        trainer.load_weights(holding)
    return report


def _decide(
    config: TrainConfig, base: PreparedBase, rows: PreparedRows, run: _Run
) -> tuple[Decisions, checkpoint.RunRecord]:
    """What an earlier call decided, or what this one does, kept in the record together with the plan."""
    record = run.record
    decisions = Decisions.from_record(record.decisions)
    if decisions is None:
        outlook = decide(config, base, rows)
        decisions, planned = outlook.decisions, Account.planned(run.steps, outlook)
        record = replace(record, decisions=asdict(decisions), planned=asdict(planned))
    record = replace(record, environment=asdict(machine.environment()))
    checkpoint.write_record(run.folder, record)
    return decisions, record


def _confirm(model: "PeftModel", rows: PreparedRows, token_budget: int, fast: "FastPath | None") -> list[bool]:
    say("train.confirming")
    counted = islice(enumerate(rows.tokenized.examples), rows.tokenized.num_counted)
    learned = confirm_learned(model, counted, token_budget, fast)
    return [learned[index] for index in range(len(learned))]


def _weaken(
    model: "PeftModel", rows: PreparedRows, learned: "Sequence[bool]", token_budget: int, fast: "FastPath | None"
) -> float | None:
    """The share of the trained strength that the learned rows need; None where they need all of it."""
    say("train.weakening")
    kept = [index for index, is_learned in enumerate(learned) if is_learned]
    factor = weaken(model, rows.tokenized.examples, kept, token_budget, fast)
    say("train.weakened", percent=100 * factor, num=len(kept))
    return factor if factor < 1 else None


def _keep_rejects(run_dir: Path, rows: PreparedRows) -> None:
    """Write down the rows that `--skip_bad` left out, and why."""
    if findings := rows.all_findings:
        storage.write_atomically(run_dir / REJECTED, "".join(f"{finding}\n" for finding in findings))
        say("data.rejects_kept", file=run_dir / REJECTED, rows=len(findings))


def _identity(config: TrainConfig, base: PreparedBase, rows: PreparedRows) -> dict[str, str]:
    """What makes this run this run: settings that shape the weights, and hashes of what they are applied to."""
    settings = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    identity = {name: str(value) for name, value in settings.items()}
    identity |= {f"base.{part}": value for part, value in asdict(base_fingerprint(base.source.folder)).items()}
    identity |= {"data": rows.tokenized.sha256[:16], "template": base.contract.template_sha256[:16]}
    if rows.tokenized.num_replay:  # the same rows are another run where others of them are to be learned
        identity |= {"num_replay": str(rows.tokenized.num_replay), "num_held": str(rows.tokenized.num_held)}
    return identity


def _publish(config: TrainConfig, base: PreparedBase, rows: PreparedRows, *, run: _Run, model: "PeftModel") -> None:
    """Write, prove, and only then put the adapter where it is looked for."""
    staged = run.folder / "staged"
    storage.remove_tree(staged)  # left by a crash
    recorded, change = stage_adapter(staged, base, rows, model=model)
    say("train.proven", change=change)
    manifest = adapter.Manifest(
        base=recorded,
        data_sha256=rows.dataset.sha256,
        template_sha256=base.contract.template_sha256,
        files=adapter.file_hashes(staged),
        versions=adapter.library_versions(),
        metrics=run.record.result | {"output_dir": None, "largest_logit_change": change},
        data=run.summary.as_json(),
    )
    page = build_run_page(RunFacts(config.output_dir, manifest, run.record))
    storage.write_atomically(staged / adapter.CARD, model_card(page, manifest.base, config.output_dir))
    adapter.publish(staged, config.output_dir, replace(manifest, files=adapter.file_hashes(staged)))


def stage_adapter(
    staged: Path, base: PreparedBase, rows: PreparedRows, *, model: "PeftModel"
) -> tuple[adapter.BaseRecord, float]:
    """Write an adapter, its weights rounded, and prove what was written.

    Args:
        staged: a folder of its own.
        base: what it belongs to.
        rows: the shortest of them prove it (`choose_proof_rows`).
        model: base with the adapter.

    Returns:
        The base as the adapter names it, and the largest change of a logit against it.

    Raises:
        VerificationError: the adapter changes nothing, or is another once it is loaded back.
    """
    from pangzhu.batching import lay_end_to_end

    recorded = adapter.BaseRecord(
        name=str(base.source.folder.resolve()) if base.source.origin == "folder" else base.source.name,
        public_id=base.source.public_id,
        revision=base.source.revision,
        fingerprint=base_fingerprint(base.source.folder),
    )
    adapter.write_adapter(staged, model, tokenizer=base.tokenizer, contract=base.contract, base=recorded)
    proof_rows = lay_end_to_end(list(enumerate(choose_proof_rows(rows.tokenized.examples))))
    return recorded, adapter.prove_adapter(staged, model, proof_rows.to(model.device))


def choose_proof_rows(examples: "Sequence[TokenizedExample]") -> "list[TokenizedExample]":
    """The shortest rows, as many as a proof needs and `MOST_PROOF_TOKENS` hold; one at the least."""
    lengths = lengths_of(examples)
    shortest = [examples[index] for index in nsmallest(NUM_PROOF_ROWS, range(len(lengths)), key=lengths.__getitem__)]
    ends = accumulate(len(example.input_ids) for example in shortest)
    return shortest[: max(1, sum(end <= MOST_PROOF_TOKENS for end in ends))]
