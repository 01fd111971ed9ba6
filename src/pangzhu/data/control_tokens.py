"""Control tokens in what people wrote: the marks by which a chat template tells turns apart.

Typed into a question or an answer, they would end a turn that goes on or forge one. Here they are only found; the
tokenizer stage makes ordinary text of them. The set is that of the common families, since a file is read before its base
model is known; what else a base model has is proven harmless row by row when labels are made (`pangzhu.tokenization`).
`<think>` is none of them: answers may well contain it.
"""

CONTROL_TOKENS = frozenset(
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


_FIRST_LETTERS = frozenset(token[0] for token in CONTROL_TOKENS)


def find_control_tokens(text: str) -> tuple[str, ...]:
    """The control tokens that occur in `text`, sorted."""
    if not any(letter in text for letter in _FIRST_LETTERS):
        return ()
    return tuple(sorted(token for token in CONTROL_TOKENS if token in text))
