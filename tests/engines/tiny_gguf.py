"""A tiny base and its adapters as GGUF files, in float32, for the tests of the llama.cpp engine.

Qwen2 alone, whose weights llama.cpp takes as they are. What a user converts is written by the package; these files are
written here, tensor by tensor, so that the engine is not proven by what it is used with.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from pangzhu.engines.named_models import LoadedAdapter
from pangzhu.preparation import PreparedBase
from tests.conftest import CONTROL_TOKENS

ARCHITECTURE = "qwen2"
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
IN_A_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Converter:
    """Writes a folder's GGUF file into a folder of its own, once.

    Args:
        target: where files go.
        factor: every matrix of an adapter is multiplied by it; a huge one makes its probabilities NaN.
    """

    def __init__(self, target: Path, *, factor: float = 1.0) -> None:
        self._target = target
        self._factor = factor

    def obstacle(self, base: PreparedBase) -> None:
        """Nothing is in the way."""

    def base(self, base: PreparedBase) -> Path:
        """The GGUF file of a base."""
        return self._once(base.source.folder, write_base)

    def adapter(self, adapter: LoadedAdapter, base: PreparedBase) -> Path:
        """The LoRA-GGUF file of an adapter."""
        return self._once(adapter.folder, partial(write_adapter, factor=self._factor))

    def _once(self, folder: Path, write: Callable[[Path, Path], None]) -> Path:
        file = self._target / f"{folder.name}-{self._factor:g}.gguf"
        if not file.exists():
            write(folder, file)
        return file


def write_base(folder: Path, file: Path) -> None:
    """The tiny model of a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_vocabulary(writer, folder, num_tokens=config["vocab_size"], end_id=config["eos_token_id"])
    for name, values in load_file(folder / "model.safetensors").items():
        head, _, kind = name.rpartition(".")
        writer.add_tensor(f"{_tensor(head)}.{kind}", values.astype(np.float32))
    _write(writer)


def write_adapter(folder: Path, file: Path, *, factor: float = 1.0) -> None:
    """peft's adapter as the LoRA-GGUF that llama.cpp reads, every matrix multiplied by `factor`."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, values in _float32_tensors(folder / "adapter_model.safetensors").items():
        head, matrix = name.removesuffix(".weight").removeprefix("base_model.model.").rsplit(".lora_", 1)
        writer.add_tensor(f"{_tensor(head)}.weight.lora_{matrix.lower()}", values * np.float32(factor))
    _write(writer)


def _tensor(name: str) -> str:
    """`model.layers.0.mlp.up_proj` -> `blk.0.ffn_up`."""
    if name in TENSORS:
        return TENSORS[name]
    number, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{IN_A_BLOCK[part]}"


def _float32_tensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file as load_tensors  # numpy has no bfloat16

    return {name: tensor.float().numpy() for name, tensor in load_tensors(file).items()}


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, *, num_tokens: int, end_id: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    assert len(tokens) == num_tokens
    special, plain = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([special if token in CONTROL_TOKENS else plain for token in tokens])
    writer.add_token_merges(["a b"])  # ids come in, so nothing is ever merged; a list must hold something
    writer.add_eos_token_id(end_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ no template")  # whoever used it would stumble


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
