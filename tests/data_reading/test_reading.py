"""Bytes to raw rows: encodings, line ends and layouts give the same rows, or a refusal that says how to go on."""

import codecs
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.data.encoding import decode
from pangzhu.data.findings import Finding
from pangzhu.data.json_rows import list_rows
from pangzhu.data.raw_row import RawRow
from pangzhu.data.reading import open_source, read_rows
from pangzhu.errors import DataError

ROWS = [
    {"instruction": "什么是保证期间？", "input": "", "output": "约定的期间；没有约定的，六个月。"},
    {"instruction": "总结这段话", "input": "第一行\n第二行", "output": "两行：一、二。"},
    {"instruction": "3 + 4 = ?", "input": "", "output": "7"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS)
GOOD = '{"instruction": "a", "output": "b"}'

WriteFile = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """Write content to a file and give its path."""

    def write_file(content: str | bytes, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def rows_of(path: Path) -> list[RawRow]:
    """Every raw row of a file."""
    return list(read_rows(open_source(path)))


def fields_of(path: Path) -> list[dict[str, object]]:
    """The fields of rows that have no finding."""
    return [row.fields for row in rows_of(path) if not row.findings]


def findings_of(path: Path) -> list[Finding]:
    """Every finding of a file."""
    return [finding for row in rows_of(path) for finding in row.findings]


def refusal(path: Path) -> DataError:
    """The error with which a whole file is refused."""
    with pytest.raises(DataError) as caught:
        rows_of(path)
    return caught.value


def run_command(command: str) -> None:
    """Run the command of a remedy as a user would paste it, with this Python."""
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True)


# --- C1: encodings


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (LINES.encode(), "UTF-8"),
        (codecs.BOM_UTF8 + LINES.encode(), "UTF-8 with BOM"),
        (codecs.BOM_UTF16_LE + LINES.encode("utf-16-le"), "UTF-16 LE"),
        (codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"), "UTF-16 BE"),
        (codecs.BOM_UTF32_LE + LINES.encode("utf-32-le"), "UTF-32 LE"),
        (LINES.encode("gb18030"), "GB18030"),
        (LINES.encode("gbk"), "GB18030"),
    ],
)
@pytest.mark.fault("C1")
def test_every_recognised_encoding_gives_the_same_rows_and_its_name(write: WriteFile, content: bytes, name: str):
    path = write(content)
    assert fields_of(path) == ROWS
    assert open_source(path).encoding == name


@pytest.mark.fault("C1")
def test_an_encoding_other_than_utf8_is_said(write: WriteFile):
    assert [notice.key for notice in open_source(write(LINES.encode("gb18030"))).notices] == ["data.read_as"]
    assert open_source(write(LINES)).notices == ()


@pytest.mark.parametrize("short", ["对话", "全部", "你好", "验证"])
@pytest.mark.fault("C1")
def test_utf8_and_gb18030_lines_mixed_are_refused_however_short_the_utf8_is(write: WriteFile, short: str):
    first = json.dumps({"instruction": short, "output": "ok"}, ensure_ascii=False).encode()
    second = '{"instruction": "债权人多久内可以找保证人", "output": "六个月"}'.encode("gb18030")
    error = refusal(write(first + b"\n" + second + b"\n"))
    assert error.key == "error.data.mixed_encodings"
    assert error.values["line"] == 2
    offset = int(str(error.values["offset"]))
    assert offset > len(first)
    assert "\ufffd" not in (first + b"\n" + second)[:offset].decode()


@pytest.mark.skipif(os.name == "nt", reason="the command is quoted for cmd there")
@pytest.mark.fault("C1")
def test_the_command_for_mixed_encodings_makes_a_file_that_is_read(write: WriteFile):
    mixed = b"".join(
        (json.dumps(row, ensure_ascii=False) + "\n").encode("gb18030" if number % 2 else "utf-8")
        for number, row in enumerate(ROWS)
    )
    path = write(mixed, "my data.jsonl")
    run_command(str(refusal(path).values["command"]))
    assert fields_of(path.with_name("my data.utf8.jsonl")) == ROWS


