"""Files to datasets: every bad row named at once, bad rows left out only within their limit, and what is recorded."""

import hashlib
import json
from pathlib import Path

import pytest

from pangzhu.data import BadRowsError, Dataset, TooManyBadRowsError, find_problems, load_dataset
from pangzhu.data.findings import may_skip
from pangzhu.errors import DataError
from pangzhu.messages import Language, language, set_language

TINY = Path(__file__).resolve().parents[2] / "data" / "raw" / "instruct_tiny.jsonl"
GOOD = '{"instruction": "a", "output": "b"}'
BAD = '{"instruction": "a", "output": ""}'

# One bad row of each kind, as one would meet them in one file: the line, and what is found.
EACH_KIND = [
    ('{"instruction": "a" "output": "b"}', "finding.missing_comma"),
    ('{"instruction" "a"}', "finding.missing_colon"),
    ("{'instruction': 'a'}", "finding.bad_key"),
    ('{"instruction": None}', "finding.bad_value"),
    ('{"instruction": "a\tb"}', "finding.control_character"),
    ('{"instruction": "C:\\path"}', "finding.bad_escape"),
    (GOOD + ",", "finding.extra_text"),
    ('["a"]', "finding.not_object"),
    ('{"instruction": "a", "output": "b", "output": "c"}', "finding.duplicate_key"),
    ('{"instruction": "a", "output": NaN}', "finding.not_a_number"),
    ('{"instruction": "a", "output": "b", "n": 1e999}', "finding.number_too_large"),
    ('{"instruction": "a", "output": "\\ud800"}', "finding.lone_surrogate"),
    ('{"instruction": ' + "[" * 100_000 + "}", "finding.too_deep"),
    ('{"text": "a"}', "finding.unknown_format"),
    ('{"instruction": "a", "output": "b", "messages": []}', "finding.several_formats"),
    ('{"instruction": "a", "prompt": "a", "output": "b"}', "finding.same_meaning"),
    ('{"instruction": "a", "ouput": "b"}', "finding.missing_field"),
    ('{"instruction": 1, "output": "b"}', "finding.not_text"),
    ('{"messages": "a"}', "finding.not_list"),
    ('{"instruction": "a", "output": "b", "history": ["x"]}', "finding.not_pair"),
    (BAD, "finding.empty_text"),
    ('{"instruction": "a\ufffd", "output": "b"}', "finding.replacement_character"),
    ('{"instruction": "a", "output": "<|im_end|>"}', "finding.control_tokens"),
    ('{"instruction": "a", "output": "b", "images": ["x"]}', "finding.unsupported_key"),
    ('{"messages": []}', "finding.no_conversation"),
    ('{"messages": [{"role": "boss", "content": "a"}]}', "finding.unknown_role"),
    ('{"messages": [{"role": "tool", "content": "a"}]}', "finding.tool_role"),
    ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "finding.not_text_part"),
    ('{"messages": [{"role": "assistant", "content": "a"}]}', "finding.role_order"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "finding.no_answer"),
    (
        '{"system": "s", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b"}]}',
        "finding.two_systems",
    ),
    ('{"instruction": "a", "outp', "finding.cut_off"),
]


def write(tmp_path: Path, *lines: str, name: str = "data.jsonl") -> Path:
    """Write lines to a file."""
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    return path


def file_of_each_kind(tmp_path: Path) -> Path:
    """A good row, then each bad one with a blank line before it."""
    return write(tmp_path, GOOD, *(f"\n{line}" for line, _ in EACH_KIND))


@pytest.fixture(params=["en", "zh"])
def speaking(request: pytest.FixtureRequest):
    """Each language in turn."""
    before: Language = language()
    set_language(request.param)
    yield request.param
    set_language(before)


@pytest.mark.fault("C5")
def test_one_bad_row_of_each_kind_is_named_at_once_with_its_line(tmp_path: Path):
    with pytest.raises(BadRowsError) as caught:
        load_dataset(file_of_each_kind(tmp_path))
    found = [(finding.key, finding.location.line, finding.location.row) for finding in caught.value.findings]
    assert found == [(key, 1 + 2 * number, 1 + number) for number, (_, key) in enumerate(EACH_KIND, start=1)]
    assert caught.value.exit_code == 3
    assert caught.value.values["num_rows"] == 1 + len(EACH_KIND)


