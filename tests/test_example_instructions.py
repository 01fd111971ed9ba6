"""Invariants of the packaged example instructions in ``data/raw/instruct_tiny.jsonl``."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

DATA_FILE = Path(__file__).resolve().parents[1] / "data" / "raw" / "instruct_tiny.jsonl"
FIELDS = {"instruction", "input", "output"}
KINDS = {"summary", "table", "interview", "weekly", "json"}
HEADINGS = ["## 本周完成", "## 问题与风险", "## 下周计划"]
QUICK_START = "请用 3 条要点总结：为什么要学习大语言模型工程？"
SUMMARY_COUNT = re.compile(r"请用 (\d+) 条要点总结")
CONTROL_TOKEN = re.compile(r"<\|[^|]*\|>|</?s>|\[/?INST\]|<</?SYS>>|</?think>|[\x00-\x09\x0b-\x1f\x7f]")
PHONE_NUMBER = re.compile(r"(?<!\d)(?:1[3-9]\d{9}|0\d{2,3}[- ]?\d{7,8})(?!\d)")
IDENTITY_NUMBER = re.compile(r"(?<![0-9A-Za-z])(?:\d{17}[0-9Xx]|\d{15})(?![0-9A-Za-z])")

Row = dict[str, str]


def load_rows() -> list[Row]:
    """Return every row of the packaged file."""
    rows: list[Row] = []
    for line in DATA_FILE.read_text(encoding="utf-8").splitlines():
        row: Row = json.loads(line)
        rows.append(row)
    return rows


def kind_of(row: Row) -> str:
    """Name the kind of a row from the wording of its instruction."""
    instruction = row["instruction"]
    if SUMMARY_COUNT.match(instruction):
        return "summary"
    if "Markdown 表格" in instruction:
        return "table"
    if instruction.startswith("面试题："):
        return "interview"
    if "周报" in instruction:
        return "weekly"
    if instruction.startswith("请逐个字段解释"):
        return "json"
    return "unknown"


def rows_of(kind: str) -> list[Row]:
    """Return the rows of one kind."""
    return [row for row in load_rows() if kind_of(row) == kind]


def cells(line: str) -> list[str]:
    """Split one line of a Markdown table into its cells."""
    assert line.startswith("|"), line
    assert line.endswith("|"), line
    return [cell.strip() for cell in line[1:-1].split("|")]


def assert_no_match(pattern: re.Pattern[str]) -> None:
    """Fail when any field of any row matches the pattern."""
    for row in load_rows():
        for text in row.values():
            assert pattern.search(text) is None, text


def test_the_file_is_utf8_with_unix_line_endings() -> None:
    content = DATA_FILE.read_bytes()
    assert b"\r" not in content
    assert content.decode("utf-8").endswith("}\n")


def test_the_file_stores_chinese_text_unescaped() -> None:
    assert "\\u" not in DATA_FILE.read_text(encoding="utf-8")


def test_there_are_at_least_forty_rows() -> None:
    assert len(load_rows()) >= 40


def test_every_row_has_exactly_the_three_string_fields() -> None:
    for row in load_rows():
        assert set(row) == FIELDS
        assert all(isinstance(value, str) for value in row.values())


def test_instructions_and_outputs_are_never_blank() -> None:
    for row in load_rows():
        assert row["instruction"].strip()
        assert row["output"].strip()


def test_outputs_are_between_40_and_220_characters_long() -> None:
    for row in load_rows():
        assert 40 <= len(row["output"]) <= 220, row["instruction"]


def test_all_instructions_are_different() -> None:
    counts = Counter(row["instruction"] for row in load_rows())
    assert [text for text, count in counts.items() if count > 1] == []


def test_all_five_kinds_are_present_and_no_other() -> None:
    assert {kind_of(row) for row in load_rows()} == KINDS


def test_the_quick_start_question_is_present_without_input() -> None:
    assert [row["input"] for row in load_rows() if row["instruction"] == QUICK_START] == [""]


def test_summaries_number_as_many_points_as_the_instruction_asks_for() -> None:
    for row in rows_of("summary"):
        match = SUMMARY_COUNT.match(row["instruction"])
        assert match is not None
        expected = [f"{number}." for number in range(1, int(match.group(1)) + 1)]
        assert [line.split(" ")[0] for line in row["output"].splitlines()] == expected


def test_tables_are_valid_markdown_tables() -> None:
    for row in rows_of("table"):
        header, rule, *body = [cells(line) for line in row["output"].splitlines()]
        assert all(re.fullmatch(r":?-{3,}:?", cell) for cell in rule)
        assert body
        assert {len(line) for line in [rule, *body]} == {len(header)}
        assert all(cell for line in [header, *body] for cell in line)


def test_interview_answers_are_one_paragraph_and_need_no_input() -> None:
    for row in rows_of("interview"):
        assert row["input"] == ""
        assert "\n" not in row["output"]


def test_weekly_reports_are_made_from_notes_and_have_their_three_headings_in_order() -> None:
    for row in rows_of("weekly"):
        assert row["input"].strip()
        assert [line for line in row["output"].splitlines() if line.startswith("#")] == HEADINGS


def test_every_section_of_a_weekly_report_has_a_list_item() -> None:
    for row in rows_of("weekly"):
        sections = re.split(r"^## .*$", row["output"], flags=re.MULTILINE)[1:]
        assert all(section.strip().startswith("- ") for section in sections)


def test_json_inputs_parse_and_every_field_is_explained_in_order() -> None:
    for row in rows_of("json"):
        snippet = json.loads(row["input"])
        assert isinstance(snippet, dict)
        explained = [line.split("：")[0] for line in row["output"].splitlines()]
        assert explained == [f"- `{key}`" for key in snippet]


def test_no_field_contains_a_control_token() -> None:
    assert_no_match(CONTROL_TOKEN)


def test_no_field_contains_a_phone_number() -> None:
    assert_no_match(PHONE_NUMBER)


def test_no_field_contains_an_identity_number() -> None:
    assert_no_match(IDENTITY_NUMBER)
