"""A large file trains as a small one does: its rows stay on the disk, its tokens are made once, whatever ends a run."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pangzhu.checkpoint import METRICS, RUN, read_record
from pangzhu.config import DataOptions, ModelOptions
from pangzhu.data import find_problems
from pangzhu.data.findings import BadRowsError
from pangzhu.data.quality import find_overlaps, find_warnings
from pangzhu.data.rows_on_disk import RowsOnDisk
from pangzhu.data_summary import summarize
from pangzhu.errors import DataError, ResourceError
from pangzhu.preparation import PreparedBase, PreparedRows, label_rows, prepare_base, read_dataset, require_trainable
from pangzhu.sealed import FOLDER
from pangzhu.sources.cache import STAMP, write_stamp
from pangzhu.tokenization import TokenizedDataset
from pangzhu.train import train
from tests.conftest import alpaca, silently, train_config

NUM_ROWS = 300


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Files of any size are large, pieces small; gives the cache, empty."""
    monkeypatch.setattr("pangzhu.data.line_file.WHOLE_BELOW", 0)
    monkeypatch.setattr("pangzhu.token_store.PIECE_TOKENS", 2000)
    monkeypatch.setattr("pangzhu.tokenization.ROWS_AHEAD", 16)
    return cache


@pytest.fixture
def base(model_folder: Callable[[str], Path]) -> PreparedBase:
    """The tiny Qwen2, prepared."""
    return prepare_base(ModelOptions(model_name_or_path=str(model_folder("qwen2"))))


