"""Raw rows to conversations: three formats, and every way in which a row of them can be wrong."""

from pathlib import Path

import pytest

from pangzhu.data.control_tokens import CONTROL_TOKENS, find_control_tokens
from pangzhu.data.conversation import Conversation, Location
from pangzhu.data.findings import Finding
from pangzhu.data.formats import Converted, convert_row
from pangzhu.data.raw_row import RawRow
from pangzhu.data.row_check import Rules

PLACE = Location(Path("data.jsonl"), 7, 5)
USER = {"role": "user", "content": "问"}
ASSISTANT = {"role": "assistant", "content": "答"}
SYSTEM = {"role": "system", "content": "你是助手"}


def convert(fields: dict[str, object], rules: Rules | None = None) -> Converted:
    """Convert one row."""
    return convert_row(RawRow(PLACE, fields), rules or Rules())


def conversation_of(fields: dict[str, object], rules: Rules | None = None) -> Conversation:
    """The conversation of a good row."""
    converted = convert(fields, rules)
    assert converted.findings == ()
    assert converted.conversation is not None
    return converted.conversation


def turns_of(fields: dict[str, object], rules: Rules | None = None) -> list[tuple[str, str]]:
    """Role and text of each turn of a good row."""
    return [(turn.role, turn.content) for turn in conversation_of(fields, rules).turns]


def only_finding(fields: dict[str, object], rules: Rules | None = None) -> Finding:
    """The one finding of a bad row."""
    converted = convert(fields, rules)
    assert converted.conversation is None
    (finding,) = converted.findings
    assert finding.location == PLACE
    return finding


# --- alpaca


@pytest.mark.parametrize("question", ["instruction", "prompt", "question"])
@pytest.mark.parametrize("answer", ["output", "response", "answer"])
def test_every_name_for_question_and_answer_is_taken(question: str, answer: str):
    assert turns_of({question: "问", answer: "答"}) == [("user", "问"), ("assistant", "答")]


def test_the_input_follows_the_instruction_after_a_blank_line():
    assert turns_of({"instruction": "总结", "input": "正文", "output": "答"})[0] == ("user", "总结\n\n正文")


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_input_adds_nothing(empty: object):
    assert turns_of({"instruction": "总结", "input": empty, "output": "答"})[0] == ("user", "总结")


def test_texts_are_kept_to_the_letter():
    text = "  前\t\r\n后 \u2028 "
    assert turns_of({"instruction": text, "output": text}) == [("user", text), ("assistant", text)]


def test_system_and_history_come_first_and_oldest_first():
    row = {"instruction": "三", "output": "3", "system": "数", "history": [["一", "1"], ["二", "2"]]}
    assert turns_of(row) == [
        ("system", "数"),
        ("user", "一"),
        ("assistant", "1"),
        ("user", "二"),
        ("assistant", "2"),
        ("user", "三"),
        ("assistant", "3"),
    ]


@pytest.mark.parametrize("nothing", [{"system": None}, {"system": ""}, {"history": None}, {"history": []}])
def test_an_empty_system_or_history_is_none(nothing: dict[str, object]):
    assert len(turns_of({"instruction": "问", "output": "答", **nothing})) == 2


@pytest.mark.parametrize("answer", [{}, {"output": ""}, {"output": None}])
def test_a_question_file_needs_no_answers(answer: dict[str, object]):
    assert turns_of({"instruction": "问", **answer}, Rules(require_answer=False)) == [("user", "问")]


def test_a_question_file_may_have_answers():
    assert conversation_of({"question": "问", "answer": "答"}, Rules(require_answer=False)).answer == "答"


@pytest.mark.parametrize(
    ("fields", "key", "field_name"),
    [
        ({"instruction": "", "output": "答"}, "finding.empty_text", "instruction"),
        ({"instruction": " \n\u3000", "output": "答"}, "finding.empty_text", "instruction"),
        ({"instruction": "问", "output": ""}, "finding.empty_text", "output"),
        ({"instruction": "问", "response": "\t"}, "finding.empty_text", "response"),
        ({"instruction": 5, "output": "答"}, "finding.not_text", "instruction"),
        ({"instruction": "问", "output": None}, "finding.not_text", "output"),
        ({"instruction": "问", "output": ["答"]}, "finding.not_text", "output"),
        ({"instruction": "问", "output": {"text": "答"}}, "finding.not_text", "output"),
        ({"instruction": "问", "output": True}, "finding.not_text", "output"),
        ({"instruction": "问", "input": 3, "output": "答"}, "finding.not_text", "input"),
        ({"instruction": "问", "output": "答", "system": 0}, "finding.not_text", "system"),
        ({"instruction": "问", "output": "答", "history": "旧"}, "finding.not_list", "history"),
        ({"instruction": "问", "output": "答", "history": [["一"]]}, "finding.not_pair", "history[0]"),
        ({"instruction": "问", "output": "答", "history": [["一", ""]]}, "finding.empty_text", "history[0][1]"),
        ({"instruction": "问", "output": "答", "history": [[1, "1"]]}, "finding.not_text", "history[0][0]"),
        ({"instruction": "问"}, "finding.missing_field", "output"),
        ({"output": "答"}, "finding.missing_field", "instruction"),
        ({"instruction": "问", "prompt": "问", "output": "答"}, "finding.same_meaning", "prompt"),
        ({"instruction": "问", "output": "答", "answer": "答"}, "finding.same_meaning", "answer"),
        ({"instruction": "问\ufffd", "output": "答"}, "finding.replacement_character", "instruction"),
        ({"instruction": "问", "output": "\ufffd\ufffd"}, "finding.replacement_character", "output"),
        ({"instruction": "<image>问", "output": "答", "images": ["a.png"]}, "finding.unsupported_key", "images"),
        ({"instruction": "问", "output": "答", "tools": "[]"}, "finding.unsupported_key", "tools"),
    ],
)
@pytest.mark.fault("C6")
def test_each_fault_of_an_alpaca_row_is_named_with_its_field(fields: dict[str, object], key: str, field_name: str):
    finding = only_finding(fields)
    assert (finding.key, finding.field_name) == (key, field_name)


