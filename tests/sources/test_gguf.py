"""Conversion of a GGUF file, on a tiny one written here; the real ones stand in test_against_llamacpp.py."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_folder import tiny_files

from pangzhu.errors import ModelError
from pangzhu.sources.folder import check_folder
from pangzhu.sources.gguf_import import convert_gguf
from pangzhu.sources.gguf_tokenizer import GgufVocabulary, TokenKind, build_tokenizer

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def vocabulary(pre: str, *, context_length: int = 64) -> GgufVocabulary:
    """One token a byte, two merges, three control tokens, one user-defined, two padding rows."""
    plain = [*alphabet(), "12", "ab"]
    added = [*CONTROL, "<tool_call>", "[PAD1]", "[PAD2]"]
    kinds = (
        [TokenKind.NORMAL] * len(plain) + [TokenKind.CONTROL] * 3 + [TokenKind.USER_DEFINED] + [TokenKind.UNUSED] * 2
    )
    end, _, turn = (len(plain) + number for number in range(3))
    return GgufVocabulary(
        pre=pre,
        tokens=(*plain, *added),
        kinds=tuple(kinds),
        merges=("1 2", "a b"),
        special={"bos": end, "eos": turn, "padding": end},
        chat_template=TEMPLATE,
        context_length=context_length,
    )


def texts(pre: str, text: str) -> list[str]:
    tokenizer = build_tokenizer(vocabulary(pre))
    return [tokenizer.decode([token], skip_special_tokens=False) for token in tokenizer.encode(text).ids]


@pytest.mark.parametrize("pre", ["qwen2", "smollm"])
def test_digits_are_read_one_by_one_and_letters_are_merged(pre: str) -> None:
    assert texts(pre, "ab12") == ["ab", "1", "2"]


@pytest.mark.parametrize("pre", ["qwen2", "smollm"])
@pytest.mark.parametrize("text", ["中文，标点。", "a\n\n  b\t", "🙂", "１２", "\u00e9x"])
def test_any_text_comes_back(pre: str, text: str) -> None:
    tokenizer = build_tokenizer(vocabulary(pre))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_qwen_normalises_and_smollm_does_not() -> None:
    qwen, smollm = build_tokenizer(vocabulary("qwen2")), build_tokenizer(vocabulary("smollm"))
    assert qwen.encode("e\u0301").ids == qwen.encode("\u00e9").ids
    assert smollm.encode("e\u0301").ids != smollm.encode("\u00e9").ids


@pytest.mark.parametrize("token", [*CONTROL, "<tool_call>"])
def test_added_tokens_keep_their_ids_and_stay_whole(token: str) -> None:
    known = vocabulary("qwen2")
    ids = build_tokenizer(known).encode(f"a{token}b").ids
    assert ids[1] == known.tokens.index(token)
    assert len(ids) == 3


def test_control_tokens_are_special_and_user_defined_ones_are_not() -> None:
    tokenizer = build_tokenizer(vocabulary("qwen2"))
    ids = tokenizer.encode("<|im_start|>a<tool_call><|im_end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool_call>"


def test_padding_rows_of_the_embedding_have_no_text() -> None:
    tokenizer = build_tokenizer(vocabulary("qwen2"))
    assert tokenizer.token_to_id("[PAD1]") is None
    assert tokenizer.get_vocab_size() == len(vocabulary("qwen2").tokens) - 2


def test_answers_end_at_the_turns_and_at_the_texts_end() -> None:
    known = vocabulary("qwen2")
    assert known.stop_ids == [known.tokens.index("<|im_end|>"), known.tokens.index("<|endoftext|>")]


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes `(rows, columns)` of a tiny Qwen2 in llama.cpp's words."""
    head = HIDDEN // HEADS
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (HIDDEN,),
        "ffn_norm.weight": (HIDDEN,),
        "attn_q.weight": (HIDDEN, HIDDEN),
        "attn_q.bias": (HIDDEN,),
        "attn_k.weight": (KV_HEADS * head, HIDDEN),
        "attn_k.bias": (KV_HEADS * head,),
        "attn_v.weight": (KV_HEADS * head, HIDDEN),
        "attn_v.bias": (KV_HEADS * head,),
        "attn_output.weight": (HIDDEN, HIDDEN),
        "ffn_gate.weight": (FEED_FORWARD, HIDDEN),
        "ffn_up.weight": (FEED_FORWARD, HIDDEN),
        "ffn_down.weight": (HIDDEN, FEED_FORWARD),
    }
    rows = len(vocabulary("qwen2").tokens)
    ends = {"token_embd.weight": (rows, HIDDEN), "output.weight": (rows, HIDDEN), "output_norm.weight": (HIDDEN,)}
    return ends | {f"blk.{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}


def write_tiny_gguf(
    path: Path, *, pre: str = "qwen2", model: str = "gpt2", end: TokenKind = TokenKind.CONTROL
) -> dict[str, np.ndarray]:
    """A random Qwen2 whose embedding is stored twice, with different values; its tensors. `end` is what its end token is."""
    known = vocabulary(pre)
    kinds = [end if id_ == known.special["eos"] else kind for id_, kind in enumerate(known.kinds)]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(known.context_length)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(known.tokens))
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(list(known.merges))
    writer.add_bos_token_id(known.special["bos"])
    writer.add_eos_token_id(known.special["eos"])
    writer.add_pad_token_id(known.special["padding"])
    writer.add_chat_template(TEMPLATE)
    chance = np.random.default_rng(7)
    tensors = {name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes().items()}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def num_parameters() -> int:
    """With the embedding counted once."""
    return sum(int(np.prod(shape)) for name, shape in shapes().items() if name != "token_embd.weight")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    work = tmp_path_factory.mktemp("gguf")
    tensors = write_tiny_gguf(work / "tiny.gguf")
    folder = work / "model"
    folder.mkdir()
    convert_gguf(work / "tiny.gguf", folder, tied=True, num_parameters=num_parameters())
    return folder, tensors


