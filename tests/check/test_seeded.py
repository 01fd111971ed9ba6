"""A file with a known fault or oddity in every other line: the check names each of them by its line, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run

ANSWER = "没签书面劳动合同的，从用工超过一个月起到满一年之前，单位应当每月付给员工二倍的工资。"
QUESTION = "用人单位不签书面劳动合同，劳动者可以要求单位承担什么样的法律责任？"
ASKED = "试用期最长可以约定多久？"
LONGEST = 600  # tokens, that is bytes, for the tiny tokenizer


def alpaca(question: str, answer: object = "好的。", /, **more: object) -> str:
    return json.dumps({"instruction": question, "output": answer, **more}, ensure_ascii=False)


def chat(*turns: tuple[str, object], **more: object) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


FINDINGS: list[tuple[str, str | None, str]] = [  # finding, field, line
    ("cut_off", None, '{"instruction": "什么是过拟合？", "output": "模型把训练'),
    ("missing_comma", None, '{"instruction": "什么是学习率？" "output": "步子的大小。"}'),
    ("missing_colon", None, '{"instruction" "什么是批次？", "output": "一起算的几行。"}'),
    ("bad_key", None, '{\'instruction\': "什么是轮次？", "output": "学一遍。"}'),
    ("bad_value", None, '{"instruction": None, "output": "空。"}'),
    ("control_character", None, '{"instruction": "什么是\t梯度？", "output": "斜率。"}'),
    ("bad_escape", None, '{"instruction": "打开 C:\\data", "output": "好。"}'),
    ("extra_text", None, '{"instruction": "什么是损失？", "output": "差距。"},'),
    ("not_object", None, '["什么是权重？", "参数。"]'),
    ("duplicate_key", "output", '{"instruction": "什么是偏置？", "output": "一", "output": "二"}'),
    ("not_a_number", None, '{"instruction": "什么是精度？", "output": "位数。", "score": NaN}'),
    ("number_too_large", None, '{"instruction": "什么是溢出？", "output": "太大。", "score": 1e999}'),
    ("lone_surrogate", "output", '{"instruction": "笑一个", "output": "\\ud83d"}'),
    ("too_deep", None, '{"instruction": "什么是深度？", "output": ' + "[" * 100_000),
    ("unknown_format", None, '{"title": "什么是标题？", "body": "名字。"}'),
    ("several_formats", None, alpaca("什么是格式？", messages=[])),
    ("same_meaning", "answer", alpaca("什么是同义？", answer="一样的意思。")),
    ("missing_field", "output", '{"instruction": "什么是字段？", "ouput": "名字。"}'),
    ("not_text", "output", alpaca("几加几？", 7)),
    ("not_list", "messages", '{"messages": "你好"}'),
    ("not_pair", "history[0]", alpaca("然后呢？", history=[["只有问"]])),
    ("empty_text", "output", alpaca("什么是空？", " ")),
    ("replacement_character", "output", alpaca("什么是乱码？", "丢了一个\ufffd字。")),
    ("control_tokens", "output", alpaca("什么是控制符？", "比如<|im_end|>这样。")),
    ("unsupported_key", "images", alpaca("图里是什么？", images=["a.png"])),
    ("no_conversation", "messages", chat()),
    ("unknown_role", "messages[0].role", chat(("usr", "你好"), ("assistant", "您好！"))),
    ("tool_role", "messages[1].role", chat(("user", "天气？"), ("tool", "晴"))),
    ("role_order", "messages[1]", chat(("user", "在吗？"), ("user", "人呢？"), ("assistant", "在。"))),
    ("no_answer", "messages", chat(("user", "有人吗？"))),
    ("two_systems", "system", chat(("system", "一"), ("user", "二"), ("assistant", "三"), system="四")),
    ("too_long", None, alpaca("什么是长？", "长" * LONGEST)),
]
WARNINGS: list[tuple[str, str]] = [  # warning, line; each after the row it refers to
    ("exact_duplicate", alpaca(QUESTION, ANSWER)),
    ("near_duplicate", alpaca(QUESTION.replace("？", " ?"), ANSWER[:-1])),
    ("near_duplicate", alpaca(QUESTION.replace("什么样的", "什么样"), ANSWER.replace("员工", "职工"))),
    ("contradiction", alpaca(QUESTION, "不用承担任何责任。")),
    ("evaluation_overlap", alpaca(ASKED, "六个月。")),
    ("phone_number", alpaca("法务的电话？", "请打 13800138000。")),
    ("identity_number", alpaca("他的身份证号？", "11010519491231002X")),
    ("email_address", alpaca("投诉邮箱？", "zhang.san@qq.com")),
    ("bank_card", alpaca("往哪里转账？", "6222020200112230004")),
]
NUM_KNOWN = len(FINDINGS) + len(WARNINGS)


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """Good rows, and after each one that is known to be bad or odd; a blank line and Windows line ends among them."""
    good = (
        alpaca(f"第{number}题：{chr(0x4E00 + 77 * number) * 9}", chr(0x5E00 + 91 * number) * 9) for number in range(60)
    )
    rows = [alpaca(QUESTION, ANSWER), "", *(line for _, _, line in FINDINGS), *(line for _, line in WARNINGS)]
    lines = [line for row in rows for line in (next(good), row)]
    file = tmp_path / "seeded.jsonl"
    file.write_bytes("\r\n".join([*lines, next(good)]).encode())
    return file


def expected(file: Path) -> list[tuple[str, int]]:
    """The key and line of everything that is known: the first stands in line 6, one good row before each."""
    known = [*(f"finding.{key}" for key, _, _ in FINDINGS), *(f"warning.{key}" for key, _ in WARNINGS)]
    return [(key, 2 * number + 6) for number, key in enumerate(known)]


@pytest.fixture
def words(seeded: Path, tmp_path: Path, model_folder: Callable[[str], Path]) -> list[str]:
    """The command that checks the seeded file."""
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": ASKED}), encoding="utf-8")
    base = ["--model_name_or_path", str(model_folder("qwen2")), "--max_seq_length", str(LONGEST)]
    return ["check", str(seeded), "--eval_path", str(evaluation), *base]


def test_there_are_forty_known_problems_and_more() -> None:
    assert NUM_KNOWN >= 40


@pytest.mark.fault("C5")
def test_json_names_every_known_problem_by_its_line_and_nothing_else(run: Run, seeded: Path, words: list[str]) -> None:
    outcome = run(*words, "--json")
    findings, warnings = outcome.json["findings"], outcome.json["warnings"]
    assert isinstance(findings, list)
    assert isinstance(warnings, list)
    named = [(finding["key"], finding["line"]) for finding in findings]
    named += [(kind["key"], row["line"]) for kind in warnings for row in kind["rows"]]
    assert sorted(named) == sorted(expected(seeded))
    assert outcome.exit_code == 3


def test_every_finding_names_file_line_field_reason_and_remedy(run: Run, seeded: Path, words: list[str]) -> None:
    findings = run(*words, "--json").json["findings"]
    assert isinstance(findings, list)
    assert [finding["field"] for finding in findings] == [field for _, field, _ in FINDINGS]
    assert all(finding["file"] == str(seeded) and finding["reason"] and finding["fix"] for finding in findings)


def test_the_screen_names_every_known_problem_by_its_line(run: Run, seeded: Path, words: list[str]) -> None:
    shown = run(*words).out
    assert [line for _, line in expected(seeded) if f"{seeded}:{line}" not in shown] == []
    assert f"{len(FINDINGS)} error(s), {len(WARNINGS)} warning(s), 0 notice(s)" in shown


def test_what_is_shown_of_personal_data_is_masked(run: Run, words: list[str]) -> None:
    for outcome in (run(*words), run(*words, "--json")):
        assert not any(secret in outcome.out for secret in ("13800138000", "11010519491231002X", "zhang.san"))
        assert "138******00" in outcome.out


OTHER_FILES = {  # what only a whole file can have -> its bytes, and what is found
    "a list with a comma behind its last row": (f"[{alpaca('一')},]".encode(), ["finding.trailing_comma"]),
    "a list without a comma between rows": (
        f"[{alpaca('一')}\n{alpaca('二')}]".encode(),
        ["finding.comma_between_rows"],
    ),
    "a list that is not closed": (f"[{alpaca('一')}".encode(), ["finding.list_not_closed"]),
    "text behind a list": (f"[{alpaca('一')}] 完".encode(), ["finding.text_outside_rows"]),
    "a CSV row with a cell too many": ("instruction,output\n一,二,三\n四,五\n".encode(), ["finding.csv_columns"]),
    "a CSV with an open quotation mark": ('instruction,output\n四,五\n"一,二\n'.encode(), ["finding.csv_broken"]),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_faults_of_other_layouts_are_named_too(
    case: str, run: Run, tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    content, keys = OTHER_FILES[case]
    file = tmp_path / "data.json"
    file.write_bytes(content)
    outcome = run("check", str(file), "--model_name_or_path", str(model_folder("qwen2")), "--json")
    findings = outcome.json["findings"]
    assert isinstance(findings, list)
    assert [finding["key"] for finding in findings] == keys


REFUSED = {  # whole files that are refused -> why
    "UTF-8 and GB18030 lines": (
        f"{alpaca('离婚冷静期是多少天呢')}\n".encode() + alpaca("试用期最长可以约定多久").encode("gb18030"),
        "mixed_encodings",
    ),
    "UTF-16 without a mark": (alpaca("一").encode("utf-16-le"), "utf16_without_bom"),
    "a file cut in a character": (alpaca("离婚冷静期多少天？").encode()[:30], "cut_in_character"),
    "an empty file": (b"\n \n", "empty"),
    "a workbook": (b"PK\x03\x04 xl/workbook.xml", "spreadsheet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_a_remedy(case: str, run: Run, tmp_path: Path) -> None:
    content, key = REFUSED[case]
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    outcome = run("check", str(file), "--json")
    error = outcome.json["error"]
    assert isinstance(error, dict)
    assert (error["key"], outcome.exit_code) == (f"error.data.{key}", 3)
    assert error["fix"]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030"])
def test_encodings_that_are_known_give_the_same_rows(
    codec: str, run: Run, tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(f"{alpaca(QUESTION, ANSWER)}\n{alpaca(ASKED)}\n".encode(codec))
    outcome = run("check", str(file), "--model_name_or_path", str(model_folder("qwen2")), "--json")
    assert (outcome.exit_code, outcome.json["num_examples"], outcome.json["findings"]) == (0, 2, [])


def test_rows_of_the_evaluation_file_that_are_bad_are_named_not_passed_over(
    run: Run, seeded: Path, tmp_path: Path
) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text('{"question": ""}\n', encoding="utf-8")
    outcome = run("check", str(seeded), "--eval_path", str(evaluation))
    assert outcome.exit_code == 3
    assert f"{evaluation}:1" in outcome.err