@pytest.mark.skipif(os.name == "nt", reason="the command is quoted for cmd there")
@pytest.mark.fault("C1")
def test_the_command_for_another_encoding_makes_a_file_that_is_read(write: WriteFile):
    rows = [{"instruction": "什麼是保證期間", "output": "約定的期間"}]
    path = write(json.dumps(rows, ensure_ascii=False).encode("big5"), "data.json")
    error = refusal(path)
    assert error.key == "error.data.undecodable"
    run_command(str(error.values["command"]).replace("ENCODING", "big5"))
    assert fields_of(path.with_name("data.utf8.json")) == rows


@pytest.mark.skipif(os.name == "nt", reason="the command is quoted for cmd there")
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.fault("C1")
def test_utf16_without_a_mark_is_refused_with_a_command_that_works(write: WriteFile, codec: str):
    path = write(LINES.encode(codec))
    error = refusal(path)
    assert error.key == "error.data.utf16_without_bom"
    run_command(str(error.values["command"]))
    assert fields_of(path.with_name("data.utf8.jsonl")) == ROWS


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Le café est très élégant, Nélson a été là", "cp1252"),
        ("為什麼要學習大語言模型工程？應用廣泛", "big5"),
        ("日本語のテキストをここに書きます", "shift_jis"),
        ("Привет, как дела", "cp1251"),
    ],
)
@pytest.mark.fault("C1")
def test_encodings_that_would_decode_into_nonsense_are_refused(text: str, codec: str):
    with pytest.raises(DataError) as caught:
        decode(text.encode(codec), Path("data.csv"))
    assert caught.value.key == "error.data.undecodable"


@pytest.mark.fault("C1")
def test_a_stray_byte_is_named_by_offset_line_and_value(write: WriteFile):
    content = LINES.encode() + b'{"instruction": "\xff", "output": "b"}\n'
    error = refusal(write(content))
    assert error.key == "error.data.undecodable"
    assert (error.values["line"], error.values["offset"], error.values["byte"]) == (4, content.index(b"\xff"), "0xFF")


def test_an_odd_byte_at_the_end_of_utf16_is_refused(write: WriteFile):
    error = refusal(write(codecs.BOM_UTF16_LE + LINES.encode("utf-16-le") + b"\x00"))
    assert error.key == "error.data.undecodable"


def test_a_file_cut_in_a_character_is_refused_with_its_last_line(write: WriteFile):
    content = LINES.encode()[: LINES.encode().rindex("两行".encode()) + 2]
    error = refusal(write(content))
    assert error.key == "error.data.cut_in_character"
    assert error.values["line"] == 2


@pytest.mark.fault("C1")
def test_no_replacement_character_ever_comes_from_decoding(write: WriteFile):
    for content in (LINES.encode("gb18030"), codecs.BOM_UTF16_LE + LINES.encode("utf-16-le"), LINES.encode()):
        assert "\ufffd" not in open_source(write(content)).text


@pytest.mark.fault("C1")
def test_marks_left_inside_files_put_together_are_no_part_of_a_row(write: WriteFile):
    assert (
        fields_of(write(codecs.BOM_UTF8 + GOOD.encode() + b"\n" + codecs.BOM_UTF8 + GOOD.encode()))
        == [{"instruction": "a", "output": "b"}] * 2
    )


# --- C2: line ends


@pytest.mark.parametrize(
    "content",
    [
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\r"),
        LINES.rstrip("\n"),
        LINES.replace("\n", "\n\n \t\n"),
        "\n\n" + LINES,
        LINES + "\n\r\n",
    ],
    ids=["crlf", "cr", "no last newline", "blank lines", "blank first", "blank last"],
)
@pytest.mark.fault("C2")
def test_line_ends_and_blank_lines_change_no_row(write: WriteFile, content: str):
    path = write(content)
    assert fields_of(path) == ROWS
    assert [row.location.row for row in rows_of(path)] == [1, 2, 3]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085", "\x7f", "\u000b".encode("unicode_escape").decode()])
@pytest.mark.fault("C2")
def test_unicode_line_separators_inside_texts_split_no_line(write: WriteFile, letter: str):
    text = f"前{letter}后" if len(letter) == 1 else "前后"
    content = json.dumps({"instruction": text, "output": "b"}, ensure_ascii=False) + "\n" + GOOD
    assert [row["instruction"] for row in fields_of(write(content))] == [text, "a"]


@pytest.mark.fault("C2")
def test_lines_are_counted_through_blank_ones(write: WriteFile):
    path = write(f"\r\n{GOOD}\r\n\r\n{GOOD}\r\n")
    assert [row.location.line for row in rows_of(path)] == [2, 4]


