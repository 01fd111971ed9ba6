"""Whether vLLM takes an adapter beside its base, and with which `--max-lora-rank`.

vLLM reads peft's adapter_config.json and refuses what its kernels do not compute: DoRA, biases, whole modules saved beside
LoRA, and a rank above the one it was started with, which has to be one of a few. All of that stands in the file, so it is
told here, before a server with a GPU is started for it. The rules are those of vLLM's `lora/peft_helper.py` and
`config/lora.py`, as of its version 0.27.

Left to others: whether the file is that of plain LoRA at all (`pangzhu.vetting`). Not asked: whether vLLM knows the base.

Try it: `vllm_fit(Path("my-lora")).render()`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pangzhu.messages import text
from pangzhu.model import read_json
from pangzhu.vetting import CONFIG

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what `vllm serve --max-lora-rank` may be
REFUSED: Mapping[str, Callable[[object], bool]] = {  # field -> whether vLLM refuses a value of it
    "r": lambda value: value not in range(1, RANKS[-1] + 1),
    "use_dora": bool,
    "bias": lambda value: value != "none",
    "lora_bias": bool,
    "modules_to_save": bool,
}


@dataclass(frozen=True, slots=True)
class VllmFit:
    """How an adapter and vLLM go together.

    Args:
        max_lora_rank: the least `--max-lora-rank` that takes it; None where vLLM refuses it.
        refused: the fields of adapter_config.json for which it does, with their values.
    """

    max_lora_rank: int | None
    refused: Mapping[str, object]

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {"suits": not self.refused, "max_lora_rank": self.max_lora_rank, "refused": dict(self.refused)}

    def render(self) -> str:
        """One line: with which rank, or why not."""
        if self.max_lora_rank is None:
            fields = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.refused.items())
            return text("adapter.vllm_refuses", fields=fields)
        return text("adapter.vllm_takes", rank=self.max_lora_rank)


def vllm_fit(folder: Path) -> VllmFit:
    """Read adapter_config.json as vLLM does.

    Raises:
        ModelError: it is missing or not JSON.
    """
    fields = read_json(folder / CONFIG)
    refused = {name: fields[name] for name, refuses in REFUSED.items() if name in fields and refuses(fields[name])}
    return VllmFit(None if refused else next(rank for rank in RANKS if rank >= fields["r"]), refused)
