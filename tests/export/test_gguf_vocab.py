"""A vocabulary in a GGUF file gives llama.cpp the ids that transformers makes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pangzhu.data.conversation import Turn
from pangzhu.errors import ModelError
from pangzhu.export.gguf import export
from pangzhu.export.gguf_vocab import (
    LLAMA3_SPLIT,
    SPACE,
    Vocabulary,
    _pre_of,
    adds_bos,
    piece_bytes,
    read_vocabulary,
)
from pangzhu.export.llamacpp import GgufReader
from pangzhu.export.options import ExportConfig
from pangzhu.sources.gguf_tokenizer import QWEN2_SPLIT
from pangzhu.template import contract_for, render
from tests.conftest import TEMPLATE, build_tokenizer

pytest.importorskip("xllamacpp")

TEXTS = (
    "the theatre",
    "  two  blanks\n\nand\tlines",
    "It's 2024, isn't it?",
    "中文和 English 😀",
    "e\u0301 é",
    "123456",
    "",
)
CORPUS = ["the theatre is there, and then the others are here in 2024; it's theirs, isn't it? 中文 中文 😀"] * 3
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def with_bytes(*, space_first: bool) -> Tokenizer:
    """BPE with bytes to fall back on, as Llama's and Gemma's sentencepiece vocabularies stand in tokenizer.json."""
    replacing = normalizers.Replace(" ", SPACE)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend(SPACE), replacing] if space_first else [replacing]
    tokenizer.normalizer = normalizers.Sequence(steps)
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:1]  # bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def byte_level(split: str | None, *, digits: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    cut: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    if split:
        cut.insert(0, pre_tokenizers.Split(Regex(split), behavior="isolated"))
    if digits:
        cut.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut) if len(cut) > 1 else cut[0]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


KINDS = {
    "llama": lambda: with_bytes(space_first=True),
    "gemma": lambda: with_bytes(space_first=False),
    "qwen2": lambda: byte_level(QWEN2_SPLIT),
    "llama-bpe": lambda: byte_level(LLAMA3_SPLIT),
    "smollm": lambda: byte_level(None, digits=True),
    "gpt-2": lambda: byte_level(None),
}


def write_model(folder: Path, tokenizer: Tokenizer) -> Path:
    """A tiny Llama with this tokenizer, and three rows of its embedding that no token has."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=CONTROL[2], pad_token=CONTROL[0], chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(fast) + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_llamacpp_makes_the_same_ids_of_every_prompt(kind: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", KINDS[kind]())
    config = ExportConfig(format="gguf", content="base", model_name_or_path=str(base), output_dir=tmp_path / "gguf", outtype="f16", verify=False)  # fmt: skip
    file = export(config).folder / "base-f16.gguf"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    contract = contract_for(tokenizer)
    vocabulary = read_vocabulary(base, len(tokenizer) + 3)
    with GgufReader("file", file, None, vocabulary, contract, room=256).opened("cpu") as voice:
        for text in TEXTS:
            turns = [Turn("user", text)]
            assert voice.prompt(turns) == tuple(render(tokenizer, contract, turns, add_generation_prompt=True)), text


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_tokens_are_the_text(kind: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", KINDS[kind]())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    vocabulary = read_vocabulary(base, len(tokenizer) + 3)
    for text in TEXTS:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        told = b"".join(piece_bytes(vocabulary, token) for token in ids).decode()
        assert told.removeprefix(" " if vocabulary.space_first and text else "") == text
    assert vocabulary.tokens[-1].startswith("[UNUSED")


def test_a_vocabulary_without_merges_is_whole_too(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    vocabulary = read_vocabulary(tmp_path, 259)
    assert (vocabulary.model, vocabulary.pre, len(vocabulary.merges)) == ("gpt2", "gpt-2", 1)
    assert isinstance(vocabulary, Vocabulary)


@pytest.mark.parametrize(
    "described",
    [None, {"type": "ByteLevel", "use_regex": False}, {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}, {"type": "ByteLevel"}]}],
)  # fmt: skip
def test_a_cut_that_has_no_known_name_is_refused(described: dict[str, Any] | None) -> None:
    with pytest.raises(ModelError) as caught:
        _pre_of(described, Path("tokenizer.json"))
    assert caught.value.key == "error.export.tokenizer"


def test_a_vocabulary_of_another_kind_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError) as caught:
        read_vocabulary(tmp_path, 1)
    assert caught.value.values["reason"] == "WordLevel"


@pytest.mark.parametrize("puts_it", [True, False])
@pytest.mark.parametrize(
    "template", [TEMPLATE, "{{- bos_token -}}" + TEMPLATE, TEMPLATE.replace("<|im_start|>", "<|im_end|>")]
)
def test_readers_put_the_first_token_where_tokenizer_and_prompt_do(puts_it: bool, template: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    if puts_it:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
        )
    contract = replace(contract_for(build_tokenizer()), chat_template=template)
    begins = "<|im_start|>" in template
    assert adds_bos(tokenizer, contract) is (puts_it and begins)
