"""Answers in OpenAI's words: whole, or as server-sent events."""

import json
import secrets
import time
from dataclasses import dataclass, field

from pangzhu.serve.answers import Ended

DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"
LINE_ENDS = {
    ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"
}  # to Python and others, not to server-sent events


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer's name, age and model, which stand in every piece of it.

    Args:
        model: who answers.
        chat: a message of a chat, else the continuation of a text.
    """

    model: str
    chat: bool = True
    token: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, end: Ended) -> dict[str, object]:
        """All at once."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": end.reason}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage(end)}

    def begin(self) -> str:
        """The event before the first piece of a chat's answer, which names the role."""
        return self._event({"role": "assistant", "content": "", "refusal": None}, None) if self.chat else ""

    def piece(self, text: str) -> str:
        """The event of a piece."""
        return self._event({"content": text} if self.chat else text, None)

    def end(self, end: Ended, *, with_usage: bool) -> str:
        """The events after the last piece; `DONE` comes when all answers of a stream have ended."""
        last = self._event({} if self.chat else "", end.reason)
        return last + (self._usage(end) if with_usage else "")

    def _event(self, said: object, reason: str | None) -> str:
        named = {"delta": said} if self.chat else {"text": said}
        choice = {"index": 0, **named, "logprobs": None, "finish_reason": reason}
        return event({**self._head(self._chunk), "choices": [choice]})

    def _usage(self, end: Ended) -> str:
        return event({**self._head(self._chunk), "choices": [], "usage": usage(end)})

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, object]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.token}", "object": kind, "created": self.created, "model": self.model}


def usage(end: Ended) -> dict[str, int]:
    """Tokens of prompt and answer."""
    total = end.num_prompt + end.num_written
    return {"prompt_tokens": end.num_prompt, "completion_tokens": end.num_written, "total_tokens": total}


def event(content: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False).translate(LINE_ENDS)}\n\n"
