"""LLaMA-Factory's own loader, collator and trainer with its defaults (gradient checkpointing among them), on our rows.

Its command line wants a registered dataset of texts; the rows here are tokens already, so its parts are put together as
its own `run_sft` does.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from block import Clock, Job, matrix_speed, read_job, read_rows, report
from datasets import Dataset
from plain import arguments

# Imported by LLaMA-Factory for audio alone; its build must fit torch's own, and rows of text never reach it.
sys.modules["torchaudio"] = ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", loader=None)

from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_model, load_tokenizer  # noqa: E402
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer  # noqa: E402


def options(job: Job) -> dict[str, Any]:
    """What a user would write in its YAML file; what is not said here is as it comes."""
    return arguments(
        job,
        model_name_or_path=job.model,
        stage="sft",
        do_train=True,
        finetuning_type="lora",
        lora_rank=8,
        lora_alpha=32,
        lora_target="all",
        dataset="rows",
        template="qwen",
        disable_shuffling=True,
        bf16=job.precision == "bf16",
    )


def main() -> None:
    job = read_job()
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in read_rows(job)]
    before = matrix_speed(job)
    clock = Clock(job)
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(options(job))
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    model = load_model(tokenizer, model_args, finetuning_args, is_trainable=True)
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template,
        model=model,
        pad_to_multiple_of=8,
        label_pad_token_id=-100,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        compute_dtype=model_args.compute_dtype,
        **tokenizer_module,
    )
    trainer = CustomSeq2SeqTrainer(
        model=model,
        args=training_args,
        finetuning_args=finetuning_args,
        data_collator=collator,
        callbacks=[clock],
        train_dataset=Dataset.from_list(rows),
        **tokenizer_module,
    )
    trainer.train()
    report(job, clock, before, [job.rows_per_step] * (job.warm_up + job.steps))


if __name__ == "__main__":
    main()