def test_finding_problems_raises_for_no_row(tmp_path: Path):
    dataset = find_problems(file_of_each_kind(tmp_path))
    assert (len(dataset.conversations), len(dataset.rejected)) == (1, len(EACH_KIND))


def test_every_finding_renders_with_place_reason_and_remedy(tmp_path: Path, speaking: Language):
    for finding in find_problems(file_of_each_kind(tmp_path)).rejected:
        sentence = str(finding)
        assert sentence.startswith(f"{finding.location}")
        assert finding.reason in sentence
        assert finding.fix in sentence
        assert "→" in sentence
        sentence.encode("utf-8")


def test_file_faults_and_notices_render(tmp_path: Path, speaking: Language):
    path = write(tmp_path, "[", GOOD, "{'a': 1}", GOOD, name="data.jsonl")
    dataset = find_problems(path)
    assert all(str(said) for said in (*dataset.rejected, *dataset.notices))
    assert str(path) in str(TooManyBadRowsError(dataset.rejected, num_rows=dataset.num_rows))


def test_errors_render_with_their_remedy(tmp_path: Path, speaking: Language):
    contents = [b"", b"[]", b"PK\x03\x04", b"PAR1", b"title,author\n", b"prose", b"\xff\xfe\x00", b"\x00"]
    contents += ["中文\n".encode() + "债权人".encode("gb18030"), "中文中".encode()[:-1], GOOD.encode("utf-16-le")]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_dataset(path)
        assert caught.value.fix in str(caught.value)


def test_the_shipped_examples_are_read_without_a_word():
    dataset = load_dataset(TINY)
    assert (dataset.layout, dataset.format_name, dataset.encoding) == ("JSON lines", "alpaca", "UTF-8")
    assert dataset.sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert dataset.num_rows == len(dataset.conversations) >= 40
    assert dataset.notices == dataset.rejected == ()


def test_conversations_know_their_place(tmp_path: Path):
    dataset = load_dataset(write(tmp_path, GOOD, "", GOOD))
    assert [str(row.location) for row in dataset.conversations] == [f"{dataset.path}:1", f"{dataset.path}:3"]


def test_formats_mixed_in_one_file_are_named(tmp_path: Path):
    chat = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    assert load_dataset(write(tmp_path, GOOD, chat, GOOD)).format_name == "alpaca+messages"


@pytest.mark.fault("C3")
def test_the_same_rows_come_from_every_layout(tmp_path: Path):
    rows = [{"instruction": f"问{n}", "input": "", "output": f"答{n}"} for n in range(3)]
    written = {
        "a.json": json.dumps(rows, ensure_ascii=False, indent=1),
        "b.json": json.dumps({"data": rows}),
        "c.jsonl": "\n".join(map(json.dumps, rows)),
        "d.txt": "\n".join(json.dumps(row, indent=4) for row in rows),
        "e.csv": "instruction,input,output\n" + "\n".join(",".join(row.values()) for row in rows),
    }
    read = [load_dataset(write(tmp_path, content, name=name)) for name, content in written.items()]
    assert len({tuple(row.turns for row in dataset.conversations) for dataset in read}) == 1


@pytest.mark.parametrize("content", ["[]", '{"data": []}', "instruction,output\n", "instruction,output\n,\n"])
@pytest.mark.fault("C6")
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str):
    with pytest.raises(DataError) as caught:
        load_dataset(write(tmp_path, content))
    assert caught.value.key == "error.data.no_rows"


# --- skipping


@pytest.mark.parametrize(("num_rows", "num_bad"), [(100, 1), (199, 1), (200, 2), (1000, 10)])
@pytest.mark.fault("C4")
def test_up_to_one_row_in_a_hundred_may_be_skipped(tmp_path: Path, num_rows: int, num_bad: int):
    path = write(tmp_path, *[BAD] * num_bad, *[GOOD] * (num_rows - num_bad))
    dataset = find_problems(path)
    assert may_skip(dataset.rejected, num_rows=dataset.num_rows)
    assert len(dataset.conversations) == num_rows - num_bad
    assert [finding.location.row for finding in dataset.rejected] == list(range(1, num_bad + 1))
    assert dataset.num_rows == num_rows


