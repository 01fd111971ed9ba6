"""A tokenizer -> what a GGUF file says of it, so that llama.cpp makes the same ids.

Two kinds are known. Byte-level BPE: tokens, merges, and the name of the rule that cuts text before the merges
(`tokenizer.ggml.pre`), told by the `pre_tokenizer` of tokenizer.json. BPE with bytes to fall back on, the form that
sentencepiece vocabularies have in tokenizer.json: llama.cpp merges the pair whose token has the highest score, so each
token's score is the rank of its merge. What is neither is refused. Whether the ids are the same is not taken on trust: the
gate compares them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu.errors import ModelError
from pangzhu.sources.gguf_tokenizer import QWEN2_SPLIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

    from pangzhu.template import PromptContract

LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")
PRE_OF_SPLIT = {QWEN2_SPLIT: "qwen2", LLAMA3_SPLIT: "llama-bpe"}
NO_MERGE = "<|> <|>"  # llama.cpp wants a list, gguf writes no empty one; a pair that no text begins with
UNUSED = "[UNUSED{}]"  # rows of the embedding that no token has
BYTE = "<0x{:02X}>"
SPACE = "\u2581"  # sentencepiece's


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer is made of.

    Args:
        model: llama.cpp's name for how it merges, `gpt2` or `llama`.
        pre: and for how it cuts before.
        tokens: text by id, in the tokenizer's own alphabet.
        kinds: a `gguf.TokenType` each.
        merges: "left right", in order.
        scores: by id; only of `llama`.
        space_first: a blank is put before a text.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    space_first: bool


def read_vocabulary(folder: Path, vocab_size: int) -> Vocabulary:
    """The vocabulary of a base.

    Args:
        folder: with a tokenizer.json.
        vocab_size: rows of the embedding; those without a token are filled up.

    Raises:
        ModelError: a tokenizer whose name at llama.cpp is not known.
    """
    file = folder / "tokenizer.json"
    described = _read(file)
    model, added = described["model"], described.get("added_tokens") or []
    if model.get("type") != "BPE":
        raise ModelError("error.export.tokenizer", where=str(file), reason=model.get("type"))
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    falls_back = bool(model.get("byte_fallback"))
    tokens = {index: token for token, index in model["vocab"].items()} | {one["id"]: one["content"] for one in added}
    texts = tuple(tokens.get(index, UNUSED.format(index)) for index in range(max(vocab_size, 1 + max(tokens))))
    kinds = _kinds(texts, tokens, added, unknown=model.get("unk_token") if falls_back else None, bytes_=falls_back)
    if not falls_back:
        pre = (
            _pre_of(described.get("pre_tokenizer"), file) if merges else "gpt-2"
        )  # without merges any cut gives the same
        return Vocabulary("gpt2", pre, texts, kinds, merges or (NO_MERGE,), (), space_first=False)
    ranks = {"".join(merge.split(" ", 1)): -float(rank) for rank, merge in reversed(list(enumerate(merges)))}
    scores = tuple(ranks.get(token, 0.0) for token in texts)
    return Vocabulary("llama", "default", texts, kinds, (), scores, space_first=_puts_space_first(described))


def add_vocabulary(
    writer: "GGUFWriter", vocabulary: Vocabulary, tokenizer: "PreTrainedTokenizerBase", contract: "PromptContract"
) -> None:
    """Write the vocabulary, the special tokens, and whether a text begins with one.

    Args:
        writer: of the file.
        vocabulary: of the base.
        tokenizer: the same, as transformers has it.
        contract: what ends an answer, and whether a prompt begins with the first token.
    """
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_token_scores(vocabulary.scores)
    if vocabulary.model == "llama":
        writer.add_add_space_prefix(vocabulary.space_first)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    eos = tokenizer.eos_token_id
    writer.add_eos_token_id(contract.end_of_turn_id if eos is None else eos)
    writer.add_eot_token_id(contract.end_of_turn_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_bos(tokenizer, contract))


def adds_bos(tokenizer: "PreTrainedTokenizerBase", contract: "PromptContract") -> bool:
    """Whether readers are to put the first token before a text: the tokenizer does so too, and a prompt begins with it.
    Where the template writes it, llama.cpp takes care not to put it twice."""
    from pangzhu.data.conversation import Turn
    from pangzhu.template import render

    first = tokenizer.bos_token_id
    prompt = render(tokenizer, contract, [Turn("user", "1")], add_generation_prompt=True)
    return first is not None and prompt[0] == first == tokenizer("1")["input_ids"][0]


def file_adds_bos(gguf: Path) -> bool:
    """The same, as a GGUF file says it; without a word, sentencepiece vocabularies do.

    Raises:
        ModelError: it is no GGUF file of a model.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(gguf).fields
        if "tokenizer.ggml.add_bos_token" in fields:
            return bool(fields["tokenizer.ggml.add_bos_token"].contents())
        return bool(fields["tokenizer.ggml.model"].contents() == "llama")
    except (OSError, ValueError, LookupError, TypeError) as broken:
        raise ModelError("error.export.llamacpp", where=str(gguf), reason=str(broken)) from broken