@pytest.mark.fault("C2")
def test_line_ends_inside_csv_cells_are_the_same_whatever_the_file_uses(write: WriteFile):
    unix = 'instruction,output\n"a\nb",c\n'
    assert fields_of(write(unix, "unix.csv")) == fields_of(write(unix.replace("\n", "\r\n"), "dos.csv"))


# --- C3: layouts


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (LINES, "JSON lines"),
        (json.dumps(ROWS, ensure_ascii=False), "JSON list"),
        (json.dumps(ROWS, ensure_ascii=False, indent=4), "JSON list"),
        ("[\n" + LINES.replace("}\n", "},\n").rstrip(",\n") + "\n]\n", "JSON list"),
        (json.dumps({"data": ROWS}), "JSON data key"),
        (json.dumps({"version": "1", "meta": {"data": []}, "data": ROWS, "license": "x"}, indent=1), "JSON data key"),
        (PRETTY, "JSON objects"),
        (LINES.replace("\n", ""), "JSON objects"),
    ],
)
@pytest.mark.fault("C3")
def test_json_layouts_are_told_apart_by_content(write: WriteFile, content: str, layout: str):
    path = write(content, "data.txt")
    assert open_source(path).layout == layout
    assert fields_of(path) == ROWS
    assert findings_of(path) == []


@pytest.mark.parametrize(("delimiter", "layout"), [(",", "CSV"), (";", "CSV"), ("\t", "TSV")])
def test_csv_is_read_with_comma_semicolon_and_tab(write: WriteFile, delimiter: str, layout: str):
    content = delimiter.join(["instruction", "input", "output"]) + "\n"
    content += "\n".join(delimiter.join(f'"{row[name]}"' for name in row) for row in ROWS)
    path = write(content, "data.txt")
    assert open_source(path).layout == layout
    assert fields_of(path) == ROWS


def test_rows_of_a_list_are_placed_by_line(write: WriteFile):
    path = write(json.dumps(ROWS, ensure_ascii=False, indent=2), "data.json")
    assert [row.location.line for row in rows_of(path)] == [2, 7, 12]


def test_rows_of_a_csv_are_placed_by_their_first_line(write: WriteFile):
    path = write('instruction,output\n"a\nb",c\n\nd,e\n', "data.csv")
    assert [(row.location.line, row.location.row) for row in rows_of(path)] == [(2, 1), (5, 2)]


def test_empty_records_of_a_spreadsheet_are_blank_lines(write: WriteFile):
    assert len(rows_of(write("instruction,output\na,b\n,\n , \n", "data.csv"))) == 1


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (LINES, "data.json"),
        (json.dumps(ROWS), "data.jsonl"),
        ("instruction,output\na,b\n", "data.json"),
        (LINES, "data.csv"),
    ],
)
@pytest.mark.fault("C3")
def test_a_wrong_extension_is_said_and_nothing_more(write: WriteFile, content: str, name: str):
    path = write(content, name)
    assert [notice.key for notice in open_source(path).notices] == ["data.wrong_extension"]
    assert findings_of(path) == []


@pytest.mark.fault("C3")
def test_a_row_with_a_field_named_data_is_still_a_row(write: WriteFile):
    content = '{"instruction": "a", "output": "b", "data": [{"x": 1}]}\n' * 2
    assert open_source(write(content)).layout == "JSON lines"


def test_a_cell_longer_than_csv_s_own_limit_is_read(write: WriteFile):
    path = write(f"instruction,output\na,{'长' * 200_000}\n", "data.csv")
    assert len(str(fields_of(path)[0]["output"])) == 200_000


# --- C4: cut and broken


@pytest.mark.parametrize("length", [5, 14, 18, 20, 22, 32, len(GOOD) - 1])
@pytest.mark.fault("C4")
def test_a_last_line_cut_anywhere_is_named_with_line_and_caret(write: WriteFile, length: int):
    (finding,) = findings_of(write(f"{GOOD}\n{GOOD[:length]}"))
    assert finding.key == "finding.cut_off"
    assert (finding.location.line, finding.location.row) == (2, 2)
    assert finding.values["column"] == length + 1
    assert str(finding.values["picture"]).split("\n")[1:3] == [f"    {GOOD[:length]}", "    " + " " * length + "^"]