@pytest.mark.parametrize(("num_rows", "num_bad"), [(1, 1), (20, 1), (99, 1), (199, 2), (1000, 11)])
@pytest.mark.fault("C4")
def test_more_than_one_row_in_a_hundred_is_refused_with_the_share(tmp_path: Path, num_rows: int, num_bad: int):
    path = write(tmp_path, *[BAD] * num_bad, *[GOOD] * (num_rows - num_bad))
    dataset = find_problems(path)
    assert not may_skip(dataset.rejected, num_rows=dataset.num_rows)
    refusal = TooManyBadRowsError(dataset.rejected, num_rows=dataset.num_rows)
    assert len(refusal.findings) == num_bad
    assert refusal.values["share"] == f"{100 * num_bad / num_rows:.2f}%"
    assert refusal.values["num_permitted"] == num_rows // 100


def test_without_skipping_one_bad_row_in_many_stops(tmp_path: Path):
    with pytest.raises(BadRowsError):
        load_dataset(write(tmp_path, *[GOOD] * 500, BAD))


def test_a_row_with_several_findings_counts_once(tmp_path: Path):
    worse = '{"instruction": "", "output": ""}'
    dataset = find_problems(write(tmp_path, *[GOOD] * 99, worse))
    assert len(dataset.rejected) == 2
    assert may_skip(dataset.rejected, num_rows=dataset.num_rows)


@pytest.mark.fault("C4")
def test_a_cut_last_line_may_be_skipped(tmp_path: Path):
    dataset = find_problems(write(tmp_path, *[GOOD] * 99, GOOD[:20]))
    assert may_skip(dataset.rejected, num_rows=dataset.num_rows)
    assert [finding.key for finding in dataset.rejected] == ["finding.cut_off"]


@pytest.mark.parametrize(
    "content",
    [
        "[" + ",\n".join([GOOD] * 500),
        "[\n" + ",\n".join([GOOD] * 500) + ",\n]",
        "[" + ", ".join([*[GOOD] * 300, "{'a': 1}", *[GOOD] * 300]) + "]",
        "instruction,output\n" + "a,b\n" * 300 + '"a,b\n' + "a,b\n" * 300,
    ],
    ids=["not closed", "trailing comma", "stopped", "csv swallowed"],
)
@pytest.mark.fault("C4")
def test_faults_that_may_hide_rows_are_never_skipped(tmp_path: Path, content: str):
    dataset = find_problems(write(tmp_path, content))
    assert not may_skip(dataset.rejected, num_rows=dataset.num_rows)
    assert TooManyBadRowsError(dataset.rejected, num_rows=dataset.num_rows).key == "error.data.damaged_file"


# --- notices


def notices_of(dataset: Dataset) -> dict[str, dict[str, object]]:
    """Notices by key."""
    return {notice.key: notice.values for notice in dataset.notices}


def test_control_tokens_in_questions_are_told_once_with_count_and_place(tmp_path: Path):
    question = '{"instruction": "what is <|im_end|>", "output": "b"}'
    path = write(tmp_path, GOOD, question, '{"instruction": "<s>", "output": "b"}')
    assert notices_of(load_dataset(path))["data.control_tokens"] == {
        "num_rows": 2,
        "tokens": "<s>, <|im_end|>",
        "first": f"{path}:2",
    }


def test_control_tokens_in_answers_pass_when_allowed(tmp_path: Path):
    path = write(tmp_path, '{"instruction": "a", "output": "b</s>"}')
    with pytest.raises(BadRowsError):
        load_dataset(path)
    assert "data.control_tokens" in notices_of(find_problems(path, allow_control_tokens=True))


def test_fields_that_are_not_trained_on_are_told(tmp_path: Path):
    path = write(tmp_path, '{"instruction": "a", "output": "b", "inputs": "lost?", "kind": "k"}')
    assert notices_of(load_dataset(path))["data.extra_fields"] == {"names": "inputs, kind"}


def test_questions_alone_are_read_when_no_answer_is_required(tmp_path: Path):
    path = write(tmp_path, '{"question": "a"}', '{"messages": [{"role": "user", "content": "b"}]}')
    assert [row.answer for row in load_dataset(path, require_answer=False).conversations] == [None, None]
