"""What a run decides for itself before its first step: device, threads, number format, token budget.

Decided once, by measuring, and kept in the run's record: a resumed run reuses it, so that its weights come out the same
whatever else the machine is doing that day. What the decision rests on (`Outlook`) is found without loading the model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pangzhu import machine, plan
from pangzhu.config import FastOptions, RunOptions, TrainConfig
from pangzhu.fast import memory
from pangzhu.messages import say
from pangzhu.model import attach_lora, build_skeleton, load_base, num_parameters, read_json, trainable_parameters
from pangzhu.preparation import PreparedBase, PreparedRows, decide_device

if TYPE_CHECKING:
    from peft import PeftModel

    from pangzhu.fast.path import FastPath


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided. `base` is the base's name, `token_budget` the most tokens of one micro-batch, `probe` the evidence
    for the number format, empty where it was given."""

    base: str
    device: Literal["cpu", "cuda"]
    num_threads: int
    precision: Literal["bf16", "float32"]
    token_budget: int
    probe: dict[str, Any]

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any]) -> "Decisions | None":
        """What an earlier start of the run decided, or None where it did not get so far."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: recorded[name] for name in names}) if names <= recorded.keys() else None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of a run before its model is loaded.

    Args:
        decisions: what follows from it.
        shape: sizes of the base.
        num_trainable: parameters of the adapter.
        path: the fast path of a model without weights: it plans, and computes nothing; None where it is switched off.
        memory: what the run takes.
        largest: tokens of the largest micro-batch.
        free_bytes: memory that can be taken.
    """

    decisions: Decisions
    shape: plan.ModelShape
    num_trainable: int
    path: "FastPath | None"
    memory: plan.MemoryPlan
    largest: int
    free_bytes: int

    @property
    def peak(self) -> float:
        """The most memory that the run takes, in bytes."""
        return self.memory.peak(self.largest)


def bound_caches(config: TrainConfig, rows: PreparedRows) -> None:
    """Bound what oneDNN keeps, where the fast path asks for it; before the process multiplies for the first time."""
    if config.fast == "on" and "memory" not in config.fast_without:
        lengths = set(rows.tokenized.lengths)
        memory.bound_kernel_caches(min(len(lengths), config.per_device_train_batch_size))


def decide(config: TrainConfig, base: PreparedBase, rows: PreparedRows) -> Outlook:
    """Probe and choose, and say so; what the configuration names is taken as it is."""
    outlook = look_ahead(config, base, rows)
    if probe := outlook.decisions.probe:
        say("train.probe", chosen=probe["chosen"], bf16=probe["bf16_gflops"], float32=probe["float32_gflops"])
    say("train.memory", gigabytes=outlook.peak / 1e9)
    return outlook


def look_ahead(config: TrainConfig, base: PreparedBase, rows: PreparedRows) -> Outlook:
    """Probe, count and choose, without a word and without the model's weights."""
    import torch

    device = decide_device(config.device)
    num_threads = machine.num_physical_cores()
    torch.set_num_threads(num_threads)  # before the probe, which would measure another machine otherwise
    precision, probe = choose_precision(config, base.source.folder, device)
    shape = model_shape(base.source.folder)
    tokenized = rows.tokenized
    skeleton = attach_lora(build_skeleton(base.source.folder), config)
    num_trainable = sum(parameter.numel() for parameter in trainable_parameters(skeleton))
    path = fast_path(config, skeleton, longest=rows.longest, device=device)
    planned = plan.plan_memory(
        shape,
        num_trainable=num_trainable,
        precision=precision,
        fast=_fast_parts(config, path),
        supervised_share=tokenized.num_supervised / tokenized.num_tokens,
    )
    free_bytes = _free_bytes(device)
    budget = config.token_budget or plan.choose_token_budget(planned, free_bytes=free_bytes)
    largest = plan.largest_micro_batch(
        tokenized.lengths,
        rows_per_batch=config.per_device_train_batch_size,
        token_budget=budget,
    )
    decisions = Decisions(base.source.name, device, num_threads, precision, budget, probe)
    return Outlook(decisions, shape, num_trainable, path, planned, largest, free_bytes)


