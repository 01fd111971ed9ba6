"""TRL's SFTTrainer: as it comes, or tuned for a CPU (`tuned`: no gradient checkpointing, rows grouped by length)."""

from typing import Any

from block import Clock, matrix_speed, read_job, read_rows, report
from datasets import Dataset
from plain import arguments, load_model
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer


class InOrder(SFTTrainer):  # type: ignore[misc]
    """Rows come in the file's order, so that every contestant's optimizer steps hold the same ones."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    before = matrix_speed(job)
    clock = Clock(job)
    tuned = bool(job.options.get("tuned"))
    if tuned:  # by length within each optimizer step: the same rows in each step as for everyone else
        size = job.rows_per_step
        rows = [
            row
            for start in range(0, len(rows), size)
            for row in sorted(rows[start : start + size], key=lambda row: len(row["input_ids"]))
        ]
    config = SFTConfig(
        **arguments(job, remove_unused_columns=True),
        bf16=job.precision == "bf16",  # autocast, TRL's default; it would turn a float32 base into bf16 too
        gradient_checkpointing=not tuned,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataset_num_proc=None,
    )
    trainer = InOrder(model=load_model(job), args=config, train_dataset=Dataset.from_list(rows), callbacks=[clock])
    trainer.train()
    report(job, clock, before, [job.rows_per_step] * (job.warm_up + job.steps))


if __name__ == "__main__":
    main()
