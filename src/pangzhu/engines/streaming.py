"""Text as ids arrive, whole characters only: a token may end in the middle of one.

Every engine streams through it, so an answer reads the same while it is written and when it is done.
"""

from collections.abc import Iterable
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
        text = self._text()
        if not text.endswith(REPLACEMENT):
            self._flush(text)

    def close(self) -> None:
        """Write what is left, finished or not."""
        self._flush(self._text())

    def answer(self) -> Answer:
        """What has come, as an answer that ended."""
        return Answer(self._text(), tuple(self._ids), ended=True)

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _flush(self, text: str) -> None:
        self._write(text[self._written :])
        self._written = len(text)
