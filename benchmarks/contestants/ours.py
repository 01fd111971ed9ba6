"""Pangzhu's own trainer over the same rows; `without` names techniques of the fast path to leave out."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from block import Clock, matrix_speed, read_job, read_rows, report
from torch.utils.data import SequentialSampler

from pangzhu.config import TrainConfig
from pangzhu.data.conversation import Location
from pangzhu.decisions import choose_path
from pangzhu.fast.memory import bound_kernel_caches
from pangzhu.model import attach_lora, load_base
from pangzhu.plan import plan_steps
from pangzhu.progress import Progress
from pangzhu.tokenization import TokenizedDataset, TokenizedExample
from pangzhu.trainer import RowTrainer


class InOrder(RowTrainer):
    """Rows come in the file's order, so that every contestant's optimizer steps hold the same ones."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    job = read_job()
    rows = [
        TokenizedExample(tuple(row["input_ids"]), tuple(row["labels"]), Location(Path(job.rows), number, number))
        for number, row in enumerate(read_rows(job), start=1)
    ]
    options = job.options
    num_rows = int(options.get("num_rows", len(rows)))
    rows = (rows * -(-num_rows // len(rows)))[:num_rows]
    if "threads" in options:
        torch.set_num_threads(options["threads"])
    if not options.get("reference") and "memory" not in options.get("without", ()):
        bound_kernel_caches(job.rows_per_step)
    before = matrix_speed(job)
    folder = Path(tempfile.mkdtemp())
    config = TrainConfig(
        output_dir=folder,
        lr_scheduler_type="constant",
        warmup_ratio=0,
        max_steps=job.warm_up + job.steps,
        per_device_train_batch_size=job.rows_per_step,
        r=int(options.get("rank", 8)),
        save_steps=10**6,
        precision=job.precision,  # type: ignore[arg-type]
        fast="off" if options.get("reference") else "on",
        fast_without=tuple(options.get("without", ())),
    )
    base = load_base(Path(job.model), precision=job.precision)  # type: ignore[arg-type]
    if job.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(base, job.adapter, is_trainable=True)
    else:
        model = attach_lora(base, config)
    dataset = TokenizedDataset(tuple(rows), ())
    progress = Progress(folder / "metrics.jsonl", rows, plan_steps(dataset, config), lambda _: None)
    trainer = InOrder(
        model,
        config,
        progress,
        token_budget=int(options.get("token_budget", 1024)),
        fast=choose_path(config, model, longest=dataset.longest),
    )
    clock = Clock(job)
    trainer.add_callback(clock)
    trainer.train()
    report(job, clock, before, [job.rows_per_step] * (job.warm_up + job.steps))


if __name__ == "__main__":
    main()
