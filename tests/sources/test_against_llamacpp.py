"""The packaged models' conversion, proven against llama.cpp on the same GGUF files.

Two comparisons of greedy answers, because llama.cpp on a quantised file rounds the activations too (to 8 bits, block by
block), which no conversion can copy:

1. The conversion itself: llama.cpp on the same weights without quantisation (`write_plain_gguf`). Both sides compute in
   float32 with the same numbers, so the tokens must be the same. Only at a near tie may the two part: where, in our
   model, the chosen token leads the one llama.cpp chose by less than `NEAR_TIE` in log-probability.
2. Fast chat: llama.cpp on the quantised file itself. The two part where the rounding outweighs the lead. Measured as
   agreement over the steps up to the first difference; the bound says that it is the same model.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFValueType
from llamacpp_reference import LlamaCpp, write_plain_gguf
from proof_texts import QUESTIONS, proof_texts

from pangzhu.sources import BaseModel, resolve

pytestmark = [pytest.mark.real, pytest.mark.slow]

SMALL, LARGE = NAMES = ("packaged:smollm2-135m-instruct", "packaged:qwen2.5-coder-0.5b-instruct")
NUM_TOKENS = 16
NEAR_TIE = 0.05


@dataclass
class Converted:
    """A base model with its converted tokenizer and its weights in float32."""

    base: BaseModel
    tokenizer: Any
    model: Any

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of the question in the chat template, up to where the answer begins. The system text is a short one: the
        template's own would be most of what is read."""
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    @cached_property
    def gguf(self) -> GGUFReader:
        """The file it was converted from. Read once: half a million tokens and merges take seconds."""
        assert self.base.gguf is not None
        return GGUFReader(self.base.gguf)

    @cached_property
    def answers(self) -> dict[str, list[int]]:
        """The greedy continuation of every question: `NUM_TOKENS` tokens, or fewer up to an end token."""
        prompts = [self.prompt_ids(question) for question in QUESTIONS]
        padded = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        with torch.no_grad():
            written = self.model.generate(**padded, max_new_tokens=NUM_TOKENS, do_sample=False)
        ends = self.model.generation_config.eos_token_id
        answers = written[:, padded["input_ids"].shape[1] :].tolist()
        return {question: _up_to_end(ids, ends) for question, ids in zip(QUESTIONS, answers, strict=True)}

    def lead(self, ids: Sequence[int], chosen: int, other: int) -> float:
        """Log-probability of `chosen` less that of `other`, as the token after `ids`."""
        with torch.no_grad():
            logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        return float(logits[chosen] - logits[other])


def _up_to_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]


@pytest.fixture(scope="module", params=NAMES)
def converted(request: pytest.FixtureRequest) -> Converted:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = resolve(request.param)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()
    return Converted(base, AutoTokenizer.from_pretrained(base.folder), model)


@pytest.fixture(scope="module")
def quantized(converted: Converted) -> LlamaCpp:
    assert converted.base.gguf is not None
    return LlamaCpp(converted.base.gguf)


