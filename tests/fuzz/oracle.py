"""What Python's own json says a dataset holds, read strictly: what `pangzhu.data` accepts has to be the same.

Written from the description of the formats (docs/data.md) and not from the reader.
"""

import json
from typing import Any, NoReturn

QUESTIONS = ("instruction", "prompt", "question", "query")
ANSWERS = ("output", "response", "answer", "completion")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "developer": "system",
    "bing": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
}


class NotStrictError(ValueError):
    """JSON that RFC 8259 leaves undefined: a key twice, NaN, half a surrogate pair."""


def strict(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is not JSON, or not strictly.
    """
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair cannot be encoded
    return value


def turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Role and text of every turn of a row, in any of the three formats."""
    first = [("system", row["system"])] if str(row.get("system") or "").strip() else []
    for name in ("messages", "conversations"):
        if name in row:
            return [*first, *(_turn(message) for message in row[name])]
    history = [
        turn for asked, answered in row.get("history") or [] for turn in (("user", asked), ("assistant", answered))
    ]
    question = next(row[name] for name in QUESTIONS if name in row)
    if str(row.get("input") or "").strip():
        question = f"{question}\n\n{row['input']}"
    return [*first, *history, ("user", question), ("assistant", next(row[name] for name in ANSWERS if name in row))]


def _turn(message: dict[str, Any]) -> tuple[str, str]:
    role, content = ("from", "value") if "role" not in message else ("role", "content")
    role, content = message[role], message[content]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return ROLES.get(role, role), content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise NotStrictError("a key twice")
    return dict(pairs)


def _refuse(name: str) -> NoReturn:
    raise NotStrictError(name)
