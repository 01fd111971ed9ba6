"""Text as ids arrive: however characters are split over tokens, and tokens over rounds, whole ones come out and nothing else."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pangzhu.engines import REPLACEMENT
from pangzhu.engines.named_models import BASE
from pangzhu.engines.streaming import Characters, as_text
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.template import PromptContract
from tests.conftest import TEMPLATE, build_tokenizer
from tests.use_helpers import GREEDY
from tests.use_helpers import SPLIT_TEXTS as TEXTS

pytestmark = pytest.mark.untraced

pytest_plugins = ["tests.use_fixtures"]


def byte_pairs() -> PreTrainedTokenizerFast:
    """Tokens of several bytes that begin and end in the middle of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    shifted = ["".join(chr(0x4E00 + 37 * number + step) for step in range(40)) for number in range(200)]
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(alphabet), special_tokens=["<|im_end|>"])
    tokenizer.train_from_iterator([*TEXTS, *shifted], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TEMPLATE)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Whole characters where the vocabulary has them, their bytes elsewhere, as SentencePiece does it."""
    known = ["<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz法合の"]
    vocabulary = {token: number for number, token in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TEMPLATE)


BUILDERS = {"bytes": build_tokenizer, "byte pairs": byte_pairs, "byte fallback": byte_fallback}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return BUILDERS[name]()


def listen(name: str) -> tuple[Characters, list[str]]:
    """Takes ids, and what it has written."""
    pieces: list[str] = []
    end = tokenizer_of(name).eos_token_id
    return Characters(tokenizer_of(name), PromptContract(TEMPLATE, None, end, (end,), None), pieces.append), pieces


def streamed(name: str, groups: Sequence[Sequence[int]]) -> list[str]:
    """What is written while ids come in these groups, the end last."""
    characters, pieces = listen(name)
    for group in groups:
        characters.add(group)
    characters.close()
    return pieces


def ids_of(name: str, text: str) -> list[int]:
    ids: list[int] = tokenizer_of(name)(text, add_special_tokens=False)["input_ids"]
    assert as_text(tokenizer_of(name), ids) == text
    return ids


def test_tokens_begin_and_end_in_the_middle_of_characters() -> None:
    ids = ids_of("byte pairs", "".join(TEXTS))
    halves = [token for token in ids if REPLACEMENT in as_text(tokenizer_of("byte pairs"), [token])]
    assert any(len(str(tokenizer_of("byte pairs").convert_ids_to_tokens(token))) > 1 for token in halves)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("text", TEXTS)
def test_one_at_a_time_and_cut_in_two_anywhere(name: str, text: str) -> None:
    ids = ids_of(name, text)
    splits = [[[token] for token in ids], *([ids[:place], ids[place:]] for place in range(len(ids) + 1))]
    for groups in splits:
        pieces = streamed(name, groups)
        assert "".join(pieces) == text
        assert not any(REPLACEMENT in piece or not piece for piece in pieces)


@given(data=st.data(), name=st.sampled_from(list(BUILDERS)), texts=st.lists(st.sampled_from(TEXTS), max_size=6))
def test_in_any_groups(data: st.DataObject, name: str, texts: list[str]) -> None:
    text = "".join(texts)
    ids = ids_of(name, text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=len(ids))))
    pieces = streamed(name, [ids[begin:end] for begin, end in pairwise([0, *cuts, len(ids)])])
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@given(text=st.text())
def test_any_text_at_all(text: str) -> None:
    """What is in it may be U+FFFD itself."""
    assert "".join(streamed("bytes", [[token] for token in ids_of("bytes", text)])) == text


@pytest.mark.parametrize("text", TEXTS)
def test_every_character_comes_with_its_last_byte(text: str) -> None:
    characters, pieces = listen("bytes")
    written = text.encode()
    for place, token in enumerate(ids_of("bytes", text), start=1):
        characters.add([token])
        assert "".join(pieces) == written[:place].decode(errors="ignore")


def test_what_is_whole_does_not_wait_for_the_rest_of_its_round() -> None:
    characters, pieces = listen("bytes")
    characters.add(ids_of("bytes", "法律")[:-1])
    assert pieces == ["法"]


def test_bytes_that_are_no_text_come_as_the_answer_has_them() -> None:
    ids = [*ids_of("bytes", "a法")[:-1], *ids_of("bytes", "b😀")[:-1]]
    assert "".join(streamed("bytes", [[token] for token in ids])) == as_text(tokenizer_of("bytes"), ids)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_hands_on_the_same(plain: TransformersEngine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Its `generate` gives the prompt first, then id by id."""
    ids, pieces = ids_of("bytes", text), list[str]()

    def write(_model: object, prompts: list[list[int]], *_: object, streamer: Any, **__: object) -> list[list[int]]:
        for arrived in (prompts[0], *ids):
            streamer.put(torch.tensor(arrived).reshape(-1))
        streamer.end()
        return [[*ids, 2]]

    monkeypatch.setattr("pangzhu.engines.transformers.write_in_rounds", write)
    answer = TransformersEngine(plain.model, plain._base).generate([5, 6, 7], BASE, GREEDY, write=pieces.append)
    assert pieces == streamed("bytes", [[token] for token in ids])
    assert answer.text == text