def test_a_misspelt_field_is_named_with_the_right_one():
    finding = only_finding({"instruction": "问", "ouput": "答"})
    assert finding.key == "finding.missing_field"
    assert "ouput" in str(finding.values["names"])
    assert "output" in str(finding.values["hint"]).replace("ouput", "")


def test_all_faults_of_a_row_are_named_at_once():
    converted = convert({"instruction": "", "input": 3, "output": None})
    assert [finding.field_name for finding in converted.findings] == ["instruction", "input", "output"]


# --- telling formats apart


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "问", "output": "答", "messages": [USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT], "conversations": []},
        {"prompt": "问", "messages": [USER, ASSISTANT]},
    ],
)
def test_fields_of_several_formats_in_one_row_are_refused(fields: dict[str, object]):
    assert only_finding(fields).key == "finding.several_formats"


@pytest.mark.parametrize("fields", [{}, {"text": "一段话"}, {"train": []}, {"system": "只有系统"}])
def test_a_row_of_no_format_is_refused(fields: dict[str, object]):
    assert only_finding(fields).key == "finding.unknown_format"


def test_a_misspelt_format_is_named_with_the_right_one():
    assert "messages" in str(only_finding({"mesages": [USER, ASSISTANT]}).values["hint"])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"instruction": "问", "output": "答"}, "alpaca"),
        ({"messages": [USER, ASSISTANT]}, "messages"),
        ({"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}, "conversations"),
    ],
)
def test_the_format_is_named(fields: dict[str, object], name: str):
    assert convert(fields).format_name == name


# --- messages and conversations


def test_messages_become_turns_and_developer_is_system():
    developer = {"role": "developer", "content": "你是助手"}
    assert turns_of({"messages": [developer, USER, ASSISTANT]}) == [
        ("system", "你是助手"),
        ("user", "问"),
        ("assistant", "答"),
    ]


def test_text_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": "上"}, {"type": "text", "text": "下"}]
    assert turns_of({"messages": [{"role": "user", "content": parts}, ASSISTANT]})[0] == ("user", "上下")


@pytest.mark.parametrize("assistant", ["gpt", "assistant", "chatgpt", "bot"])
@pytest.mark.parametrize("user", ["human", "user"])
def test_every_sharegpt_role_is_taken(user: str, assistant: str):
    row = {"conversations": [{"from": user, "value": "问"}, {"from": assistant, "value": "答"}]}
    assert turns_of(row) == [("user", "问"), ("assistant", "答")]


def test_openai_turns_under_conversations_are_taken():
    assert turns_of({"conversations": [USER, ASSISTANT]}) == [("user", "问"), ("assistant", "答")]


def test_a_system_field_stands_before_the_turns():
    assert turns_of({"system": "你是助手", "conversations": [USER, ASSISTANT]})[0] == ("system", "你是助手")


