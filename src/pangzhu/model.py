"""The base model and its tokenizer from a folder, LoRA attached, and the fingerprints that tell one base from another.

This is the only module that knows about differences between library versions and model families. Weights come from
safetensors alone; code from a hub is never run.

Left to others: where the folder comes from (`pangzhu.sources`), what is saved (`pangzhu.adapter`).
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pangzhu.config import LoraOptions
from pangzhu.errors import ModelError, UsageError, nearest

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = frozenset(
    {
        "Gemma3ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)
TOKENIZERS = {  # AutoTokenizer's choice by model_type and tokenizer_class; to import it takes torch and 180 MB
    ("qwen2", "Qwen2Tokenizer"): "Qwen2Tokenizer",
    ("qwen3", "Qwen2Tokenizer"): "Qwen2Tokenizer",
    ("llama", "PreTrainedTokenizer"): "PreTrainedTokenizerFast",
    ("llama", "TokenizersBackend"): "PreTrainedTokenizerFast",
}
NUMBERS = {  # numpy's names of what safetensors files hold; bf16, which it has not, as bits
    "BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "BOOL": "<u1",
}  # fmt: skip
MOST_CACHED_WORDS = 1000
MOST_JSON_BYTES = 2**20  # of a description, config or manifest; the largest that are met have some ten thousand
HEAD_MODULES = frozenset({"lm_head", "embed_tokens"})
UNREADABLE = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError)  # of transformers


@dataclass(frozen=True, slots=True)
class BaseFingerprint:
    """Short hashes that differ between any two bases an adapter could be mixed up with."""

    config: str
    tensors: str
    tokenizer: str

    def differences(self, other: "BaseFingerprint") -> list[str]:
        """Names of the parts that differ."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


def quiet_libraries() -> None:
    """Keep transformers' own bars and notices off the screen; what matters is said by us."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder.

    Raises:
        ModelError: the folder holds none that can be read.
    """
    quiet_libraries()
    try:
        tokenizer: PreTrainedTokenizerBase = _tokenizer_class(folder).from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as broken:  # the tokenizers library raises bare Exception for a broken file
        raise ModelError("error.model.tokenizer_unreadable", where=str(folder), reason=str(broken)) from broken
    _bound_word_cache(tokenizer)
    _forget_copies(tokenizer)
    return tokenizer


def _tokenizer_class(folder: Path) -> "type[PreTrainedTokenizerBase]":
    """The class that AutoTokenizer would choose, or AutoTokenizer itself to choose it."""
    import transformers

    named = _field(folder / "config.json", "model_type"), _field(folder / "tokenizer_config.json", "tokenizer_class")
    chosen: type[PreTrainedTokenizerBase] = getattr(transformers, TOKENIZERS.get(named, "AutoTokenizer"))
    return chosen


def _field(file: Path, name: str) -> str:
    """A field of a JSON file, a class without the suffix of old versions; empty where there is none."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(content.get(name, "")).removesuffix("Fast")


def _bound_word_cache(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Where the tokenizers library remembers how it split words, let it remember fewer: 10,000 by default, which are whole
    clauses in Chinese, 40 MB that gain 3% of the time."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    resize = getattr(model, "_resize_cache", None)
    if resize is not None:
        resize(MOST_CACHED_WORDS)


def _forget_copies(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Let go of what a tokenizer was built of, 58 MB of a Qwen's: the tokenizers library has it, and nobody reads it again."""
    for name in ("_vocab", "_merges"):
        vars(tokenizer).pop(name, None)


