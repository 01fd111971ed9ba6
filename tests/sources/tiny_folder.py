"""A model folder small enough to serve, cut and count: whole by every check, with nothing in it to run."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"
NOWHERE = "http://127.0.0.1:9"


def tiny_weights(seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    return save({"model.embed_tokens.weight": values, "model.norm.weight": values[0]})


def tiny_files() -> dict[str, bytes]:
    """A model folder's files: enough for every check, nothing to run."""
    tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    return {
        "config.json": json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}).encode(),
        "generation_config.json": b'{"eos_token_id": 0}',
        "model.safetensors": tiny_weights(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": b'{"tokenizer_class": "Qwen2Tokenizer"}',
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
