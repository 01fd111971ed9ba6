"""`plan_run(config) -> RunPlan`: the run that `train` would do, told before it is done.

The stages are those of training: rows read and labels proven, base found, steps and memory planned. Then a few optimizer steps
are timed with the model as training has it, in a temporary folder, and the model is thrown away; without that
(`--no_measure`) the model is not even loaded, unless replay rows ask for its own words for the first time. Nothing is
written into the output folder.

Left to others: the arithmetic (`pangzhu.plan`, `pangzhu.estimate`), the clock (`pangzhu.measure`), and what to change
(`pangzhu.advice`).
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import advice, plan, storage
from pangzhu.advice import Advice
from pangzhu.config import PlanConfig
from pangzhu.decisions import Outlook, bound_caches, look_ahead, plan_run_disk
from pangzhu.engines import visible
from pangzhu.estimate import Sample, TimePlan, draw_sample, plan_time, validation_cost
from pangzhu.measure import counter_for, measure
from pangzhu.messages import say, text
from pangzhu.own_words import add_own_words
from pangzhu.preparation import label_rows, prepare_training_base, read_dataset, require_trainable
from pangzhu.tokenization import TokenizedDataset

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before it is done.

    Args:
        config: the run.
        dataset_path: whose rows.
        tokenized: the rows.
        steps: how many, of how many rows.
        outlook: model, adapter, memory, and what was decided.
        sample: steps as they are planned.
        disk: what the output folder will hold.
        free_disk: bytes that are free there.
        time: of the run, by its parts; None where nothing was timed.
        validation: how rows that are not trained are measured on the way; None where there are none.
    """

    config: PlanConfig
    dataset_path: Path
    tokenized: TokenizedDataset
    steps: plan.StepPlan
    outlook: Outlook
    sample: Sample
    disk: plan.DiskPlan
    free_disk: int
    time: TimePlan | None
    validation: plan.ValidationPlan | None = None

    @property
    def trainable_share(self) -> float:
        """The adapter's parameters over the base's."""
        return self.outlook.num_trainable / self.outlook.shape.num_parameters

    @property
    def micro_batches_per_step(self) -> float:
        """On average."""
        return self.sample.work.num_micro_batches / len(self.sample.steps)

    @property
    def tokens_per_micro_batch(self) -> float:
        """That are computed, on average."""
        return self.sample.work.num_tokens / self.sample.work.num_micro_batches

    @property
    def reasons(self) -> tuple[str, ...] | None:
        """What takes the reference path, and why; None where the fast path is switched off."""
        return None if self.outlook.path is None else tuple(map(str, self.outlook.path.reasons))

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What to change."""
        outlook = self.outlook
        pieces = (
            advice.on_steps(self.steps, self.config),
            advice.on_long_rows(self.tokenized.lengths),
            advice.on_batches(self.steps, self.config, sample=self.sample, token_budget=outlook.decisions.token_budget),
            advice.on_memory(
                outlook.memory,
                largest=outlook.largest,
                longest=self.tokenized.longest,
                free_bytes=outlook.free_bytes,
                is_float32=outlook.decisions.precision == "float32",
            ),
            advice.on_disk(self.disk, free_bytes=self.free_disk),
        )
        return tuple(piece for piece in pieces if piece is not None)

    def as_json(self) -> dict[str, object]:
        """All figures as plain values; bytes and seconds."""
        outlook, steps = self.outlook, self.steps
        return {
            "data": {
                "path": str(self.dataset_path),
                "longest": self.tokenized.longest,
                "num_dropped": self.tokenized.num_dropped,
                "num_truncated": self.tokenized.num_truncated,
            },
            "steps": asdict(steps) | {"passes": steps.passes, "too_few": steps.too_few},
            "validation": self.validation and asdict(self.validation),
            "micro_batches": {
                "per_step": self.micro_batches_per_step,
                "tokens": self.tokens_per_micro_batch,
                "most_tokens": outlook.largest,
            },
            "model": {
                "num_parameters": outlook.shape.num_parameters,
                "num_trainable": outlook.num_trainable,
                "trainable_share": self.trainable_share,
            },
            "decisions": asdict(outlook.decisions),
            "fast": {"on": self.reasons is not None, "reasons": list(self.reasons or ())},
            "memory": self._memory_as_json(),
            "disk": asdict(self.disk) | {"total": self.disk.total, "free": self.free_disk},
            "time": self._time_as_json(),
            "advice": [piece.as_json() for piece in self.advice],
        }

    def render(self) -> "Group":
        """The figures as a table, the parts below their sum, then the advice."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=text("plan.title"), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for section in (self._run_rows(), self._memory_rows(), self._disk_rows(), self._time_rows()):
            for number, (name, figures) in enumerate(section, start=1):
                table.add_row(Text(name), Text(visible(figures)), end_section=number == len(section))
        return Group(table, *(Text(f"• {piece}") for piece in self.advice))

    def _run_rows(self) -> list[tuple[str, str]]:
        steps, outlook = self.steps, self.outlook
        share = 100 * steps.num_supervised / steps.num_tokens
        rows = text("plan.rows", rows=steps.num_rows, longest=self.tokenized.longest)
        dropped, truncated = self.tokenized.num_dropped, self.tokenized.num_truncated
        overlong = [text("cli.check.overlong", dropped=dropped, truncated=truncated)] if dropped or truncated else []
        return [
            (text("plan.data"), "\n".join([str(self.dataset_path), rows, *overlong])),
            (
                text("plan.tokens"),
                text("plan.tokens.figures", tokens=steps.num_tokens, supervised=steps.num_supervised, share=share),
            ),
            (
                text("plan.steps"),
                text(
                    "plan.steps.figures",
                    steps=steps.num_steps,
                    rows_per_step=steps.rows_per_step,
                    per_epoch=steps.steps_per_epoch,
                    passes=steps.passes,
                ),
            ),
            *self._validation_rows(),
            (
                text("plan.micro_batches"),
                text(
                    "plan.micro_batches.figures",
                    number=self.micro_batches_per_step,
                    tokens=self.tokens_per_micro_batch,
                    budget=outlook.decisions.token_budget,
                ),
            ),
            (
                text("plan.model"),
                text("plan.model.figures", base=outlook.decisions.base, parameters=outlook.shape.num_parameters),
            ),
            (
                text("plan.adapter"),
                text("plan.adapter.figures", trainable=outlook.num_trainable, share=100 * self.trainable_share),
            ),
            (text("plan.precision"), self._precision()),
            (text("plan.path"), self._path()),
        ]

    def _validation_rows(self) -> list[tuple[str, str]]:
        validation = self.validation
        if validation is None:
            return []
        figures = text(
            "plan.validation.figures",
            rows=validation.num_rows,
            supervised=validation.num_supervised,
            every=validation.every,
            times=validation.times,
        )
        return [(text("plan.validation"), figures)]

    def _precision(self) -> str:
        """The number format, and why it is this one."""
        decisions = self.outlook.decisions
        if not decisions.probe:
            key = "plan.precision.gpu" if self.config.precision == "auto" else "plan.precision.given"
            return text(key, chosen=decisions.precision, threads=decisions.num_threads)
        return text(
            "plan.precision.probed",
            chosen=decisions.precision,
            bf16=decisions.probe["bf16_gflops"],
            float32=decisions.probe["float32_gflops"],
            instruction_set=decisions.probe["instruction_set"],
            threads=decisions.num_threads,
        )

    def _path(self) -> str:
        if self.reasons is None:
            return text("fast.off")
        return "\n".join(self.reasons) or text("plan.path.fast")

    def _memory_rows(self) -> list[tuple[str, str]]:
        memory, outlook = self.outlook.memory, self.outlook
        is_loading = outlook.peak > memory.training(outlook.largest)
        key = "plan.memory.loading" if is_loading else "plan.memory.figures"
        parts = {
            text("plan.memory.libraries"): memory.libraries,
            text("plan.memory.weights"): memory.weights,
            text("plan.memory.adapter"): memory.adapter,
            text("plan.memory.heap"): memory.heap,
            text("plan.memory.micro_batch", tokens=outlook.largest): memory.per_token * outlook.largest,
            text("plan.memory.logits"): memory.logits_of(outlook.largest),
        }
        whole = text(key, peak=outlook.peak / 1e9, free=outlook.free_bytes / 1e9)
        return [
            (text("plan.memory"), whole),
            *((name, text("plan.gigabytes", size=size / 1e9)) for name, size in parts.items() if size),
        ]

    def _disk_rows(self) -> list[tuple[str, str]]:
        disk = self.disk
        parts = {
            text("plan.disk.adapter"): disk.adapter,
            text("plan.disk.tokenizer"): disk.tokenizer,
            text("plan.disk.checkpoints", number=disk.num_checkpoints): disk.num_checkpoints * disk.checkpoint,
        }
        whole = text("plan.disk.figures", total=disk.total / 1e6, free=self.free_disk / 1e9)
        return [
            (text("plan.disk"), whole),
            *((name, text("plan.megabytes", size=size / 1e6)) for name, size in parts.items() if size),
        ]

    def _time_rows(self) -> list[tuple[str, str]]:
        time = self.time
        if time is None:
            return [(text("plan.time"), text("plan.time.not_measured"))]
        stops_early = "plan.time.at_most" if self.config.until_learned else "plan.time.with_patience"
        key = stops_early if self.config.stops_early else "plan.time.figures"
        each = time.stepping / self.steps.num_steps
        stepping = text("plan.time.stepping.figures", seconds=time.stepping, each=each, number=time.num_timed)
        validating = (text("plan.time.validating"), text("plan.seconds", seconds=time.validating))
        return [
            (text("plan.time"), text(key, minutes=time.total / 60)),
            (text("plan.time.preparing"), text("plan.seconds", seconds=time.preparing)),
            (text("plan.time.loading"), text("plan.seconds", seconds=time.loading)),
            (text("plan.time.stepping"), stepping),
            *([validating] if self.validation else []),
            (text("plan.time.confirming"), text("plan.seconds", seconds=time.confirming)),
            (text("plan.time.proving"), text("plan.seconds", seconds=time.proving)),
        ]

    def _memory_as_json(self) -> dict[str, object]:
        memory, largest = self.outlook.memory, self.outlook.largest
        return {
            "libraries": memory.libraries,
            "heap": memory.heap,
            "weights": memory.weights,
            "adapter": memory.adapter,
            "micro_batch": memory.per_token * largest,
            "logits": memory.logits_of(largest),
            "loading": memory.loading,
            "peak": self.outlook.peak,
            "free": self.outlook.free_bytes,
        }

    def _time_as_json(self) -> dict[str, object] | None:
        if self.time is None:
            return None
        return asdict(self.time) | {"total": self.time.total, "at_most": self.config.stops_early}


