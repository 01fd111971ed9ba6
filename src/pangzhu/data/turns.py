"""The turns of a chat row: OpenAI's `messages` (role, content) and ShareGPT's `conversations` (from, value).

Either spelling of a turn is read under either name. Roles must stand in order: at most one system turn, first; then
user and assistant in turn; for training the assistant last. Tool calls and pictures have no place in text training and
are refused rather than dropped.
"""

from collections.abc import Mapping
from typing import get_args

from pangzhu.data.conversation import Role, Turn
from pangzhu.data.findings import Finding, visible, visible_value
from pangzhu.data.row_check import RowCheck
from pangzhu.errors import nearest

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
TOOL_ROLES = frozenset({"tool", "function", "function_call", "observation", "ipython"})

# What a turn may hold beside its text and would change what is learned; only these values are harmless.
_UNSUPPORTED = ("tool_calls", "tool_call_id", "function_call", "images", "audio", "weight")
_HARMLESS: tuple[object, ...] = (None, "", [], 1)


def chat_turns(name: str, value: object, *, check: RowCheck) -> list[Turn]:
    """The turns of the field `name`, in order; what is wrong with them is noted."""
    if not isinstance(value, list):
        check.report_type(name, value, wanted="list")
        return []
    already = len(check.findings)
    turns = [_turn(item, f"{name}[{index}]", check=check) for index, item in enumerate(value)]
    read = [turn for turn in turns if turn]
    if len(check.findings) == already:
        _check_order(read, name, check=check)
    return read


def _turn(item: object, place: str, *, check: RowCheck) -> Turn | None:
    if not isinstance(item, dict):
        check.report(Finding("finding.not_object", check.location, place, {"value": visible_value(item)}))
        return None
    for name in _UNSUPPORTED:
        if item.get(name) not in _HARMLESS:
            check.report(Finding("finding.unsupported_key", check.location, f"{place}.{name}", {"name": name}))
            return None
    is_sharegpt = "from" in item and "role" not in item
    role_name, content_name = ("from", "value") if is_sharegpt else ("role", "content")
    missing = [name for name in (role_name, content_name) if name not in item]
    for name in missing:
        _report_missing(name, item, place=place, check=check)
    if missing:
        return None
    role = _role(item[role_name], f"{place}.{role_name}", check=check)
    if role is None:
        return None
    return Turn(role, _content(item[content_name], f"{place}.{content_name}", role=role, check=check))


def _report_missing(name: str, item: Mapping[str, object], *, place: str, check: RowCheck) -> None:
    known = ("role", "content", "from", "value")
    hints = (nearest(given, (name,)) for given in item if given not in known)
    values: dict[str, object] = {
        "name": name,
        "names": ", ".join(visible(given, limit=30) for given in item),
        "hint": next(filter(None, hints), ""),
    }
    check.report(Finding("finding.missing_field", check.location, f"{place}.{name}", values))


def _role(value: object, place: str, *, check: RowCheck) -> Role | None:
    if not isinstance(value, str):
        check.report_type(place, value, wanted="text")
        return None
    if value in TOOL_ROLES:
        check.report(Finding("finding.tool_role", check.location, place, {"role": value}))
        return None
    if value not in ROLES:
        values: dict[str, object] = {"role": visible(value, limit=30), "hint": nearest(value, ROLES)}
        check.report(Finding("finding.unknown_role", check.location, place, values))
        return None
    return ROLES[value]


def _content(value: object, place: str, *, role: Role, check: RowCheck) -> str:
    """The text of a turn, put together from its parts where it comes in parts."""
    if not isinstance(value, list):
        return check.text(place, value, role=role)
    parts = [_part(part, f"{place}[{index}]", check=check) for index, part in enumerate(value)]
    return "" if None in parts else check.text(place, "".join(filter(None, parts)), role=role)


def _part(part: object, place: str, *, check: RowCheck) -> str | None:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else part
        check.report(Finding("finding.not_text_part", check.location, place, {"kind": visible_value(kind)}))
        return None
    content = part.get("text")
    if isinstance(content, str):
        return content
    check.report_type(f"{place}.text", content, wanted="text")
    return None


def _check_order(turns: list[Turn], name: str, *, check: RowCheck) -> None:
    """Note the first turn that stands where another role belongs."""
    start = 1 if turns and turns[0].role == "system" else 0
    if len(turns) == start:
        check.report(Finding("finding.no_conversation", check.location, name))
        return
    for index, turn in enumerate(turns[start:]):
        wanted = get_args(Role)[1 + index % 2]
        if turn.role != wanted:
            values: dict[str, object] = {"role": turn.role, "wanted": wanted}
            check.report(Finding("finding.role_order", check.location, f"{name}[{start + index}]", values))
            return
    if check.rules.require_answer and turns[-1].role != "assistant":
        check.report(Finding("finding.no_answer", check.location, name))
