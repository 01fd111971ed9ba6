"""Text as ids arrive, whole characters only: a token may end in the middle of one.

Every engine streams through it, so an answer reads the same while it is written and when it is done.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pangzhu.engines import REPLACEMENT, Answer, Write
from pangzhu.template import PromptContract

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Characters:
    """Hands on text as ids arrive, holding back a character until all its bytes are there.

    Args:
        tokenizer: turns ids into text.
        contract: its stop tokens are no part of the text.
        write: gets the text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", contract: PromptContract, write: Write) -> None:
        self._tokenizer = tokenizer
        self._stops = contract.stop_token_ids
        self._write = write
        self._ids: list[int] = []
        self._written = 0

    def add(self, ids: Iterable[int]) -> None:
        """Take the next ids, and write what they complete."""
        self._ids += [token for token in ids if token not in self._stops]
        self._flush(self._text().rstrip(REPLACEMENT))

    def close(self) -> None:
        """Write what is left, finished or not."""
        self._flush(self._text())

    def answer(self) -> Answer:
        """What has come, as an answer that ended."""
        return Answer(self._text(), tuple(self._ids), ended=True)

    def _text(self) -> str:
        return as_text(self._tokenizer, self._ids)

    def _flush(self, text: str) -> None:
        """Write what is new in it; half a character may turn those before it into something else until it is whole."""
        if len(text) > self._written:
            self._write(text[self._written :])
            self._written = len(text)


def as_text(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of an answer's ids, every space where the model put it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
