"""Which models the fast path computes, and why not where it does not.

What is not known here takes transformers' and peft's own path: the whole decoder, or the head alone, or single adapters.
Each is told in one sentence, with its reason.
"""

from dataclasses import dataclass
from typing import Any

import torch

from pangzhu.fast.lora import read_linear
from pangzhu.messages import text

DECODERS = frozenset({"LlamaModel", "MistralModel", "Phi3Model", "Qwen2Model", "Qwen3Model"})
SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # names in the families' configs
DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a part takes the reference path: keys of the catalogue, and what their sentences fill in."""

    part: str
    why: str
    value: object = ""

    def __str__(self) -> str:
        part = text(self.part, value=self.value)
        return text("fast.takes_reference", part=part, reason=text(self.why, value=self.value))


def why_not_decoder(decoder: Any, *, longest: int, device: str) -> Reason | None:
    """Why a decoder (`Qwen2Model` and its like) is not computed here, or None where it is.

    Args:
        decoder: the model without its head.
        longest: tokens of the longest row; a sliding window that reaches further changes nothing.
        device: where it computes.
    """
    config = decoder.config
    if device != "cpu":
        return Reason("fast.part.decoder", "fast.reason.device", device)
    if type(decoder).__name__ not in DECODERS:
        return Reason("fast.part.decoder", "fast.reason.family", type(decoder).__name__)
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window and "sliding_attention" in _layer_types(config):
        return Reason("fast.part.decoder", "fast.reason.window", window)
    if config.hidden_act != "silu":
        return Reason("fast.part.decoder", "fast.reason.activation", config.hidden_act)
    dropout = max(float(getattr(config, name, 0.0) or 0.0) for name in DROPOUTS)
    return Reason("fast.part.decoder", "fast.reason.dropout", dropout) if dropout else None


def why_not_head(model: Any) -> Reason | None:
    """Why the head of a causal language model is not computed here, or None where it is."""
    head = read_linear(model.lm_head)
    if head is None or head.lora_a is not None or head.bias is not None:
        return Reason("fast.part.head", "fast.reason.head")
    scaled = [name for name in SCALED_LOGITS if getattr(model.config, name, None)]
    return Reason("fast.part.head", "fast.reason.logits", scaled[0]) if scaled else None


def why_not_adapters(decoder: torch.nn.Module) -> Reason | None:
    """Why some adapters are computed by peft's own forward, or None where none is."""
    from peft.tuners.lora.layer import LoraLayer

    foreign = [module for module in decoder.modules() if isinstance(module, LoraLayer) and read_linear(module) is None]
    return Reason("fast.part.adapters", "fast.reason.adapters", len(foreign)) if foreign else None


def _layer_types(config: Any) -> list[str]:
    """Kind of attention of each layer; families without the list use one kind, sliding where a window is set."""
    return list(getattr(config, "layer_types", None) or ["sliding_attention"])