def plan_run(config: PlanConfig, *, started: float | None = None) -> RunPlan:
    """Plan the run that `train` would do with the same options.

    Args:
        config: the run.
        started: when the command began, by `time.perf_counter`; not given: now.

    Raises:
        PangzhuError: as `train` before its first step: bad rows, no such model, an option that does not fit it.
    """
    started = time.perf_counter() if started is None else started
    dataset = read_dataset(config)
    base = prepare_training_base(config)
    rows = label_rows(dataset, config, base)
    require_trainable(rows, skip_bad=config.skip_bad)
    rows = add_own_words(rows, config, base)
    say("train.base", why=base.source.why)
    bound_caches(config, rows)
    outlook = look_ahead(config, base, rows)
    preparing = time.perf_counter() - started
    steps = plan.plan_steps(rows.tokenized, config)
    validation = plan.plan_validation(rows.validation, steps, config)
    counter = counter_for(outlook)
    sample = draw_sample(rows.tokenized.examples, config, counter)
    timed = None
    if config.measure:
        measured = measure(config, base, rows, outlook=outlook, sample=sample)
        timed = plan_time(
            measured,
            preparing=preparing,
            sample=sample,
            steps=steps,
            counter=counter,
            validating=validation_cost(rows.validation, validation, counter),
        )
    return RunPlan(
        config=config,
        dataset_path=rows.dataset.path,
        tokenized=rows.tokenized,
        steps=steps,
        outlook=outlook,
        sample=sample,
        disk=plan_run_disk(
            config,
            base.source.folder,
            outlook.num_trainable,
            num_steps=steps.num_steps,
            num_bests=validation.times if validation and config.keeps_best else 0,
        ),
        free_disk=storage.free_space(config.output_dir),
        time=timed,
        validation=validation,
    )
