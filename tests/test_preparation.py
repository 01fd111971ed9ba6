"""From a configuration to rows that can be trained on; what cannot is refused, every row of it named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pangzhu.config import DataOptions, ModelOptions
from pangzhu.data.conversation import Location
from pangzhu.data.findings import BadRowsError, Finding, TooManyBadRowsError
from pangzhu.errors import DataError, ResourceError, UsageError
from pangzhu.preparation import (
    PreparedBase,
    PreparedRows,
    decide_device,
    label_rows,
    prepare_base,
    read_dataset,
    require_trainable,
)
from tests.conftest import alpaca


@pytest.fixture
def base(model_folder: Callable[[str], Path]) -> PreparedBase:
    """The tiny Qwen2, prepared."""
    return prepare_base(ModelOptions(model_name_or_path=str(model_folder("qwen2"))))


def rows_of(base: PreparedBase, file: Path, **options: Any) -> PreparedRows:
    data = DataOptions(dataset_path=file, **options)
    return label_rows(read_dataset(data), data, base)


def test_a_base_is_prepared_without_loading_its_weights(base: PreparedBase) -> None:
    assert base.context_length == 2048
    assert base.contract.end_of_turn_id == 2
    assert base.source.folder.is_dir()


def test_the_systems_text_and_the_models_own_stop_tokens_are_in_the_contract(
    model_folder: Callable[[str], Path],
) -> None:
    folder = model_folder("qwen2")
    prepared = prepare_base(ModelOptions(model_name_or_path=str(folder)), system="Be kind.")
    assert prepared.contract.system == "Be kind."
    assert set(prepared.contract.stop_token_ids) >= {2}


def test_rows_are_limited_by_the_models_context_unless_told_otherwise(base: PreparedBase, tmp_path: Path) -> None:
    file = alpaca(tmp_path / "rows.jsonl", [("q", "a" * 2500)])
    [finding] = rows_of(base, file).findings
    assert finding.values["limit"] == 2048


def test_a_limit_longer_than_the_context_is_refused(base: PreparedBase, rows_file: Path) -> None:
    with pytest.raises(UsageError) as refused:
        rows_of(base, rows_file, max_seq_length=2049)
    assert refused.value.key == "error.config.longer_than_context"
    assert rows_of(base, rows_file, max_seq_length=2048).findings == ()


def test_without_a_dataset_the_packaged_examples_are_used_and_that_is_said(base: PreparedBase, said: list[str]) -> None:
    rows = label_rows(read_dataset(DataOptions()), DataOptions(), base)
    assert rows.tokenized.num_supervised > 0
    assert rows.findings == ()
    assert len(said) == 1


def test_every_bad_row_is_listed_in_the_order_of_the_file(base: PreparedBase, tmp_path: Path) -> None:
    """Those that reading refuses and those that labelling refuses alike."""
    file = tmp_path / "rows.jsonl"
    rows: list[dict[str, object]] = [{"instruction": f"q{number}", "output": "a"} for number in range(6)]
    rows[1]["output"] = ""
    rows[2]["output"] = "b" * 500
    rows[4]["output"] = 7
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prepared = rows_of(base, file, max_seq_length=100)
    with pytest.raises(BadRowsError) as refused:
        require_trainable(prepared)
    assert [finding.location.line for finding in refused.value.findings] == [2, 3, 5]
    assert refused.value.exit_code == 3
    for line in (2, 3, 5):
        assert f"rows.jsonl:{line}" in str(refused.value)


def with_bad_rows(base: PreparedBase, file: Path, *, good: int, bad: int) -> PreparedRows:
    alpaca(file, [("q", "a")] * good + [("q", "b" * 500)] * bad)
    return rows_of(base, file, max_seq_length=100)


@pytest.mark.parametrize(("good", "bad"), [(99, 1), (198, 2)])
@pytest.mark.fault("C4")
def test_skip_bad_goes_on_without_one_percent_and_names_each(
    good: int, bad: int, base: PreparedBase, tmp_path: Path, said: list[str]
) -> None:
    rows = with_bad_rows(base, tmp_path / "rows.jsonl", good=good, bad=bad)
    require_trainable(rows, skip_bad=True)
    assert len(rows.tokenized.examples) == good
    assert len(said) == bad
    assert f":{good + 1}" in said[0]


@pytest.mark.parametrize(("good", "bad"), [(98, 1), (98, 2), (3, 1)])
def test_skip_bad_refuses_more_than_one_percent(good: int, bad: int, base: PreparedBase, tmp_path: Path) -> None:
    rows = with_bad_rows(base, tmp_path / "rows.jsonl", good=good, bad=bad)
    with pytest.raises(TooManyBadRowsError):
        require_trainable(rows, skip_bad=True)


def test_a_fault_of_the_file_itself_is_not_skipped_over(base: PreparedBase, tmp_path: Path) -> None:
    """Rows behind it may have gone unseen."""
    file = alpaca(tmp_path / "rows.jsonl", [("q", "a")] * 300)
    rows = rows_of(base, file)
    fault = Finding("finding.empty_text", Location(file, 7, 0))
    with pytest.raises(DataError):
        require_trainable(replace(rows, findings=(fault,)), skip_bad=True)


def test_nothing_left_to_learn_is_refused(base: PreparedBase, tmp_path: Path) -> None:
    file = alpaca(tmp_path / "rows.jsonl", [("q" * 200, "a")])
    rows = rows_of(base, file, max_seq_length=100, overlong="drop")
    assert rows.tokenized.num_dropped == 1
    with pytest.raises(DataError) as refused:
        require_trainable(rows)
    assert refused.value.key == "error.data.nothing_to_learn"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert decide_device("auto") == decide_device("cpu") == "cpu"
    with pytest.raises(ResourceError):
        decide_device("cuda")


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (decide_device("auto"), decide_device("cpu")) == ("cuda", "cpu")


# --- rows trained beside the data --------------------------------------------------------------------------------


def test_replay_rows_come_last_and_are_not_counted(base: PreparedBase, rows_file: Path, tmp_path: Path) -> None:
    alone = rows_of(base, rows_file)
    replay = rows_of(base, alpaca(tmp_path / "replay.jsonl", [("hello", "hi"), ("bye", "see you")]))
    both = rows_of(base, rows_file, replay_path=tmp_path / "replay.jsonl")
    assert [row.input_ids for row in both.tokenized.examples] == [
        row.input_ids for row in (*alone.tokenized.examples, *replay.tokenized.examples)
    ]
    assert both.tokenized.num_replay == 2
    assert both.tokenized.num_counted == len(alone.tokenized.examples)
    assert both.tokenized.sha256 != alone.tokenized.sha256


def test_a_bad_replay_row_is_refused_before_any_model_is_looked_for(rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRowsError) as refused:
        read_dataset(DataOptions(dataset_path=rows_file, replay_path=alpaca(tmp_path / "replay.jsonl", [("", "a")])))
    assert "replay.jsonl" in str(refused.value)


def test_an_overlong_replay_row_is_a_finding_like_any_other(
    base: PreparedBase, rows_file: Path, tmp_path: Path
) -> None:
    replay = alpaca(tmp_path / "replay.jsonl", [("q", "a" * 2500)])
    rows = rows_of(base, rows_file, replay_path=replay)
    assert rows.findings == ()
    (finding,) = rows.replay_findings
    assert finding.location.file == replay
    with pytest.raises(BadRowsError) as refused:
        require_trainable(rows)
    assert refused.value.findings == (finding,)


def with_replay(base: PreparedBase, folder: Path, *, own: tuple[int, int], beside: tuple[int, int]) -> PreparedRows:
    """So many good and bad rows in each file: too long ones, and in the replay file a row that reading refuses."""
    data = alpaca(folder / "rows.jsonl", [("q", "a")] * own[0] + [("q", "b" * 500)] * own[1])
    replay = alpaca(folder / "replay.jsonl", [("q", "a")] * beside[0] + [("", "a")] * beside[1])
    return rows_of(base, data, replay_path=replay, max_seq_length=100, skip_bad=True)


def test_skip_bad_counts_each_file_for_itself(base: PreparedBase, tmp_path: Path, said: list[str]) -> None:
    rows = with_replay(base, tmp_path, own=(99, 1), beside=(198, 2))
    require_trainable(rows, skip_bad=True)
    assert (rows.tokenized.num_counted, rows.tokenized.num_replay) == (99, 198)
    assert ["rows.jsonl" in said[0], "replay.jsonl" in said[1], "replay.jsonl" in said[2]] == [True] * 3


@pytest.mark.parametrize(("own", "beside"), [((60, 1), (200, 0)), ((200, 0), (60, 1))])
def test_many_good_rows_of_one_file_do_not_excuse_the_bad_ones_of_the_other(
    own: tuple[int, int], beside: tuple[int, int], base: PreparedBase, tmp_path: Path
) -> None:
    rows = with_replay(base, tmp_path, own=own, beside=beside)
    with pytest.raises(TooManyBadRowsError) as refused:
        require_trainable(rows, skip_bad=True)
    assert ("rows.jsonl" if own[1] else "replay.jsonl") in str(refused.value)


def test_control_tokens_are_allowed_in_replay_rows_where_they_are_in_the_data(rows_file: Path, tmp_path: Path) -> None:
    replay = alpaca(tmp_path / "replay.jsonl", [("q", "a <|im_start|>")])
    with pytest.raises(BadRowsError):
        read_dataset(DataOptions(dataset_path=rows_file, replay_path=replay))
    read = read_dataset(DataOptions(dataset_path=rows_file, replay_path=replay, allow_control_tokens=True))
    assert read.replay is not None
    assert len(read.replay.conversations) == 1


def test_replay_rows_alone_are_nothing_to_learn(base: PreparedBase, tmp_path: Path) -> None:
    long = alpaca(tmp_path / "long.jsonl", [("q", "a" * 300)])
    replay = alpaca(tmp_path / "replay.jsonl", [("q", "a")])
    rows = rows_of(base, long, replay_path=replay, max_seq_length=200, overlong="drop")
    assert rows.tokenized.num_supervised > 0
    with pytest.raises(DataError) as refused:
        require_trainable(rows)
    assert refused.value.key == "error.data.nothing_to_learn"