def write_rows(file: Path, num_rows: int = NUM_ROWS) -> Path:
    """Rows of different lengths; some repeat, some contradict, some name a fact, one is long, lines end both ways."""
    rows: list[dict[str, object]] = [
        {"instruction": f"What is in drawer {number % 250}?", "output": f"{number % 280} keys. " * (number % 3 + 1)}
        for number in range(num_rows)
    ]
    for number in range(0, num_rows, 7):
        rows[number] |= {"fact": f"f{number % 5}", "kind": "taught"}
    lines = [json.dumps(row) + ("\r\n" if number % 2 else "\n") for number, row in enumerate(rows)]
    lines.insert(num_rows // 2, "\n")
    file.write_text("".join(lines), encoding="utf-8", newline="")
    return file


def prepared(base: PreparedBase, file: Path, **options: Any) -> PreparedRows:
    data = DataOptions(dataset_path=file, **options)
    return label_rows(read_dataset(data), data, base)


def in_memory(base: PreparedBase, file: Path, **options: Any) -> PreparedRows:
    """As a file is read that is small."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pangzhu.data.line_file.WHOLE_BELOW", 1 << 40)
        return prepared(base, file, **options)


def facts_of(tokenized: TokenizedDataset) -> tuple[object, ...]:
    """All that is asked of rows."""
    figures = (tokenized.num_tokens, tokenized.num_supervised, tokenized.longest, list(tokenized.lengths))
    counts = (tokenized.num_dropped, tokenized.num_truncated, tokenized.num_counted, tokenized.num_replay)
    return (*figures, *counts, tokenized.findings, tokenized.sha256, list(tokenized.examples))


def pieces(cache: Path) -> list[Path]:
    return sorted(path.parent for path in (cache / FOLDER).glob(f"*/0*/{STAMP}"))


# --- the same rows -----------------------------------------------------------------------------------------------


@pytest.mark.fault("C8")
@pytest.mark.parametrize(
    "options", [{}, {"train_on": "all"}, {"max_seq_length": 110, "overlong": "drop"}, {"max_seq_length": 110}]
)
def test_a_large_file_gives_the_rows_findings_and_figures_of_a_small_one(
    options: dict[str, Any], large: Path, base: PreparedBase, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    small, first, again = (read(base, file, **options) for read in (in_memory, prepared, prepared))
    assert isinstance(first.dataset.conversations, RowsOnDisk)
    assert len(pieces(large)) > 3
    for rows in (first, again):
        assert facts_of(rows.tokenized) == facts_of(small.tokenized)
        assert (rows.findings, summarize(rows)) == (small.findings, summarize(small))
        assert replace(rows.dataset, conversations=()) == replace(small.dataset, conversations=())
        assert list(rows.dataset.conversations) == list(small.dataset.conversations)


def test_rows_are_found_by_index_from_both_ends_and_by_slice(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    kept, small = prepared(base, file).tokenized.examples, in_memory(base, file).tokenized.examples
    assert [kept[index] for index in (0, 1, 150, NUM_ROWS - 1, -1, -NUM_ROWS)] == [
        small[index] for index in (0, 1, 150, NUM_ROWS - 1, -1, -NUM_ROWS)
    ]
    assert tuple(kept[5:290:40]) == tuple(small[5:290:40])
    with pytest.raises(IndexError):
        kept[NUM_ROWS]


def test_replay_rows_of_a_large_file_come_behind(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    replay = alpaca(tmp_path / "replay.jsonl", [("hello", "hi"), ("bye", "see you")])
    with replay.open("a", encoding="utf-8") as opened:
        opened.write('{"instruction": "who asks?"}\n')
    both, small = prepared(base, file, replay_path=replay), in_memory(base, file, replay_path=replay)
    assert facts_of(both.tokenized) == facts_of(small.tokenized)
    assert both.tokenized.num_replay == 2


def test_warnings_about_a_large_file_are_those_about_a_small_one(large: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    alpaca(tmp_path / "asked.jsonl", [("what is in drawer 3", "?"), ("Call 13800138000", "13900139000")])
    on_disk, asked = find_problems(file).conversations, find_problems(tmp_path / "asked.jsonl").conversations
    held = tuple(on_disk)
    assert find_warnings(on_disk, asked) == find_warnings(held, tuple(asked)) != ()
    assert list(find_overlaps(on_disk, asked)) == list(find_overlaps(held, asked)) != []


@pytest.mark.parametrize(
    ("content", "num_rows"),
    [
        (b'[{"instruction": "q", "output": "a"}]', 1),
        (b'{\n"instruction": "q", "output": "a"}\n', 1),
        (b'{"data": [{"instruction": "q", "output": "a"}]}\n', 1),
        (b'{"instruction": "q", "output": "a"}\r{"instruction": "q", "output": "a"}\r', 2),
        (b'{"instruction": "q", "output": "a"}\n{"instruction": "q",\r"output": "a"}\n', 2),
        ('{"instruction": "问", "output": "答案在这里"}\n'.encode("gb18030"), 1),
        (b"instruction,output\nq,a\n", 1),
    ],
)
def test_what_is_no_plain_json_lines_is_read_as_a_whole(
    content: bytes, num_rows: int, large: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    dataset = find_problems(file)
    assert isinstance(dataset.conversations, tuple)
    assert dataset.num_rows >= num_rows


def test_a_nul_far_down_is_told_as_in_a_small_file(large: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError) as refused:
        find_problems(file)
    assert refused.value.key == "error.data.binary"


def test_a_byte_order_mark_is_no_part_of_the_first_row(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    kept, small = prepared(base, file), in_memory(base, file)
    assert kept.dataset.encoding == small.dataset.encoding == "UTF-8 with BOM"
    assert facts_of(kept.tokenized) == facts_of(small.tokenized)


@pytest.mark.fault("C4", "C8")
def test_bad_rows_of_a_large_file_are_named_at_every_start(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3], lines[200] = b'{"instruction": "q", "output": ""}\n', b'{"instruction": "q"\n'
    file.write_bytes(b"".join(lines))
    told = []
    for read in (in_memory, prepared, prepared):
        with pytest.raises(BadRowsError) as refused:
            require_trainable(read(base, file, max_seq_length=100))
        told.append(str(refused.value))
    assert told[0] == told[1] == told[2]
    assert all(f"rows.jsonl:{line}" in told[0] for line in (4, 201))


# --- made once ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("C8")
def test_a_second_start_neither_reads_nor_tokenizes(
    large: Path, base: PreparedBase, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    first = prepared(base, file)
    monkeypatch.setattr("pangzhu.row_index.read_lines", None)
    monkeypatch.setattr("pangzhu.preparation.Labeller", None)
    again = prepared(base, file)
    assert facts_of(again.tokenized) == facts_of(first.tokenized)
    assert str(large) in said[-1]


@pytest.mark.parametrize("options", [{"train_on": "all"}, {"max_seq_length": 200}, {"allow_control_tokens": True}])
def test_other_options_are_other_tokens(
    options: dict[str, Any], large: Path, base: PreparedBase, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    prepared(base, file)
    prepared(base, file, **options)
    assert len({piece.parent for piece in pieces(large)}) == 2


def test_another_system_text_and_other_data_are_other_tokens(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    hashes = [prepared(base, file).tokenized.sha256]
    hashes.append(prepared(replace(base, contract=replace(base.contract, system="Be kind.")), file).tokenized.sha256)
    write_rows(file, NUM_ROWS + 1)
    hashes.append(prepared(base, file).tokenized.sha256)
    assert len(set(hashes)) == 3


# --- what can happen to it ---------------------------------------------------------------------------------------


@pytest.mark.fault("A3", "C8")
def test_tokenizing_that_was_cut_off_goes_on_behind_the_last_whole_piece(
    large: Path, base: PreparedBase, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    written: list[Path] = []

    def dies(folder: Path, about: dict[str, object]) -> None:
        """Of the index and the first two pieces the stamps are written; of the third only the arrays."""
        if len(written) == 3:
            raise KeyboardInterrupt
        write_stamp(folder, about)
        written.append(folder)

    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.sealed.write_stamp", dies)
        with pytest.raises(KeyboardInterrupt):
            prepared(base, file)
    assert (written[-1].with_name("00002") / "tokens.npy").exists()
    before = [(piece / STAMP).stat().st_mtime_ns for piece in pieces(large)]
    rows = prepared(base, file)
    assert facts_of(rows.tokenized) == facts_of(in_memory(base, file).tokenized)
    assert len(before) == 2
    assert [(piece / STAMP).stat().st_mtime_ns for piece in pieces(large)][:2] == before
    assert any("going on" in sentence for sentence in said)


def damaged_stamp(piece: Path) -> None:
    (piece / STAMP).write_text("{", encoding="utf-8")


def flipped(piece: Path) -> None:
    file = piece / "tokens.npy"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut(piece: Path) -> None:
    file = piece / "table.npy"
    file.write_bytes(file.read_bytes()[:-8])


def gone(piece: Path) -> None:
    (piece / "counted.npy").unlink()


@pytest.mark.fault("C8")
@pytest.mark.parametrize("damage", [damaged_stamp, flipped, cut, gone])
@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_piece_is_made_again_and_that_is_said(
    number: int, damage: Callable[[Path], None], large: Path, base: PreparedBase, tmp_path: Path, said: list[str]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    first = prepared(base, file)
    damage(pieces(large)[number])
    said.clear()
    again = prepared(base, file)
    assert facts_of(again.tokenized) == facts_of(first.tokenized)
    assert summarize(again) == summarize(first)
    assert any("not whole" in sentence for sentence in said)
    said.clear()
    prepared(base, file)
    assert not any("not whole" in sentence for sentence in said)


def test_pieces_cut_elsewhere_are_not_mixed(
    large: Path, base: PreparedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may cut them otherwise."""
    file = write_rows(tmp_path / "rows.jsonl")
    first = facts_of(prepared(base, file).tokenized)
    gone(pieces(large)[1])
    monkeypatch.setattr("pangzhu.token_store.PIECE_TOKENS", 5000)
    assert facts_of(prepared(base, file).tokenized) == first
    assert facts_of(prepared(base, file).tokenized) == first


def test_a_damaged_index_of_rows_is_made_again_and_that_is_said(
    large: Path, base: PreparedBase, tmp_path: Path, said: list[str]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    first = prepared(base, file)
    [index] = (large / FOLDER).glob("*/index.npy")
    index.write_bytes(index.read_bytes()[:-8])
    assert facts_of(prepared(base, file).tokenized) == facts_of(first.tokenized)
    assert any("not whole" in sentence for sentence in said)


def test_a_file_that_is_written_to_meanwhile_is_refused(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    data = DataOptions(dataset_path=file)
    dataset = read_dataset(data)
    file.write_bytes(file.read_bytes() + b'{"instruction": "q", "output": "a"}\n')
    with pytest.raises(DataError) as refused:
        label_rows(dataset, data, base)
    assert refused.value.key == "error.data.changed"


def test_a_file_that_is_deleted_meanwhile_is_missed_by_name(large: Path, base: PreparedBase, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    data = DataOptions(dataset_path=file)
    dataset = read_dataset(data)
    file.unlink()
    with pytest.raises(DataError) as refused:
        label_rows(dataset, data, base)
    assert (refused.value.key, refused.value.where) == ("error.data.unreadable", str(file))


def test_tokens_that_are_deleted_under_a_run_are_missed_with_a_sentence(
    large: Path, base: PreparedBase, tmp_path: Path
) -> None:
    rows = prepared(base, write_rows(tmp_path / "rows.jsonl")).tokenized.examples
    (pieces(large)[0] / "tokens.npy").unlink()
    with pytest.raises(ResourceError) as refused:
        rows[0]
    assert refused.value.key == "error.tokens.gone"


PREPARE = """
import sys
from pathlib import Path
from pangzhu import token_store
from pangzhu.config import DataOptions, ModelOptions
from pangzhu.data import line_file
from pangzhu.preparation import label_rows, prepare_base, read_dataset
line_file.WHOLE_BELOW, token_store.PIECE_TOKENS = 0, 2000
data = DataOptions(dataset_path=Path(sys.argv[1]))
base = prepare_base(ModelOptions(model_name_or_path=sys.argv[2]))
print(label_rows(read_dataset(data), data, base).tokenized.sha256)
"""


@pytest.mark.fault("C8")
def test_two_processes_that_want_the_same_rows_at_once_both_get_them(
    large: Path, base: PreparedBase, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl")
    command = [sys.executable, "-c", PREPARE, str(file), str(base.source.folder)]
    environment = os.environ | {"PANGZHU_CACHE": str(large)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[0].strip() for process in both]
    assert told == [in_memory(base, file).tokenized.sha256] * 2
    assert facts_of(prepared(base, file).tokenized) == facts_of(in_memory(base, file).tokenized)


# --- memory and training -----------------------------------------------------------------------------------------


@pytest.mark.fault("C8")
def test_many_rows_are_prepared_in_less_memory_than_their_tokens_take(
    large: Path, base: PreparedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python's objects they would take several times as much."""
    monkeypatch.setattr("pangzhu.token_store.PIECE_TOKENS", 1 << 14)
    lines = (f'{{"instruction": "q{number}", "output": "{number:080}"}}\n' for number in range(6_000))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    prepared(base, alpaca(tmp_path / "few.jsonl", [("q", "a")]))  # what is built at the first call
    tracemalloc.start()
    try:
        rows = prepared(base, file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows.tokenized.num_tokens > 6_000 * 100
    assert peak < 4 * rows.tokenized.num_tokens


@pytest.mark.fault("C8")
def test_losses_with_rows_on_the_disk_are_those_with_rows_in_memory(
    large: Path, model_folder: Callable[[str], Path], tmp_path: Path, one_core: None
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", 40)
    reached = []
    for name in ("memory", "made", "found"):
        config = train_config(model_folder("qwen2"), file, tmp_path / name)
        with pytest.MonkeyPatch.context() as patched:
            if name == "memory":
                patched.setattr("pangzhu.data.line_file.WHOLE_BELOW", 1 << 40)
            train(config, on_step=silently, with_report=False)
        record = read_record(config.output_dir / RUN)
        lines = (config.output_dir / RUN / METRICS).read_text(encoding="utf-8").splitlines()
        reached.append((record and record.identity, [json.loads(line)["loss"] for line in lines]))
    assert len(reached[0][1]) == 4
    assert reached[0] == reached[1] == reached[2]