def load_base(
    folder: Path, *, precision: Literal["bf16", "float32"], device: Literal["cpu", "cuda"] = "cpu"
) -> "PreTrainedModel":
    """The frozen base model of a folder, in evaluation mode.

    Args:
        folder: config.json and safetensors.
        precision: number format of the weights in memory.
        device: where they go.

    Raises:
        ModelError: an architecture that is not supported, files that cannot be read, or a weight that is not in them.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    _check_architecture(folder)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (*UNREADABLE, SafetensorError) as broken:
        raise ModelError("error.model.weights_unreadable", where=str(folder), reason=str(broken)) from broken
    if missing := sorted(loading["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError("error.model.weights_missing", where=str(folder), names=", ".join(missing[:3]))
    model.requires_grad_(False)
    return model.to(device).eval()


def build_skeleton(folder: Path) -> "PreTrainedModel":
    """The frozen base model of a folder without its weights (on torch's `meta` device): what it is made of, for no memory.

    Raises:
        ModelError: an architecture that is not supported, or a config that cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet_libraries()
    _check_architecture(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="sdpa")
    except UNREADABLE as broken:
        raise ModelError("error.model.weights_unreadable", where=str(folder), reason=str(broken)) from broken
    model.requires_grad_(False)
    return model.eval()


def attach_lora(model: "PreTrainedModel", options: LoraOptions) -> "PeftModel":
    """The base model with a fresh adapter of the given shape; its parameters are float32 and alone trainable.

    Raises:
        UsageError: a target module the model does not have, or the head.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_target_modules(model, options.target_modules),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    return get_peft_model(model, config)


def trainable_parameters(model: "torch.nn.Module") -> "list[torch.nn.Parameter]":
    """The adapter's parameters, in the model's own order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def cache_name() -> str:
    """What `generate` calls the keys and values it takes and gives: `cache` from transformers 5.24 on."""
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    names = {field.name for field in fields(GenerateDecoderOnlyOutput)}
    return "cache" if "cache" in names else "past_key_values"


def context_length(model: "PreTrainedModel") -> int:
    """Longest sequence, in tokens, that the base was made for."""
    return int(model.config.max_position_embeddings)


def generation_stop_ids(folder: Path) -> tuple[int, ...]:
    """End tokens that the model's generation_config.json names; none where it names none."""
    file = folder / "generation_config.json"
    if not file.exists():
        return ()
    ids = read_json(file).get("eos_token_id")
    return tuple(ids) if isinstance(ids, list) else (ids,) if isinstance(ids, int) else ()


def base_fingerprint(folder: Path) -> BaseFingerprint:
    """Fingerprint of a model folder: its config, every tensor's name, shape, type and first row, and its tokenizer.

    The first rows tell a base from its own merged or further trained descendants, whose small tensors often are the same.

    Raises:
        ModelError: a file is missing or not what its name says.
    """
    config = read_json(folder / "config.json")
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    return BaseFingerprint(
        config=_short_hash(json.dumps(config, sort_keys=True).encode()),
        tensors=_short_hash(*_tensor_evidence(folder)),
        tokenizer=_short_hash((folder / "tokenizer.json").read_bytes())
        if (folder / "tokenizer.json").exists()
        else "none",
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder.

    Raises:
        ModelError: missing, or not a JSON object.
    """
    try:
        if file.stat().st_size > MOST_JSON_BYTES:
            raise ModelError("error.model.file_too_large", where=str(file), megabytes=MOST_JSON_BYTES >> 20)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as broken:
        raise ModelError("error.model.file_unreadable", where=str(file), reason=str(broken)) from broken
    if not isinstance(content, dict):
        raise ModelError("error.model.file_unreadable", where=str(file), reason=type(content).__name__)
    return content


def is_tied(folder: Path) -> bool:
    """Whether a model's output matrix is its input embedding, as its config says or its family has it.

    Raises:
        ModelError: a config that cannot be read.
    """
    return bool(read_config(folder).tie_word_embeddings)


def read_config(folder: Path) -> "PreTrainedConfig":
    """A model folder's config with what its family fills in, code from a hub never run.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig

    quiet_libraries()
    _check_architecture(folder)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except UNREADABLE as broken:
        raise ModelError(
            "error.model.file_unreadable", where=str(folder / "config.json"), reason=str(broken)
        ) from broken
    return config


def num_parameters(folder: Path) -> int:
    """Numbers in the weights of a model folder, by their headers.

    Raises:
        ModelError: a file is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as broken:
            raise ModelError("error.model.weights_unreadable", where=str(file), reason=str(broken)) from broken
    return total


def _check_architecture(folder: Path) -> None:
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise ModelError("error.model.quantized", where=str(folder / "config.json"))
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "?"
    if architecture not in ARCHITECTURES:
        raise ModelError(
            "error.model.architecture",
            where=str(folder / "config.json"),
            architecture=architecture,
            known=", ".join(sorted(ARCHITECTURES)),
        )


def _target_modules(model: "PreTrainedModel", wanted: str) -> list[str]:
    """Names of the linear layers to attach to, sorted: all but the head, or the wanted ones, each checked."""
    import torch

    present = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if wanted == "all-linear":
        return sorted(present - HEAD_MODULES)
    names = sorted({name.strip() for name in wanted.split(",") if name.strip()})
    for name in names or [wanted]:
        if name in HEAD_MODULES:
            raise UsageError("error.model.target_head", where="--target_modules", name=name)
        if name not in present:
            raise UsageError(
                "error.model.target_unknown",
                where="--target_modules",
                name=name,
                hint=nearest(name, present),
                present=", ".join(sorted(present - HEAD_MODULES)),
            )
    return names


def _tensor_evidence(folder: Path) -> Iterator[bytes]:
    """Every tensor's header, then the first row of each as float32, file by file in the order of names."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                pieces = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
                headers = {name: (piece.get_shape(), str(piece.get_dtype())) for name, piece in pieces.items()}
            yield json.dumps(headers, sort_keys=True).encode()
            yield from _first_rows(file, headers)
        except (SafetensorError, OSError) as broken:
            raise ModelError("error.model.weights_unreadable", where=str(file), reason=str(broken)) from broken


def _first_rows(file: Path, headers: Mapping[str, tuple[list[int], str]]) -> Iterator[bytes]:
    """The first row of each tensor as float32, or all of one that has no rows."""
    with file.open("rb") as opened:
        data = 8 + int.from_bytes(opened.read(8), "little")
        entries = json.loads(opened.read(data - 8))
        for name, (shape, number_format) in headers.items():
            begin, end = entries[name]["data_offsets"]
            opened.seek(data + begin)
            yield _as_float32(opened.read((end - begin) // (max(1, shape[0]) if len(shape) > 1 else 1)), number_format)


def _as_float32(raw: bytes, number_format: str) -> bytes:
    """Numbers of a safetensors file as float32; of a format that numpy has not, as they are."""
    if number_format not in NUMBERS:
        return raw
    numbers = np.frombuffer(raw, NUMBERS[number_format])
    if number_format == "BF16":
        return (numbers.astype("<u4") << 16).tobytes()
    return numbers.astype("<f4").tobytes()


def _short_hash(*pieces: bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:16]
