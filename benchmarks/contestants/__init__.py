"""Who takes part: each a script of its own, run in its own environment, one process a block."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pangzhu.config import Technique


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to train the rows.

    Args:
        script: in this folder.
        peers: requirements file of its environment under `benchmarks/peers`; empty for Pangzhu's own environment.
        precision: `float32`, or None for what the machine's probe chooses.
        micro_batch: rows of one forward pass; None for all rows of a step.
        options: the script's own.
    """

    script: str
    peers: str = ""
    precision: str | None = None
    micro_batch: int | None = 4
    options: Mapping[str, Any] = field(default_factory=dict)


OURS = "pangzhu"
CONTESTANTS = {
    OURS: Contestant("ours.py", micro_batch=None),
    "tutorial float32, padded to MAX_LENGTH": Contestant(
        "plain.py", precision="float32", options={"pad_to": "longest"}
    ),
    "tutorial float32, padded to the batch": Contestant("plain.py", precision="float32"),
    "peft + Trainer, padded to the batch": Contestant("plain.py"),
    "TRL as it comes": Contestant("trl_sft.py", "trl.txt"),
    "TRL tuned": Contestant("trl_sft.py", "trl.txt", options={"tuned": True}),
    "LLaMA-Factory as it comes": Contestant("llama_factory.py", "llama_factory.txt"),
    "pangzhu --fast off": Contestant("ours.py", micro_batch=None, options={"reference": True}),
    **{
        f"pangzhu without {name}": Contestant("ours.py", micro_batch=None, options={"without": [name]})
        for name in get_args(Technique)
    },
}
