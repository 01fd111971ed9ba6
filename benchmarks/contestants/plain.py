"""The tutorial script: peft, transformers' Trainer, rows padded to one length (`pad_to`) or to the batch's longest."""

import tempfile
from typing import Any

import torch
from block import TARGETS, Clock, Job, matrix_speed, read_job, read_rows, report, torch_dtype
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


class InOrder(Trainer):  # type: ignore[misc]
    """Rows come in the file's order, so that every contestant's optimizer steps hold the same ones."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def collate(rows: list[dict[str, list[int]]], pad_to: int | None) -> dict[str, torch.Tensor]:
    """Rows padded to one width."""
    width = pad_to or max(len(row["input_ids"]) for row in rows)

    def padded(field: str, filler: int) -> torch.Tensor:
        return torch.tensor([[*row[field], *[filler] * (width - len(row[field]))] for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": torch.tensor(mask)}


def load_model(job: Job) -> Any:
    """The base with its adapter, the one given or a fresh one."""
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch_dtype(job))
    if job.adapter:
        return PeftModel.from_pretrained(base, job.adapter, is_trainable=True)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=TARGETS))


def arguments(job: Job, **more: Any) -> dict[str, Any]:
    """What every contestant on transformers' Trainer is given."""
    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.rows_per_step // job.micro_batch,
        "max_steps": job.warm_up + job.steps,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "seed": 0,
    }
    return common | more


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    before = matrix_speed(job)
    clock = Clock(job)
    pad_to = job.options.get("pad_to")
    counts: list[int] = []

    def counted(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        counts.append(len(batch))
        return collate(batch, pad_to)

    trainer = InOrder(
        model=load_model(job),
        args=TrainingArguments(**arguments(job)),
        train_dataset=rows,
        data_collator=counted,
        callbacks=[clock],
    )
    trainer.train()
    parts = job.rows_per_step // job.micro_batch
    report(job, clock, before, [sum(counts[i : i + parts]) for i in range(0, len(counts), parts)])


if __name__ == "__main__":
    main()
