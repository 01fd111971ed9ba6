"""The base's own words: exactly what it would write, made once, cut where they must be, and never passed off as an end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu import own_words
from pangzhu.config import ModelOptions, TrainConfig
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import DataError
from pangzhu.model import load_base
from pangzhu.own_words import BEGINNING, add_own_words
from pangzhu.preparation import PreparedBase, PreparedRows, label_rows, prepare_base, read_dataset
from pangzhu.tokenization import IGNORED, TokenizedExample
from pangzhu.train import train
from tests.use_helpers import ENGLISH, rows_of, write_rows

pytestmark = pytest.mark.usefixtures("one_core")

ASKED = ("hello", "what is the sea?", "你好")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PANGZHU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def base(model_folder: Callable[[str], Path]) -> PreparedBase:
    """The tiny Qwen2, prepared."""
    return prepare_base(ModelOptions(model_name_or_path=str(model_folder("qwen2"))))


@pytest.fixture
def config(base: PreparedBase, tmp_path: Path) -> TrainConfig:
    """Four taught rows, and three replay rows of which the second has an answer of its own."""
    replay = [{"instruction": question, "output": ""} for question in ASKED]
    replay[1]["output"] = "wide"
    return TrainConfig(
        model_name_or_path=str(base.source.folder),
        dataset_path=write_rows(tmp_path / "rows.jsonl", rows_of(ENGLISH)),
        replay_path=write_rows(tmp_path / "replay.jsonl", list(replay)),
        output_dir=tmp_path / "out",
        precision="float32",
        max_steps=2,
    )


def prepared(config: TrainConfig, base: PreparedBase) -> PreparedRows:
    return add_own_words(label_rows(read_dataset(config), config, base), config, base)


def of_the_base(config: TrainConfig, base: PreparedBase) -> list[TokenizedExample]:
    """The rows that were given the base's own words: the last two."""
    return list(prepared(config, base).tokenized.examples[-2:])


def parts(row: TokenizedExample) -> tuple[list[int], list[int]]:
    """Prompt and learned answer."""
    start = next(place for place, label in enumerate(row.labels) if label != IGNORED)
    assert row.labels[start:] == row.input_ids[start:]
    return list(row.input_ids[:start]), list(row.labels[start:])


def test_a_replay_row_without_an_answer_gets_what_the_base_would_write(
    config: TrainConfig, base: PreparedBase, said: list[str]
) -> None:
    engine = TransformersEngine(load_base(base.source.folder, precision="float32").eval(), base)
    rows = [row for row in read_dataset(config).replay.conversations if row.answer is None]
    for row, example in zip(rows, of_the_base(config, base), strict=True):
        answer = engine.generate(engine.prompt(row.prompt, BASE), BASE, BEGINNING)
        end = [base.contract.end_of_turn_id] if answer.ended else []
        assert parts(example) == (engine.prompt(row.prompt, BASE), [*answer.token_ids, *end])


def test_they_stand_behind_the_other_replay_rows_and_are_not_counted(
    config: TrainConfig, base: PreparedBase, said: list[str]
) -> None:
    rows = prepared(config, base).tokenized
    assert (rows.num_counted, rows.num_replay) == (4, 3)
    assert base.tokenizer.decode(parts(rows.examples[4])[1]).startswith("wide")


def test_the_end_is_learned_only_where_the_base_ended_by_itself(
    config: TrainConfig, base: PreparedBase, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """A base that ends one answer at once; the other is cut, and where it is cut nothing says that it ends."""
    end = base.contract.end_of_turn_id
    monkeypatch.setattr(own_words, "answers_of_base", lambda *_: [(end,), (5,) * BEGINNING.max_new_tokens])
    ended, cut = (parts(row)[1] for row in of_the_base(config, base))
    assert ended == [end]
    assert end not in cut


def test_the_words_are_made_once(
    config: TrainConfig, base: PreparedBase, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    first = of_the_base(config, base)
    monkeypatch.setattr(own_words, "load_base", lambda *_, **__: pytest.fail("the base was asked again"))
    assert of_the_base(config, base) == first


@pytest.mark.parametrize("change", ["system", "questions", "precision"])
def test_what_the_words_depend_on_makes_other_words(
    change: str, config: TrainConfig, base: PreparedBase, cache: Path, said: list[str]
) -> None:
    prepared(config, base)
    if change == "system":
        base = prepare_base(config, system="Be kind.")
    elif change == "precision":
        config = config.model_copy(update={"precision": "bf16"})
    else:
        write_rows(config.replay_path, [{"instruction": "another", "output": ""}])
    prepared(config, base)
    assert len(list((cache / "own_words").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "another token", "not json", "not a table"])
def test_damaged_words_are_said_and_made_again(
    damage: str, config: TrainConfig, base: PreparedBase, cache: Path, said: list[str]
) -> None:
    whole = of_the_base(config, base)
    [file] = (cache / "own_words").iterdir()
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["answers"][0][0] += 1
    contents = {
        "cut": file.read_text(encoding="utf-8")[:-5],
        "another token": json.dumps(kept),
        "not json": "<html>",
        "not a table": "[]",
    }
    file.write_text(contents[damage], encoding="utf-8")
    assert of_the_base(config, base) == whole
    assert any(str(file) in sentence for sentence in said)
    assert of_the_base(config, base) == whole
    assert sum(str(file) in sentence for sentence in said) == 1


def test_an_answer_is_cut_so_that_its_row_is_no_longer_than_allowed(
    config: TrainConfig, base: PreparedBase, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(own_words, "answers_of_base", lambda prompts, *_: [(5,) * BEGINNING.max_new_tokens] * 2)
    longest = max(len(row.input_ids) for row in label_rows(read_dataset(config), config, base).tokenized.examples)
    short = config.model_copy(update={"max_seq_length": longest})
    for row in of_the_base(short, base):
        prompt, answer = parts(row)
        assert len(answer) == min(BEGINNING.max_new_tokens, longest - len(prompt))


def test_a_question_that_leaves_no_room_for_an_answer_is_named(
    config: TrainConfig, base: PreparedBase, said: list[str]
) -> None:
    write_rows(config.replay_path, [{"instruction": "x " * 200, "output": ""}])
    with pytest.raises(DataError) as refused:
        prepared(config.model_copy(update={"max_seq_length": 60}), base)
    assert refused.value.key == "error.replay.too_long"
    assert "replay.jsonl:1" in str(refused.value)


def test_without_such_rows_the_base_is_not_loaded(
    config: TrainConfig, base: PreparedBase, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(own_words, "load_base", lambda *_, **__: pytest.fail("the base was asked"))
    write_rows(config.replay_path, [{"instruction": "what is the sea?", "output": "wide"}])
    rows = label_rows(read_dataset(config), config, base)
    assert add_own_words(rows, config, base) is rows


def test_a_run_beside_the_bases_own_words_ends_and_is_known_again(config: TrainConfig, said: list[str]) -> None:
    first = train(config)
    assert first.num_rows == 4
    assert train(config).already_finished