@pytest.fixture(scope="module")
def plain(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    target: Path = tmp_path_factory.mktemp("plain") / "plain.gguf"
    write_plain_gguf(converted.gguf, target)
    yield LlamaCpp(target)
    target.unlink()


def test_the_tokenizer_gives_llamacpps_ids(converted: Converted, quantized: LlamaCpp) -> None:
    texts = proof_texts()
    assert len(texts) == 200
    wrong = [
        text
        for text in texts
        if converted.tokenizer(text, add_special_tokens=False)["input_ids"] != quantized.token_ids(text)
    ]
    print(f"{converted.base.name}: {len(texts) - len(wrong)} of {len(texts)} texts with the same ids")
    assert wrong == []


def test_a_text_comes_back_from_its_ids(converted: Converted) -> None:
    for text in proof_texts():
        ids = converted.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert converted.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_letter_in_two_code_points_is_read_as_one_by_qwen_as_its_own_tokenizer_does(
    converted: Converted, quantized: LlamaCpp
) -> None:
    """Qwen's published tokenizer normalises (NFC) and llama.cpp does not; training follows the published one."""
    if "qwen" not in converted.base.name:
        pytest.skip("SmolLM2's tokenizer does not normalise")
    ids = converted.tokenizer("cafe\u0301", add_special_tokens=False)["input_ids"]
    assert ids == quantized.token_ids("caf\u00e9")
    assert ids != quantized.token_ids("cafe\u0301")


@dataclass(frozen=True)
class Answer:
    """Two greedy answers side by side: tokens alike from the start, whether all are, and our lead where they part."""

    num_alike: int
    same: bool
    lead: float


def compare(converted: Converted, reference: LlamaCpp) -> list[Answer]:
    """Every question's two answers."""
    theirs = reference.greedy([converted.prompt_ids(question) for question in QUESTIONS], NUM_TOKENS)
    return [_compared(converted, *pair) for pair in zip(QUESTIONS, theirs, strict=True)]


def _compared(converted: Converted, question: str, theirs: list[int]) -> Answer:
    ours = converted.answers[question]
    if ours == theirs:
        return Answer(len(ours), same=True, lead=0.0)
    alike = next(index for index, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    lead = converted.lead([*converted.prompt_ids(question), *ours[:alike]], ours[alike], theirs[alike])
    return Answer(alike, same=False, lead=lead)


def report(title: str, answers: Sequence[Answer]) -> str:
    """One line of counts."""
    same = sum(answer.same for answer in answers)
    leads = ", ".join(f"{answer.lead:.3f} after {answer.num_alike}" for answer in answers if not answer.same)
    return f"{title}: {same} of {len(answers)} greedy answers the same; lead where they part: {leads or 'nowhere'}"


@pytest.mark.parametrize("converted", [SMALL, pytest.param(LARGE, marks=pytest.mark.torture)], indirect=True)
def test_the_same_weights_give_the_same_greedy_tokens(converted: Converted, plain: LlamaCpp) -> None:
    answers = compare(converted, plain)
    print(report(f"{converted.base.name}, plain weights", answers))
    assert all(answer.same or answer.lead < NEAR_TIE for answer in answers)
    assert sum(answer.same for answer in answers) >= 9


def test_the_quantized_file_is_the_same_model(converted: Converted, quantized: LlamaCpp) -> None:
    answers = compare(converted, quantized)
    print(report(f"{converted.base.name}, quantised file", answers))
    alike = sum(answer.num_alike for answer in answers)
    assert alike / (alike + sum(not answer.same for answer in answers)) > 0.9


def after_key(gguf: Path, key: str) -> bytes:
    """What stands behind a key at the beginning of a GGUF file: four bytes of type, then the value. `GGUFReader` would read
    half a million tokens and merges too, which takes seconds."""
    with gguf.open("rb") as opened:
        return opened.read(16_000_000).partition(key.encode())[2]


def test_the_folder_says_what_chat_needs(converted: Converted) -> None:
    assert converted.base.gguf is not None
    tokenizer, settings = converted.tokenizer, converted.model.generation_config
    template = tokenizer.chat_template.encode()
    text_of_so_many_bytes = struct.pack("<IQ", GGUFValueType.STRING, len(template))
    assert after_key(converted.base.gguf, "tokenizer.chat_template").startswith(text_of_so_many_bytes + template)
    assert tokenizer.eos_token == "<|im_end|>"
    assert settings.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    pad = struct.pack("<II", GGUFValueType.UINT32, settings.pad_token_id)
    assert after_key(converted.base.gguf, "tokenizer.ggml.padding_token_id").startswith(pad)
    assert tokenizer.decode(tokenizer("<|im_start|>a<|im_end|>")["input_ids"], skip_special_tokens=True) == "a"


def test_the_embedding_is_one_matrix_in_memory_and_on_disk(converted: Converted) -> None:
    from safetensors import safe_open

    model = converted.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    with safe_open(converted.base.folder / "model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
        assert tensors.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
    assert "lm_head.weight" not in names
    assert sum(parameter.numel() for parameter in model.parameters()) in (134_515_008, 494_032_768)