def test_the_caret_stands_below_wide_characters(write: WriteFile):
    (finding,) = findings_of(write(GOOD + '\n{"instruction": "你好'))
    _, piece, caret, _ = str(finding.values["picture"]).split("\n")
    assert caret.index("^") == len(piece) + 2


@pytest.mark.fault("C4")
def test_a_list_cut_within_a_row_names_the_row_and_where_it_ends(write: WriteFile):
    content = json.dumps(ROWS, indent=2)[:-20]
    (finding,) = findings_of(write(content, "data.json"))
    assert (finding.key, finding.location.row) == ("finding.cut_off", 3)
    assert finding.location.line == content.rstrip().count("\n") + 1


def test_a_list_cut_between_rows_is_a_fault_of_the_file(write: WriteFile):
    for content in (f"[{GOOD},\n{GOOD}", f"[{GOOD},\n{GOOD},\n", '{"data": [' + GOOD, '{"data": [' + GOOD + "]"):
        (finding,) = findings_of(write(content, "data.json"))
        assert (finding.key, finding.location.row) == ("finding.list_not_closed", 0)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"instruction": "a" "output": "b"}', "finding.missing_comma"),
        ('{"instruction": "他说"好"", "output": "b"}', "finding.missing_comma"),
        ('{"instruction" "a"}', "finding.missing_colon"),
        ("{'instruction': 'a'}", "finding.bad_key"),
        ('{"instruction": "a", }', "finding.bad_key"),
        ('{"instruction": None}', "finding.bad_value"),
        ('{"instruction": “a”}', "finding.bad_value"),
        ("hello", "finding.bad_value"),
        ('{"instruction": "a\tb"}', "finding.control_character"),
        ('{"instruction": "C:\\path"}', "finding.bad_escape"),
        ('{"instruction": "\\u12"}', "finding.bad_escape"),
        (GOOD + ",", "finding.extra_text"),
        (GOOD + GOOD, "finding.extra_text"),
        ('["a", "b"]', "finding.not_object"),
        ('"text"', "finding.not_object"),
        ("17", "finding.not_object"),
        ('{"instruction": "a", "instruction": "b"}', "finding.duplicate_key"),
        ('{"instruction": NaN}', "finding.not_a_number"),
        ('{"instruction": -Infinity}', "finding.not_a_number"),
        ('{"instruction": 1e999}', "finding.number_too_large"),
        ('{"instruction": -1E+400}', "finding.number_too_large"),
        ('{"instruction": ' + "9" * 5000 + "}", "finding.number_too_large"),
        ('{"instruction": "\\ud83d"}', "finding.lone_surrogate"),
        ('{"instruction": "\\ude00\\ud83d"}', "finding.lone_surrogate"),
        ('{"\\udfff": "a"}', "finding.lone_surrogate"),
        ("[" * 100_000, "finding.too_deep"),
        ('{"a":' * 100_000, "finding.too_deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "finding.too_deep"),
    ],
)
@pytest.mark.fault("C5")
def test_each_kind_of_bad_line_is_named_and_the_others_are_read(write: WriteFile, line: str, key: str):
    path = write(f"{GOOD}\n{line}\n{GOOD}\n")
    (finding,) = findings_of(path)
    assert (finding.key, finding.location.line, finding.location.row) == (key, 2, 2)
    assert len(fields_of(path)) == 2


def test_a_line_break_inside_a_text_of_a_list_is_an_unclosed_text(write: WriteFile):
    content = '[\n  {"instruction": "a\nb", "output": "c"},\n  ' + GOOD + "\n]"
    path = write(content, "data.json")
    (finding,) = findings_of(path)
    assert (finding.key, finding.location.line, finding.location.row) == ("finding.unclosed_text", 2, 1)
    assert len(fields_of(path)) == 1


@pytest.mark.fault("C5")
def test_half_a_surrogate_pair_is_placed_by_its_field(write: WriteFile):
    path = write('{"messages": [{"role": "user", "content": "\\ud800"}]}')
    assert [finding.field_name for finding in findings_of(path)] == ["messages[0].content"]


def test_a_whole_surrogate_pair_is_one_character(write: WriteFile):
    assert fields_of(write('{"instruction": "\\ud83d\\ude00"}')) == [{"instruction": "😀"}]