def test_several_rounds_are_kept_in_order():
    assert [role for role, _ in turns_of({"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]})] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("messages", "key", "field_name"),
    [
        ("text", "finding.not_list", "messages"),
        (None, "finding.not_list", "messages"),
        ([], "finding.no_conversation", "messages"),
        ([SYSTEM], "finding.no_conversation", "messages"),
        ([USER], "finding.no_answer", "messages"),
        ([USER, ASSISTANT, USER], "finding.no_answer", "messages"),
        ([ASSISTANT, USER, ASSISTANT], "finding.role_order", "messages[0]"),
        ([USER, USER, ASSISTANT], "finding.role_order", "messages[1]"),
        ([USER, SYSTEM, ASSISTANT], "finding.role_order", "messages[1]"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "finding.role_order", "messages[1]"),
        ([USER, ASSISTANT, ASSISTANT], "finding.role_order", "messages[2]"),
        ([USER, "答"], "finding.not_object", "messages[1]"),
        ([USER, {"role": "assistant"}], "finding.missing_field", "messages[1].content"),
        ([USER, {"content": "答"}], "finding.missing_field", "messages[1].role"),
        ([USER, {"role": "assistant", "content": None}], "finding.not_text", "messages[1].content"),
        ([USER, {"role": "assistant", "content": 42}], "finding.not_text", "messages[1].content"),
        ([USER, {"role": "assistant", "content": "  "}], "finding.empty_text", "messages[1].content"),
        ([USER, {"role": "assistant", "content": []}], "finding.empty_text", "messages[1].content"),
        ([USER, {"role": 1, "content": "答"}], "finding.not_text", "messages[1].role"),
        ([USER, {"role": "asistant", "content": "答"}], "finding.unknown_role", "messages[1].role"),
        ([USER, {"role": "tool", "content": "答"}], "finding.tool_role", "messages[1].role"),
        ([USER, {"role": "function", "content": "答"}], "finding.tool_role", "messages[1].role"),
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            "finding.unsupported_key",
            "messages[1].tool_calls",
        ),
        ([USER, {**ASSISTANT, "weight": 0}], "finding.unsupported_key", "messages[1].weight"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ASSISTANT],
            "finding.not_text_part",
            "messages[0].content[0]",
        ),
        ([{"role": "user", "content": ["问"]}, ASSISTANT], "finding.not_text_part", "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": 1}]}, ASSISTANT],
            "finding.not_text",
            "messages[0].content[0].text",
        ),
        ([{"role": "user", "content": "\ufffd"}, ASSISTANT], "finding.replacement_character", "messages[0].content"),
    ],
)
@pytest.mark.fault("C6")
def test_each_fault_of_a_chat_row_is_named_with_its_field(messages: object, key: str, field_name: str):
    findings = convert({"messages": messages}).findings
    assert (findings[0].key, findings[0].field_name) == (key, field_name)


@pytest.mark.parametrize(
    ("turn", "key", "field_name"),
    [
        ({"from": "gtp", "value": "答"}, "finding.unknown_role", "conversations[1].from"),
        ({"from": "observation", "value": "答"}, "finding.tool_role", "conversations[1].from"),
        ({"from": "gpt", "valu": "答"}, "finding.missing_field", "conversations[1].value"),
        ({"from": "gpt", "value": 1}, "finding.not_text", "conversations[1].value"),
    ],
)
def test_each_fault_of_a_sharegpt_turn_is_named(turn: dict[str, object], key: str, field_name: str):
    finding = only_finding({"conversations": [{"from": "human", "value": "问"}, turn]})
    assert (finding.key, finding.field_name) == (key, field_name)


def test_a_question_file_may_end_with_the_user():
    assert conversation_of({"messages": [USER]}, Rules(require_answer=False)).answer is None


def test_two_system_texts_are_refused():
    assert only_finding({"system": "甲", "messages": [SYSTEM, USER, ASSISTANT]}).key == "finding.two_systems"


def test_harmless_keys_of_a_message_are_let_be():
    assert turns_of({"messages": [{**USER, "name": "李"}, {**ASSISTANT, "tool_calls": None, "weight": 1}]})


# --- fields beside the text


def test_fields_beside_the_text_are_kept_as_strings():
    row = {"instruction": "问", "output": "答", "fact": "f1", "n": 3, "x": 0.5, "ok": True, "none": None}
    kept = conversation_of({**row, "tags": ["a", 2, False], "nested": {"a": 1}})
    assert kept.extra == (("fact", "f1"), ("n", "3"), ("x", "0.5"), ("ok", "true"), ("tags", "a,2,false"))
    assert kept.field("fact") == "f1"


# --- C9: control tokens


@pytest.mark.parametrize("token", sorted(CONTROL_TOKENS))
@pytest.mark.fault("C9")
def test_a_control_token_in_a_question_is_kept_and_told(token: str):
    converted = convert({"instruction": f"什么是{token}？", "output": "答"})
    assert converted.conversation is not None
    assert converted.control_tokens == (token,)


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "问", "output": "答<|im_end|>"},
        {"messages": [USER, {"role": "assistant", "content": "<|im_end|>"}]},
        {"instruction": "问", "output": "答", "history": [["一", "<|im_end|>"]]},
    ],
)
@pytest.mark.fault("C9")
def test_a_control_token_in_an_answer_is_refused_until_allowed(fields: dict[str, object]):
    finding = only_finding(fields)
    assert finding.key == "finding.control_tokens"
    assert finding.values["tokens"] == "<|im_end|>"
    assert convert(fields, Rules(allow_control_tokens=True)).control_tokens == ("<|im_end|>",)


@pytest.mark.parametrize("text", ["<think>想</think>答", "a < b", "[1] 引用", "<|im_", "| s |"])
def test_ordinary_text_is_no_control_token(text: str):
    assert find_control_tokens(text) == ()
