"""Control tokens in what people wrote: the marks by which a chat template tells turns apart.

Typed into a question or an answer, they would end a turn that goes on or forge one. Here they are only found; the
tokenizer stage makes ordinary text of them. The set given is the base model's own where it is known, else the common
ones below. `<think>` is none of them: answers may well contain it.
"""

from functools import lru_cache

DEFAULT_CONTROL_TOKENS = frozenset(
    {
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "[INST]",
        "[/INST]",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|end|>",
    }
)


def find_control_tokens(text: str, control_tokens: frozenset[str]) -> tuple[str, ...]:
    """The control tokens that occur in `text`, sorted."""
    if not any(letter in text for letter in _first_letters(control_tokens)):
        return ()
    return tuple(sorted(token for token in control_tokens if token and token in text))


@lru_cache(maxsize=8)
def _first_letters(control_tokens: frozenset[str]) -> frozenset[str]:
    return frozenset(token[0] for token in control_tokens if token)
