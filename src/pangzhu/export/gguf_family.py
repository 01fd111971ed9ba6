"""How llama.cpp computes each family, where that differs from transformers, and what its files must therefore hold.

Three differences matter. Rotary positions: transformers turns the first half of a head against the second, llama.cpp's
`llama` neighbour against neighbour, so the rows of its query and key weights stand in another order. Norms: Gemma's
multiply by 1 + w, llama.cpp by what the file holds. Attention's scale: llama.cpp takes Gemma's from the size of a head, the
config may name another; the difference goes into the query norm, which stands right before it. What cannot be said in a
file is refused.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu.errors import ModelError
from pangzhu.model import read_config

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

GEMMA_FULL_EVERY = 6  # llama.cpp's own: every sixth layer attends to all, the others to a window
GEMMA_WINDOW_BASE = 10_000.0  # and the rotary base of those others
GEMMA_27B_LAYERS = 62  # by which it knows the one size that scales attention otherwise


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture of llama.cpp.

    Args:
        arch: its name there.
        neighbours: rotary positions turn neighbouring values.
        activation: of the MLP, in transformers' words.
    """

    arch: str
    neighbours: bool = False
    activation: str = "silu"

    @property
    def is_gemma(self) -> bool:
        """Whether norms multiply by 1 + w."""
        return self.arch == "gemma3"


FAMILIES = {
    "Gemma3ForCausalLM": Family("gemma3", activation="gelu_pytorch_tanh"),
    "LlamaForCausalLM": Family("llama", neighbours=True),
    "MistralForCausalLM": Family("llama", neighbours=True),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": Family("qwen3"),
}


class Architecture:
    """A base model as llama.cpp sees it.

    Args:
        folder: of the base.

    Raises:
        ModelError: a family that is not written, or a setting that llama.cpp does not compute.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config: Any = read_config(folder)  # each family has fields of its own
        name = (self._config.architectures or ["?"])[0]
        if name not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise ModelError("error.export.architecture", where=str(folder), architecture=name, known=known)
        self.family = FAMILIES[name]
        self._refuse_what_is_computed_otherwise()

    @property
    def arch(self) -> str:
        """llama.cpp's name of the family."""
        return self.family.arch

    @property
    def num_layers(self) -> int:
        """Blocks of the model."""
        return int(self._config.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self._config.vocab_size)

    @property
    def head_dim(self) -> int:
        """Values of one attention head."""
        config = self._config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    def tensor_names(self, names: "list[str]") -> dict[str, str]:
        """llama.cpp's name for each of the base's tensors.

        Raises:
            ModelError: one has none.
        """
        import gguf

        arch = {known: number for number, known in gguf.MODEL_ARCH_NAMES.items()}[self.arch]
        table = gguf.get_tensor_name_map(arch, self.num_layers)
        found = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
        for name, known in found.items():
            if known is None:
                raise ModelError("error.export.config", where=str(self._folder), name=name, value="?")
        return found

    def arranged(self, name: str, values: "Tensor") -> "Tensor":
        """A tensor's values as llama.cpp expects them, float32.

        Args:
            name: the base's own for it; of a LoRA matrix B, that of the weight it belongs to.
            values: `(out, ...)`.
        """
        if self.family.neighbours and (heads := self._rotated_heads(name)):
            return values[_neighbours(values.shape[0], heads)]
        if self.family.is_gemma and name.endswith("norm.weight"):
            factor = self._attention_factor() if name.endswith("q_norm.weight") else 1.0
            return (values.float() + 1.0) * factor
        return values

    def add_hyperparameters(self, writer: "GGUFWriter") -> None:
        """Everything of the config that llama.cpp reads."""
        config = self._config
        writer.add_context_length(self._context_length())
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(self.num_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_vocab_size(self.vocab_size)
        if self.family.is_gemma:
            writer.add_sliding_window(config.sliding_window)
        self._add_rope(writer)

    def rope_factors(self) -> "Tensor | None":
        """What each rotary frequency is divided by, `(head_dim / 2,)`, where Llama 3's scaling changes them; else None."""
        if self._rope()["rope_type"] != "llama3":
            return None
        import torch
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](self._config, torch.device("cpu"))
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        factors: Tensor = 1.0 / (self._rope()["rope_theta"] ** steps) / scaled
        return factors

    def _rope(self) -> dict[str, Any]:
        """Rotary settings; Gemma's are those of the layers that attend to all."""
        settings = self._config.rope_parameters
        chosen: dict[str, Any] = settings.get("full_attention", settings)
        return chosen

    def _add_rope(self, writer: "GGUFWriter") -> None:
        import gguf

        rope = self._rope()
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            original = rope.get("original_max_position_embeddings") or self._config.max_position_embeddings
            writer.add_rope_scaling_orig_ctx_len(original)

    def _rotated_heads(self, name: str) -> int:
        """How many heads a tensor's rows make up, where positions turn them; else 0."""
        module = name.rpartition(".")[0].rpartition(".")[2]
        heads = {"q_proj": self._config.num_attention_heads, "k_proj": self._config.num_key_value_heads}
        return int(heads.get(module, 0))

    def _attention_factor(self) -> float:
        """By how much larger Gemma's attention is to be than llama.cpp makes it."""
        config = self._config
        by_hidden = self.num_layers == GEMMA_27B_LAYERS
        size = config.hidden_size // config.num_attention_heads if by_hidden else self.head_dim
        return math.sqrt(size / config.query_pre_attn_scalar)

    def _context_length(self) -> int:
        """Most tokens; where llama.cpp would look beyond a window that the model has, no more than fit into it."""
        length = int(self._config.max_position_embeddings)
        window = getattr(self._config, "sliding_window", None)
        if self.family.is_gemma or not window:
            return length
        types = getattr(self._config, "layer_types", None) or ["sliding_attention"]
        return min(length, int(window)) if "sliding_attention" in types else length

    def _refuse_what_is_computed_otherwise(self) -> None:
        config, rope = self._config, self._rope()
        activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
        checks = {
            "hidden_act": (activation, activation == self.family.activation),
            "rope_type": (rope["rope_type"], rope["rope_type"] in ("default", "linear", "llama3", "yarn")),
            "partial_rotary_factor": (
                rope.get("partial_rotary_factor"),
                rope.get("partial_rotary_factor") in (None, 1.0),
            ),
        }
        if self.family.is_gemma:
            kinds = [
                "sliding_attention" if (layer + 1) % GEMMA_FULL_EVERY else "full_attention"
                for layer in range(self.num_layers)
            ]
            window = config.rope_parameters["sliding_attention"]
            checks |= {
                "layer_types": (config.layer_types, list(config.layer_types) == kinds),
                "rope_theta": (window["rope_theta"], window["rope_theta"] == GEMMA_WINDOW_BASE),
            }
        for name, (value, sound) in checks.items():
            if not sound:
                where = str(self._folder / "config.json")
                raise ModelError("error.export.config", where=where, name=name, value=value)


def _neighbours(num_rows: int, heads: int) -> "Tensor":
    """The order in which rows `(first half, second half)` of each head become neighbours."""
    import torch

    return torch.arange(num_rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)