def plan_run_disk(
    config: RunOptions, base_folder: Path, num_trainable: int, *, num_steps: int, num_bests: int = 0
) -> plan.DiskPlan:
    """What a run will leave on the disk.

    Args:
        config: how often it saves.
        base_folder: its tokenizer is saved beside the adapter.
        num_trainable: parameters of the adapter.
        num_steps: optimizer steps of the run.
        num_bests: measurements of validation rows, of which the best ones' weights are kept.
    """
    tokenizer = base_folder / "tokenizer.json"
    return plan.plan_disk(
        num_trainable,
        num_steps=num_steps,
        save_steps=config.save_steps,
        tokenizer_bytes=tokenizer.stat().st_size if tokenizer.exists() else 0,
        num_bests=num_bests,
    )


def load_model(config: TrainConfig, base: PreparedBase, decisions: Decisions) -> "PeftModel":
    """The base with a fresh adapter, as decided; the seed is set here, so that the adapter starts the same each time."""
    import torch
    from transformers import set_seed

    torch.set_num_threads(decisions.num_threads)
    model = load_base(base.source.folder, precision=decisions.precision, device=decisions.device)
    set_seed(config.seed)
    return attach_lora(model, config)


def choose_path(config: FastOptions, model: "PeftModel", *, longest: int) -> "FastPath | None":
    """The model's fast path, or None where it is switched off; what it leaves to the reference path is said.

    Args:
        config: what is wanted.
        model: base with its adapter.
        longest: tokens of the longest row.
    """
    path = fast_path(config, model, longest=longest)
    if path is None:
        say("fast.off")
        return None
    for reason in path.reasons:
        say("fast.reason", reason=reason)
    return path


def fast_path(config: FastOptions, model: "PeftModel", *, longest: int, device: str | None = None) -> "FastPath | None":
    """As `choose_path`, without a word; `device` is where a model without weights would compute."""
    from pangzhu.fast.path import FastPath
    from pangzhu.fast.techniques import Techniques

    if config.fast == "off":
        return None
    return FastPath(model, Techniques.without(config.fast_without), longest=longest, device=device)


def _fast_parts(config: TrainConfig, path: "FastPath | None") -> plan.FastParts:
    if path is None:
        return plan.REFERENCE
    adapters: Literal["fused", "dropout", "peft", "dora"] = "dora" if config.use_dora else "peft"
    if path.fuses_adapters:
        adapters = "dropout" if config.lora_dropout else "fused"
    return plan.FastParts(layers=path.drives_decoder, adapters=adapters, head=path.scores_head)


def choose_precision(
    config: TrainConfig, folder: Path, device: Literal["cpu", "cuda"]
) -> tuple[Literal["bf16", "float32"], dict[str, Any]]:
    """Number format of the frozen base and the evidence: a probe, not the processor's name."""
    if config.precision != "auto":
        return config.precision, {}
    if device == "cuda":
        return "bf16", {}
    probe = machine.probe_precision_for(folder)
    return probe.chosen, asdict(probe)


def model_shape(folder: Path) -> plan.ModelShape:
    """Sizes of the model in a folder.

    Raises:
        ModelError: its config or weights cannot be read.
    """
    sizes = read_json(folder / "config.json")
    heads, hidden = int(sizes["num_attention_heads"]), int(sizes["hidden_size"])
    head_dim = int(sizes.get("head_dim") or hidden // heads)
    return plan.ModelShape(
        num_layers=int(sizes["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=int(sizes["intermediate_size"]),
        vocab_size=int(sizes["vocab_size"]),
        num_heads=heads,
        key_width=head_dim * int(sizes.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        normed_heads=sizes.get("model_type") in plan.FAMILIES_WITH_NORMED_HEADS,
        num_parameters=num_parameters(folder),
    )


def _free_bytes(device: Literal["cpu", "cuda"]) -> int:
    """Memory that can be taken, the model not yet in it."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else machine.available_memory()