def piece_bytes(vocabulary: Vocabulary, token_id: int) -> bytes:
    """The bytes that llama.cpp writes for a token; nothing for a control token."""
    from gguf import TokenType
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    token, kind = vocabulary.tokens[token_id], vocabulary.kinds[token_id]
    if kind in (TokenType.CONTROL, TokenType.UNUSED, TokenType.UNKNOWN):
        return b""
    if kind == TokenType.BYTE:
        return bytes([int(token[3:5], 16)])
    if vocabulary.model == "llama":
        return token.replace(SPACE, " ").encode()
    if kind == TokenType.USER_DEFINED:
        return token.encode()
    alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
    return bytes(alphabet[char] for char in token)


def _read(file: Path) -> dict[str, Any]:
    """tokenizer.json, which is larger than the descriptions that `read_json` takes."""
    try:
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise ModelError("error.export.tokenizer", where=str(file), reason=str(broken)) from broken
    return described


def _kinds(
    texts: "Sequence[str]", tokens: dict[int, str], added: list[dict[str, Any]], *, unknown: str | None, bytes_: bool
) -> tuple[int, ...]:
    from gguf import TokenType

    control = {one["id"] for one in added if one["special"]}
    own = {one["id"] for one in added} - control
    fallback = {BYTE.format(byte) for byte in range(256)} if bytes_ else set()

    def kind(index: int, token: str) -> int:
        if index not in tokens:
            return int(TokenType.UNUSED)
        if token == unknown:
            return int(TokenType.UNKNOWN)
        if index in control:
            return int(TokenType.CONTROL)
        if index in own:
            return int(TokenType.USER_DEFINED)
        return int(TokenType.BYTE if token in fallback else TokenType.NORMAL)

    return tuple(kind(index, token) for index, token in enumerate(texts))


def _pre_of(described: dict[str, Any] | None, file: Path) -> str:
    """llama.cpp's name of the rule that a `pre_tokenizer` follows."""
    steps = (described or {}).get("pretokenizers") or [described or {}]
    kinds = [step.get("type") for step in steps]
    splits = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    if kinds == ["Split", "ByteLevel"] and splits[0] in PRE_OF_SPLIT:
        return PRE_OF_SPLIT[splits[0]]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    raise ModelError("error.export.tokenizer", where=str(file), reason=splits[0] if splits else kinds)


def _puts_space_first(described: dict[str, Any]) -> bool:
    """Whether the normaliser, or the cutter, puts a blank before a text."""
    normalizer, cutter = described.get("normalizer") or {}, described.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers") or [normalizer]
    prepends = any(step.get("type") == "Prepend" for step in steps)
    return prepends or (cutter.get("type") == "Metaspace" and cutter.get("prepend_scheme") != "never")