def test_everything_wrong_with_one_row_is_named_at_once(write: WriteFile):
    path = write('{"a": NaN, "a": 1e999, "b": "\\ud800"}')
    assert sorted(finding.key for finding in findings_of(path)) == [
        "finding.duplicate_key",
        "finding.lone_surrogate",
        "finding.not_a_number",
        "finding.number_too_large",
    ]


@pytest.mark.parametrize("indent", [1, 2, 4, "\t"])
def test_bad_rows_of_a_pretty_list_do_not_hide_later_ones(write: WriteFile, indent: int | str):
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(6)
    ]
    content = json.dumps(rows, indent=indent).replace('"q1"', '"q1').replace('"q4"', "q4")
    path = write(content, "data.json")
    assert [finding.location.row for finding in findings_of(path)] == [2, 5]
    assert [finding.location.line for finding in findings_of(path)] == [
        1 + content[: content.index(start)].count("\n") for start in ('"q1', "q4")
    ]
    assert len(fields_of(path)) == 4


def test_a_bad_last_row_of_a_list_is_the_only_finding(write: WriteFile):
    path = write(f"[\n  {GOOD},\n  {{'a': 1}}\n]\n", "data.json")
    assert [(finding.key, finding.location.row) for finding in findings_of(path)] == [("finding.bad_key", 2)]


def test_a_bad_object_between_pretty_ones_does_not_hide_later_ones(write: WriteFile):
    path = write(PRETTY.replace('"3 + 4 = ?"', "3 + 4") + "\n" + PRETTY, "data.txt")
    assert [finding.location.row for finding in findings_of(path)] == [3]
    assert len(fields_of(path)) == 5


@pytest.mark.parametrize(
    "content",
    [
        f"[{GOOD}, {{'a': 1}}, {GOOD}]",
        f"[\n{GOOD}, {GOOD},\n{{'a': 1}}, {GOOD},\n{GOOD}]",
    ],
)
def test_where_later_rows_cannot_be_found_safely_the_file_is_at_fault(write: WriteFile, content: str):
    assert ("finding.reading_stopped", 0) in [
        (finding.key, finding.location.row) for finding in findings_of(write(content, "data.json"))
    ]


@pytest.mark.parametrize(
    ("content", "key", "line"),
    [
        (f"[\n{GOOD},\n{GOOD},\n]", "finding.trailing_comma", 3),
        (f"[\n{GOOD}\n{GOOD}\n]", "finding.comma_between_rows", 3),
        (f"[\n{GOOD}\n]\n{GOOD}", "finding.text_outside_rows", 4),
        (f"[\n{GOOD}; {GOOD}\n]", "finding.text_outside_rows", 2),
        (f'{{"data": [{GOOD}]}}\n{GOOD}', "finding.text_outside_rows", 2),
        (PRETTY.replace("}\n{", "},\n{", 1), "finding.text_outside_rows", 5),
        (f'{{"data": [{GOOD}],\n"data": [{GOOD}]}}', "finding.duplicate_key", 1),  # rows that nobody would have read
        (f'{{"n\\ame": 1,\n"data": [{GOOD}]}}', "finding.bad_escape", 1),
        (f'{{"a": 1 {{"data": [{GOOD}]}}', "finding.missing_comma", 1),
        (f'{{"x": NaN,\n"data": [{GOOD}]}}', "finding.not_a_number", 2),
        (f'{{"data": [{GOOD}],\n"x": 1e999}}', "finding.number_too_large", 1),
        (f'{{"data": [{GOOD}],\n"x": }}', "finding.list_not_closed", 1),
    ],
)
def test_faults_between_rows_belong_to_the_file(write: WriteFile, content: str, key: str, line: int):
    (finding,) = findings_of(write(content, "data.json"))
    assert (finding.key, finding.location.row, finding.location.line) == (key, 0, line)


@pytest.mark.parametrize(
    ("content", "key", "row"),
    [
        ("instruction,output\na,b,c\nd,e\n", "finding.csv_columns", 1),
        ("instruction,output\na\nd,e\n", "finding.csv_columns", 1),
        ('instruction,output\n"a"x,b\nd,e\n', "finding.csv_broken", 1),
        ('instruction,output\n"a,b\nd,e\n', "finding.csv_broken", 0),
        ('instruction,output\n"a,b\nd,"e\n', "finding.csv_broken", 0),
    ],
    ids=["too many", "too few", "quote", "unclosed", "closed too late"],
)
def test_bad_csv_records_are_named_and_those_that_swallow_rows_belong_to_the_file(
    write: WriteFile, content: str, key: str, row: int
):
    (finding,) = findings_of(write(content, "data.csv"))
    assert (finding.key, finding.location.row, finding.location.line) == (key, row, 2)


