"""Verbs from the command line to their stage and back, with the stages that are cheap to run."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pangzhu import sources
from pangzhu.cli.adapters import AdaptersOptions, find_adapters
from pangzhu.config import ChatConfig, CompareConfig, PlanConfig, TrainConfig
from pangzhu.errors import ModelError
from pangzhu.sources.base_model import BaseModel, Listing
from tests.test_compare import squeezed

GOOD = '{"instruction": "问", "output": "答"}\n'
BAD = '{"instruction": "问"}\n'


class Answer:
    """What a stage gives back."""

    def __init__(self, value: object) -> None:
        self.value = value

    def as_json(self) -> dict[str, object]:
        return {"value": str(self.value)}

    def render(self) -> str:
        return f"render {self.value}"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch):
    """Put a module in the place of a stage and keep what it was called with."""
    called: list[Any] = []

    def put(module: str, function: str, **more: object) -> list[Any]:
        def called_function(config: object, write: Callable[[str], None] | None = None, **_more: object) -> Answer:
            called.append(config)
            if write:
                write("streamed\n")
            return Answer(type(config).__name__)

        stand_in = ModuleType(f"pangzhu.{module}")
        vars(stand_in).update({function: called_function, **more})
        monkeypatch.setitem(sys.modules, f"pangzhu.{module}", stand_in)
        monkeypatch.setattr(f"pangzhu.{module}", stand_in, raising=False)
        return called

    return put


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


# --- check -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(model_folder: Callable[[str], Path]) -> tuple[str, str]:
    """The flag that names the tiny base model."""
    return ("--model_name_or_path", str(model_folder("qwen2")))


def test_check_of_good_data(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD * 3, encoding="utf-8")
    outcome = run("check", str(data), *tiny)
    assert outcome.exit_code == 0
    assert str(data) in outcome.out
    assert "3 row(s)" in outcome.out


def test_check_names_every_bad_line_and_ends_with_3(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD + BAD + GOOD + BAD, encoding="utf-8")
    outcome = run("check", "--dataset_path", str(data), *tiny)
    assert outcome.exit_code == 3
    assert f"{data}:2" in outcome.out
    assert f"{data}:4" in outcome.out


def test_check_finds_rows_that_are_too_long_for_the_model_beside_those_that_cannot_be_read(
    run, data: Path, tiny: tuple[str, str]
) -> None:
    long = '{"instruction": "' + "x" * 200 + '", "output": "y"}\n'
    data.write_text(GOOD + BAD + long, encoding="utf-8")
    outcome = run("check", str(data), *tiny, "--max_seq_length", "150", "--json")
    assert [(finding["key"], finding["line"]) for finding in outcome.json["findings"]] == [
        ("finding.missing_field", 2),
        ("finding.too_long", 3),
    ]


@pytest.mark.parametrize(("overlong", "key"), [("drop", "num_dropped"), ("truncate", "num_truncated")])
def test_check_tells_how_many_long_rows_are_left_out_or_cut(
    run, data: Path, tiny: tuple[str, str], overlong: str, key: str
) -> None:
    long = '{"instruction": "x", "output": "' + "y" * 300 + '"}\n'
    data.write_text(GOOD + long + long, encoding="utf-8")
    words = ("check", str(data), *tiny, "--max_seq_length", "150", "--overlong", overlong)
    assert run(*words, "--json").json[key] == 2
    assert "Too long" in run(*words).out


def test_check_refuses_long_rows_without_a_length_as_training_does(run, data: Path) -> None:
    data.write_text(GOOD, encoding="utf-8")
    assert run("check", str(data), "--overlong", "drop").exit_code == 2


@pytest.mark.parametrize(("num_good", "exit_code"), [(99, 0), (98, 3)])
def test_check_lets_pass_the_bad_rows_that_training_may_skip(
    run, data: Path, tiny: tuple[str, str], num_good: int, exit_code: int
) -> None:
    data.write_text(GOOD * num_good + BAD, encoding="utf-8")
    outcome = run("check", str(data), *tiny, "--skip_bad")
    assert outcome.exit_code == exit_code
    assert ("Few enough" in outcome.out) is (exit_code == 0)
    assert run("check", str(data), *tiny).exit_code == 3


def test_check_ends_with_3_where_nothing_is_left_to_learn(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD, encoding="utf-8")
    outcome = run("check", str(data), *tiny, "--max_seq_length", "8", "--overlong", "drop")
    assert outcome.exit_code == 3
    assert "No problem" not in outcome.out


def test_check_as_json(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD + BAD, encoding="utf-8")
    outcome = run("check", str(data), "--json", *tiny)
    found = outcome.json
    assert (outcome.exit_code, found["ok"], found["num_rows"], found["num_examples"]) == (3, False, 2, 1)
    assert 0 < found["num_supervised"] < found["num_tokens"]
    findings = found["findings"]
    assert isinstance(findings, list)
    assert [finding["line"] for finding in findings] == [2]
    assert all(finding["reason"] and finding["fix"] for finding in findings)


def test_check_of_a_file_that_is_not_there(run, data: Path) -> None:
    outcome = run("check", str(data), "--json")
    assert outcome.exit_code == 3
    assert outcome.json["ok"] is False


def test_check_without_data_says_what_it_reads(run, tiny: tuple[str, str]) -> None:
    outcome = run("check", *tiny)
    assert outcome.exit_code == 0
    assert "instruct_tiny.jsonl" in outcome.err


def test_check_shows_how_long_rows_are_and_what_of_them_is_learned(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD * 2 + '{"instruction": "' + "x" * 200 + '", "output": "y"}\n', encoding="utf-8")
    shown, found = run("check", str(data), *tiny).out, run("check", str(data), *tiny, "--json").json
    lengths, shares = found["lengths"], found["supervised_percent"]
    assert isinstance(lengths, dict)
    assert isinstance(shares, dict)
    assert lengths["max"] - lengths["min"] == 195  # a letter of Chinese has three tokens here, one of English one
    assert f"at least {lengths['min']}, half of the rows up to {lengths['median']}" in shown
    assert 0 <= shares["min"] < shares["max"] < 100
    assert sum(bar["rows"] for bar in lengths["histogram"]) == sum(bar["rows"] for bar in shares["histogram"]) == 3
    assert shown.count("█" * 24) == 2


def test_check_warns_without_refusing(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD * 8, encoding="utf-8")
    outcome = run("check", str(data), *tiny)
    assert outcome.exit_code == 0
    assert "Warning: 7 row(s) are word for word an earlier row." in outcome.out
    assert f"{data}:2: see {data}:1" in outcome.out
    assert "2 more" in outcome.out
    assert "No problem" not in outcome.out
    [kind] = run("check", str(data), *tiny, "--json").json["warnings"]
    assert [row["line"] for row in kind["rows"]] == list(range(2, 9))
    assert kind["num_rows"] == 7


@pytest.mark.parametrize(
    ("second", "exit_code", "told"),
    [
        ('{"question": "问？"}', 0, "{data}:1: see {questions}:2"),
        ('{"question": 7}', 3, "{questions}:2"),
    ],
    ids=["it repeats a row", "a row of it is bad"],
)
def test_check_compares_with_an_evaluation_file(
    run, data: Path, tiny: tuple[str, str], tmp_path: Path, second: str, exit_code: int, told: str
) -> None:
    data.write_text(GOOD, encoding="utf-8")
    questions = tmp_path / "eval.jsonl"
    questions.write_text(f'{{"question": "别的"}}\n{second}\n', encoding="utf-8")
    outcome = run("check", str(data), *tiny, "--eval_path", str(questions))
    assert outcome.exit_code == exit_code
    assert told.format(data=data, questions=questions) in (outcome.err if exit_code else outcome.out)


def test_check_reads_the_validation_file_as_training_does(
    run, data: Path, tiny: tuple[str, str], tmp_path: Path
) -> None:
    data.write_text(GOOD, encoding="utf-8")
    held_out = tmp_path / "held_out.jsonl"
    words = ("check", str(data), *tiny, "--validation_path", str(held_out))
    held_out.write_text(
        '{"instruction": "别的", "output": "答"}\n{"instruction": "问？", "output": "答"}\n', encoding="utf-8"
    )
    outcome = run(*words)
    assert outcome.exit_code == 0
    assert f"{data}:1: see {held_out}:2" in outcome.out
    held_out.write_text(GOOD + BAD, encoding="utf-8")
    assert (run(*words).exit_code, f"{held_out}:2" in run(*words).err) == (3, True)
    held_out.write_text(GOOD.replace("答", "答" * 100), encoding="utf-8")
    assert f"{held_out}:1" in run(*words, "--max_seq_length", "100").err


def test_check_writes_a_page_and_says_where(run, data: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    data.write_text(GOOD + BAD, encoding="utf-8")
    page = tmp_path / "pages" / "data.html"
    outcome = run("check", str(data), *tiny, "--html", str(page), "--json")
    assert outcome.exit_code == 3
    assert outcome.json["page"] == str(page)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert str(page) in run("check", str(data), *tiny, "--html", str(page)).out


def test_check_does_not_write_a_page_over_a_dataset(run, data: Path) -> None:
    data.write_text(GOOD, encoding="utf-8")
    assert run("check", "--html", str(data)).exit_code == 2
    assert data.read_text(encoding="utf-8") == GOOD


# --- plan --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_plan_without_measuring(run, data: Path, tiny: tuple[str, str], language: str) -> None:
    data.write_text(GOOD * 9, encoding="utf-8")
    words = ("plan", *tiny, "--dataset_path", str(data), "--precision", "float32", "--no_measure", "--lang", language)
    outcome = run(*words)
    assert outcome.exit_code == 0
    assert data.name in squeezed(outcome.out)  # a long path is folded
    assert "--per_device_train_batch_size 1" in outcome.out  # two steps a pass are too few
    planned = run(*words, "--json").json
    assert (planned["ok"], planned["time"]) == (True, None)
    assert planned["steps"]["num_steps"] == 6  # type: ignore[index]


def test_plan_of_bad_rows_ends_with_3_and_names_them(run, data: Path, tiny: tuple[str, str]) -> None:
    data.write_text(GOOD + BAD, encoding="utf-8")
    outcome = run("plan", *tiny, "--dataset_path", str(data), "--json")
    assert outcome.exit_code == 3
    assert [finding["line"] for finding in outcome.json["findings"]] == [2]  # type: ignore[attr-defined]


# --- pull, models ------------------------------------------------------------------------------------------------


def test_pull_hands_on_name_and_hub(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def resolve(name: str | None, **where: object) -> BaseModel:
        asked.append((name, where))
        return BaseModel(tmp_path, "some/model", "hf", "some/model", "abc", None, "because")

    monkeypatch.setattr(sources, "resolve", resolve)
    outcome = run("pull", "some/model", "--hub", "hf")
    assert asked == [("some/model", {"hub": "hf", "revision": None})]
    assert "because" in outcome.out
    assert run("pull", "some/model", "--json").json["folder"] == str(tmp_path)


def test_pull_of_what_cannot_be_had(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str | None, **_where: object) -> BaseModel:
        raise ModelError("error.config.not_mapping", where=name)

    monkeypatch.setattr(sources, "resolve", resolve)
    assert run("pull", "nothing").exit_code == 4


def test_models_lists_names_and_folders_uncut(run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/") / ("long" * 20)
    listings = [
        Listing("packaged:a", "here", 10**6, "Apache-2.0", "packaged", folder),
        Listing("b/" + "c" * 40, "can be fetched", 2 * 10**9, None, "hf", None),
    ]
    monkeypatch.setattr(sources, "available", lambda: listings)
    printed = run("models").out
    assert "packaged:a" in printed
    assert "c" * 40 in printed
    assert str(folder) in printed.replace("\n", "").replace(" ", "")
    models = run("models", "--json").json["models"]
    assert isinstance(models, list)
    assert [model["name"] for model in models] == [listing.name for listing in listings]


# --- thin verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "module", "function", "kind"),
    [
        (["train", "--output_dir", "o"], "train", "train", TrainConfig),
        (["plan"], "run_plan", "plan_run", PlanConfig),
        (["chat", "--prompt", "?"], "chat", "run", ChatConfig),
        (["compare", "--dataset_path", "d"], "compare", "compare", CompareConfig),
        (["eval", "--dataset_path", "d"], "evaluate", "evaluate", CompareConfig),
    ],
)
def test_a_verb_hands_its_configuration_to_its_stage(run, stage, words, module, function, kind) -> None:
    called = stage(module, function)
    outcome = run(*words)
    streamed = "streamed\n" if words[0] == "chat" else ""
    assert (outcome.exit_code, outcome.out) == (0, f"{streamed}render {kind.__name__}\n")
    assert [type(config) for config in called] == [kind]
    outcome = run(*words, "--json")
    assert (outcome.json, outcome.err) == ({"ok": True, "value": kind.__name__}, streamed)


def test_a_conversation_is_no_json(run) -> None:
    outcome = run("chat", "--json")
    assert outcome.exit_code == 2
    assert outcome.json["ok"] is False


def test_demo_works_beside_the_user(run, stage) -> None:
    class DemoConfig(CompareConfig):
        dataset_path: Path = Path("unused")

        def __init__(self, **given: object) -> None:
            super().__init__(**{name: given[name] for name in ("model_name_or_path", "output_dir")})

    called = stage("demo", "run", DemoConfig=DemoConfig)
    assert run("demo").exit_code == 0
    assert (called[0].output_dir, called[0].model_name_or_path) == (Path("lora_output"), None)


# --- adapters ----------------------------------------------------------------------------------------------------


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    return folder


def test_adapters_named_are_described_in_order(run, stage) -> None:
    called = stage("adapter", "describe")
    outcome = run("adapters", "b", "a")
    assert called == [Path("b"), Path("a")]
    assert outcome.out.count("render") == 2


def test_a_damaged_adapter_ends_with_8(run, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    outcome = run("adapters", str(tmp_path), "--json")
    assert outcome.exit_code == 8
    assert outcome.json["ok"] is False


def test_adapters_are_found_near_but_not_inside_another(tmp_path: Path) -> None:
    here = [make_adapter(tmp_path / name) for name in ("a", "b/c", "b/d/e")]
    for hidden in (".x", "a/run/checkpoint-5", "b/d/f/g/h"):
        make_adapter(tmp_path / hidden)
    assert sorted(find_adapters(tmp_path)) == sorted(here)
    assert list(find_adapters(here[0])) == [here[0]]


def test_no_adapters_is_said(run, stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage("adapter", "describe")
    monkeypatch.chdir(tmp_path)
    assert "pangzhu train" in run("adapters").out
    assert run("adapters", "--json").json == {"ok": True, "adapters": []}
    assert AdaptersOptions().folders == ()