def test_the_folder_passes_the_check_every_base_model_passes(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = converted
    check_folder(folder)
    assert {path.name for path in folder.iterdir()} == set(tiny_files()) | {"chat_template.jinja"}


def test_the_outputs_copy_of_the_embedding_serves_as_both(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    import torch
    from safetensors.torch import load_file

    folder, tensors = converted
    stored = load_file(folder / "model.safetensors")
    expected = torch.from_numpy(tensors["output.weight"]).to(torch.bfloat16)
    assert torch.equal(stored["model.embed_tokens.weight"], expected)
    assert "lm_head.weight" not in stored
    assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())


def test_transformers_loads_the_folder_as_any_other(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = converted
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer("ab12<|im_end|>")["input_ids"] == build_tokenizer(vocabulary("qwen2")).encode("ab12<|im_end|>").ids
    known = vocabulary("qwen2")
    assert model.generation_config.eos_token_id == known.stop_ids
    assert model.generation_config.do_sample is False


def test_the_config_carries_no_trace_of_gguf(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    config = json.loads((converted[0] / "config.json").read_text())
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config
    assert (config["tie_word_embeddings"], config["rms_norm_eps"]) == (True, 1e-6)


def test_a_wrong_number_of_parameters_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError) as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, tied=True, num_parameters=1)
    assert caught.value.key == "error.model.conversion_failed"


def test_an_embedding_left_in_two_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    both = num_parameters() + int(np.prod(shapes()["token_embd.weight"]))
    with pytest.raises(ModelError, match="tied False"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, tied=False, num_parameters=both)


def test_an_end_token_that_ordinary_text_is_cut_into_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", end=TokenKind.NORMAL)
    with pytest.raises(ModelError, match="end token") as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, tied=True, num_parameters=num_parameters())
    assert caught.value.key == "error.model.conversion_failed"


@pytest.mark.parametrize(("pre", "model"), [("llama-bpe", "gpt2"), ("qwen2", "llama")])
def test_a_tokenizer_that_is_not_known_is_refused_rather_than_guessed(tmp_path: Path, pre: str, model: str) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", pre=pre, model=model)
    with pytest.raises(ModelError) as caught:
        GgufVocabulary.from_file(tmp_path / "tiny.gguf")
    assert caught.value.key == "error.model.gguf_tokenizer"


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"not a GGUF file at all" * 10)
    with pytest.raises(ModelError) as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, tied=True, num_parameters=1)
    assert caught.value.key == "error.model.conversion_failed"