# --- C6 and whole files


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
@pytest.mark.fault("C6")
def test_a_file_without_content_is_empty(write: WriteFile, content: bytes):
    assert refusal(write(content)).key == "error.data.empty"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"PK\x03\x04....xl/workbook.xml", "error.data.spreadsheet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "error.data.spreadsheet"),
        (b"PK\x03\x04....data.jsonl", "error.data.archive"),
        (b"\x1f\x8b\x08\x00", "error.data.archive"),
        (b"PAR1\x15\x04", "error.data.columnar"),
        (b"ARROW1\x00\x00", "error.data.columnar"),
        (b"%PDF-1.7", "error.data.binary"),
        (b"SQLite format 3\x00", "error.data.binary"),
        (bytes(range(256)), "error.data.binary"),
        (GOOD.encode() + b"\x00" * 40, "error.data.binary"),
    ],
)
def test_what_is_no_text_is_refused_with_its_own_remedy(write: WriteFile, content: bytes, key: str):
    assert refusal(write(content)).key == key


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("Dear reader\nthis is prose\n", "error.data.unknown_content"),
        ("<html><body>502</body></html>", "error.data.unknown_content"),
        ("title,author\na,b\n", "error.data.header_unknown"),
        ("instruction,output,output\na,b,c\n", "error.data.header_twice"),
    ],
)
def test_text_without_known_fields_is_refused(write: WriteFile, content: str, key: str):
    assert refusal(write(content)).key == key


def test_a_misspelt_header_is_refused_with_the_nearest_field(write: WriteFile):
    error = refusal(write("Instruction;Ouput\na;b\n", "data.csv"))
    assert error.key == "error.data.header_unknown"
    assert "instruction" in str(error.values["hint"])


def test_a_missing_file_is_refused_with_the_nearest_name(write: WriteFile):
    path = write(GOOD, "instruct_tiny.jsonl")
    error = refusal(path.with_name("instruct_tiny.json"))
    assert error.key == "error.data.not_found"
    assert path.name in str(error.values["hint"])


def test_a_missing_folder_is_a_missing_file(tmp_path: Path):
    assert refusal(tmp_path / "none" / "data.jsonl").key == "error.data.not_found"


def test_a_folder_is_refused(tmp_path: Path):
    assert refusal(tmp_path).key == "error.data.is_folder"


@pytest.mark.parametrize(
    ("fault", "key"),
    [(PermissionError(13, "denied"), "error.data.no_permission"), (OSError(5, "I/O error"), "error.data.unreadable")],
)
def test_a_file_the_system_does_not_give_is_refused(
    write: WriteFile, monkeypatch: pytest.MonkeyPatch, fault: OSError, key: str
):
    def fail(path: Path) -> bytes:
        raise fault

    path = write(GOOD)
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert refusal(path).key == key


# --- effort


class WatchedText(str):
    """A text that counts the characters its own searches and slices look at."""

    num_looked_at = 0

    def rfind(self, wanted: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        found = super().rfind(wanted, start, end)
        self.num_looked_at += end - max(found, start)
        return found

    def count(self, wanted: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        self.num_looked_at += end - start
        return super().count(wanted, start, end)

    def __getitem__(self, key: slice) -> str:  # type: ignore[override]
        piece = super().__getitem__(key)
        self.num_looked_at += len(piece)
        return piece


def looked_at(separator: str, num_rows: int) -> int:
    """How many characters are looked at for a list of so many rows on one line."""
    text = WatchedText("[" + separator.join([GOOD] * num_rows) + "]")
    rows = list(list_rows(text, Path("rows.json"), opening=0))
    assert sum(bool(row.fields) for row in rows) == num_rows
    return text.num_looked_at


@pytest.mark.parametrize("separator", [", ", " "], ids=["json.dump", "commas missing"])
def test_the_effort_for_a_list_on_one_line_grows_with_its_length_and_not_its_square(separator: str):
    assert looked_at(separator, 400) < 2.2 * looked_at(separator, 200)
