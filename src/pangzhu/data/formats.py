"""A raw row to a conversation, or to everything that is wrong with it.

Three formats are told apart by their fields: alpaca (`instruction`, `input`, `output`), OpenAI (`messages`) and
ShareGPT (`conversations`). The user's text is the instruction, then a blank line and the input where there is one;
`history` holds earlier turns, oldest first. Nothing is repaired here: a text is taken as it stands or refused.

Length and tokens are not asked here, duplicates neither.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pangzhu.data.conversation import Conversation, Turn
from pangzhu.data.fields import ALPACA_FIELDS, ANSWER_FIELDS, CHAT_FIELDS, QUESTION_FIELDS, ROW_FIELDS
from pangzhu.data.findings import Finding, visible
from pangzhu.data.raw_row import RawRow
from pangzhu.data.row_check import RowCheck, Rules
from pangzhu.data.turns import chat_turns
from pangzhu.errors import nearest

_UNSUPPORTED = ("tools", "functions", "images", "videos", "audios")


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a row.

    Args:
        conversation: None where there are findings.
        findings: all that is wrong.
        format_name: `alpaca`, `messages`, `conversations`, or None where it could not be told.
        control_tokens: those met in texts that are kept.
    """

    conversation: Conversation | None
    findings: tuple[Finding, ...]
    format_name: str | None = None
    control_tokens: tuple[str, ...] = ()


def convert_row(raw: RawRow, rules: Rules) -> Converted:
    """Take the conversation out of a row, with every finding of it."""
    if raw.findings:
        return Converted(None, raw.findings)
    check = RowCheck(raw.location, rules)
    format_name = _tell_format(raw.fields, check)
    turns = _turns(raw.fields, format_name, check=check) if format_name else []
    tokens = tuple(sorted(check.control_tokens))
    if check.findings:
        return Converted(None, tuple(check.findings), format_name, tokens)
    conversation = Conversation(tuple(turns), raw.location, _extra(raw.fields))
    return Converted(conversation, (), format_name, tokens)


def _tell_format(fields: Mapping[str, object], check: RowCheck) -> str | None:
    chats = [name for name in CHAT_FIELDS if name in fields]
    alpaca = [name for name in ALPACA_FIELDS if name in fields]
    if len(chats) + bool(alpaca) > 1:
        names = ", ".join([*alpaca, *chats])
        check.report(Finding("finding.several_formats", check.location, None, {"names": names}))
        return None
    if not chats and not alpaca:
        values: dict[str, object] = {"names": _shown(fields), "hint": _hint(fields, ROW_FIELDS)}
        check.report(Finding("finding.unknown_format", check.location, None, values))
        return None
    return chats[0] if chats else "alpaca"


def _turns(fields: Mapping[str, object], format_name: str, *, check: RowCheck) -> list[Turn]:
    for name in _UNSUPPORTED:
        if fields.get(name):
            check.report(Finding("finding.unsupported_key", check.location, name, {"name": name}))
    system = _system(fields.get("system"), check)
    if format_name == "alpaca":
        return system + _history(fields.get("history"), check) + _last_exchange(fields, check)
    turns = chat_turns(format_name, fields[format_name], check=check)
    if system and turns and turns[0].role == "system":
        check.report(Finding("finding.two_systems", check.location, "system"))
    return system + turns


def _system(value: object, check: RowCheck) -> list[Turn]:
    content = check.text("system", "" if value is None else value, role="system", may_be_blank=True)
    return [Turn("system", content)] if content.strip() else []


def _last_exchange(fields: Mapping[str, object], check: RowCheck) -> list[Turn]:
    turns = [Turn("user", _question(fields, check))]
    name = _one_of(ANSWER_FIELDS, fields, check=check, is_required=check.rules.require_answer)
    if name and (check.rules.require_answer or not _is_blank(fields[name])):
        turns.append(Turn("assistant", check.text(name, fields[name], role="assistant")))
    return turns


def _question(fields: Mapping[str, object], check: RowCheck) -> str:
    name = _one_of(QUESTION_FIELDS, fields, check=check, is_required=True)
    question = check.text(name, fields[name], role="user") if name else ""
    given = fields.get("input")
    context = check.text("input", "" if given is None else given, role="user", may_be_blank=True)
    return f"{question}\n\n{context}" if context.strip() else question


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _one_of(names: Sequence[str], fields: Mapping[str, object], *, check: RowCheck, is_required: bool) -> str | None:
    """Which of the names for one thing the row uses."""
    present = [name for name in names if name in fields]
    if len(present) > 1:
        values: dict[str, object] = {"first": present[0], "second": present[1]}
        check.report(Finding("finding.same_meaning", check.location, present[1], values))
    elif not present and is_required:
        values = {"name": names[0], "names": _shown(fields), "hint": _hint(fields, names)}
        check.report(Finding("finding.missing_field", check.location, names[0], values))
    return present[0] if present else None


def _hint(fields: Mapping[str, object], names: Sequence[str]) -> str:
    """The known name that one of the row's unknown ones resembles."""
    hints = (nearest(name, names) for name in fields if name not in ROW_FIELDS)
    return next(filter(None, hints), "")


def _shown(fields: Mapping[str, object]) -> str:
    return ", ".join(visible(name, limit=30) for name in list(fields)[:12])


def _history(value: object, check: RowCheck) -> list[Turn]:
    if value in (None, "", []):
        return []
    if not isinstance(value, list):
        check.report_type("history", value, wanted="list")
        return []
    return [
        turn for index, pair in enumerate(value) for turn in _earlier_exchange(pair, f"history[{index}]", check=check)
    ]


def _earlier_exchange(pair: object, name: str, *, check: RowCheck) -> list[Turn]:
    if not isinstance(pair, list) or len(pair) != 2:
        check.report(Finding("finding.not_pair", check.location, name))
        return []
    question = check.text(f"{name}[0]", pair[0], role="user")
    answer = check.text(f"{name}[1]", pair[1], role="assistant")
    return [Turn("user", question), Turn("assistant", answer)]


def _extra(fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What the row has beside its text: scalars as the file spells them, lists of scalars joined by commas."""
    kept = ((name, _extra_text(value)) for name, value in fields.items() if name not in ROW_FIELDS)
    return tuple((name, content) for name, content in kept if content is not None)


def _extra_text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str | bool | int | float) for item in value):
        return ",".join(_extra_text(item) or "" for item in value)
    return None
