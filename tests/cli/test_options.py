"""Options from configuration classes: spelling, defaults, mistakes, help."""

import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from pangzhu import cli, config, messages
from pangzhu.cli import adapters, data, demo, doctor, export, models, serve, training, use
from pangzhu.cli.options import Verb, flags, help_page, parse
from pangzhu.config import ChatConfig, CheckConfig, Options, TrainConfig
from pangzhu.errors import UsageError

VERBS: list[Verb[typing.Any]] = [
    training.train,
    training.plan,
    data.check,
    models.pull,
    models.models,
    use.chat,
    use.compare,
    use.eval_,
    adapters.adapters,
    demo.demo,
    doctor.doctor,
    export.merge,
    export.export,
    serve.serve,
]


def read_train(*words: str) -> TrainConfig:
    found = parse(training.train, ["--output_dir", "out", *words])
    assert found is not None
    return found


def mistake(verb: Verb[typing.Any], *words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(verb, words)
    return caught.value


@pytest.fixture
def _chinese() -> Iterator[None]:
    before = messages.language()
    messages.set_language("zh")
    yield
    messages.set_language(before)


def test_the_table_of_verbs_names_the_verbs() -> None:
    assert {verb.name for verb in VERBS} == set(cli.VERBS)


def test_what_is_not_given_is_the_default_of_the_class() -> None:
    assert read_train() == TrainConfig(output_dir=Path("out"))


@pytest.mark.parametrize("words", [["--max_steps", "7"], ["--max-steps", "7"], ["--max-steps=7"], ["--max_steps=7"]])
def test_both_spellings_of_an_option(words: list[str]) -> None:
    assert read_train(*words).max_steps == 7


def test_values_are_of_the_fields_types() -> None:
    found = read_train("--learning_rate", "1e-3", "--train_on", "last", "--dataset_path", "a b.json", "--use_rslora")
    assert (found.learning_rate, found.train_on, found.dataset_path) == (1e-3, "last", Path("a b.json"))
    assert found.use_rslora is True
    assert read_train("--no-use-rslora").use_rslora is False


def test_a_repeatable_option_and_its_other_name() -> None:
    found = parse(use.chat, ["--adapter", "a", "--adapter_dir", "名字=b", "--adapter-dir=c"])
    assert found == ChatConfig(adapter=("a", "名字=b", "c"))


@pytest.mark.parametrize("words", [["a.json"], ["--dataset_path", "a.json"], ["--system", "s", "--", "a.json"]])
def test_a_positional_word_is_its_option(words: list[str]) -> None:
    found = parse(data.check, words)
    assert isinstance(found, CheckConfig)
    assert found.dataset_path == Path("a.json")


def test_several_positional_words() -> None:
    assert parse(adapters.adapters, ["a", "b"]) == adapters.AdaptersOptions(folders=(Path("a"), Path("b")))
    assert parse(adapters.adapters, []) == adapters.AdaptersOptions()


def test_yaml_below_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("max_steps: 5\nlora-alpha: 16\noutput_dir: elsewhere\nuse_rslora: true\n", encoding="utf-8")
    found = read_train("--config", str(file), "--max_steps", "9", "--no_use_rslora")
    assert (found.max_steps, found.lora_alpha, found.output_dir) == (9, 16, Path("out"))
    assert found.use_rslora is False


@pytest.mark.parametrize(
    ("words", "key", "named"),
    [
        (["--max_stpes", "3"], "error.cli.no_such_option", "“--max_steps”"),
        (["--lr", "3"], "error.cli.no_such_option", "“--learning_rate”"),
        (["-x"], "error.cli.no_such_option", "-x"),
        (["--max_steps"], "error.cli.value_missing", "--max_steps"),
        (["--skip_bad=yes"], "error.cli.takes_no_value", "--skip_bad"),
        (["--output_dir", "a", "b"], "error.cli.unexpected_word", "“b”"),
        ([], "error.config.missing", "--output_dir"),
        (["--output_dir", "a", "--r", "0"], "error.config.invalid_value", "at least 1"),
        (["--output_dir", "a", "--r", "x"], "error.config.invalid_value", "a whole number"),
        (["--output_dir", "a", "--learning_rate", "0"], "error.config.invalid_value", "greater than 0"),
        (["--output_dir", "a", "--warmup_ratio", "1"], "error.config.invalid_value", "less than 1"),
        (["--output_dir", "a", "--train_on", "x"], "error.config.invalid_value", "assistant, last, all"),
        (["--output_dir", "a", "--overlong", "drop"], "error.config.overlong_without_length", "--max_seq_length"),
    ],
)
def test_mistakes_name_the_option_and_the_nearest(words: list[str], key: str, named: str) -> None:
    error = mistake(training.train, *words)
    assert (error.key, error.exit_code) == (key, 2)
    assert named in error.what


def test_a_positional_word_given_twice() -> None:
    assert mistake(data.check, "a", "--dataset_path", "b").key == "error.cli.given_twice"


@pytest.mark.usefixtures("_chinese")
@pytest.mark.parametrize("words", [["--max_steps", "x"], ["--seed", "-1"], ["--hub", "x"], ["--top"], ["a", "b"]])
def test_mistakes_are_told_in_chinese(words: list[str]) -> None:
    sentence = str(mistake(training.train, "--output_dir", "out", *words))
    assert not any(english in sentence for english in ("should", "Input", "valid", "requires", "option", "extra"))


def test_a_switch_that_is_on_is_shown_with_what_turns_it_off() -> None:
    assert "[on; --no_measure turns it off]" in " ".join(help_page(training.plan).split())
    for words, measure in [([], True), (["--no_measure"], False), (["--no-measure"], False)]:
        found = parse(training.plan, words)
        assert found is not None
        assert (found.measure, found.output_dir) == (measure, Path())


def test_plan_takes_every_option_of_train() -> None:
    assert set(training.plan.fields) == {*training.train.fields, "measure"}


def test_help_is_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(training.train, ["--help"]) is None
    assert parse(training.train, ["--max_steps", "3", "-h"]) is None
    assert "--learning_rate" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_shows_every_option_and_its_default(verb: Verb[typing.Any]) -> None:
    page = help_page(verb)
    flat = " ".join(page.split())
    for name, field in verb.fields.items():
        assert f"--{name}" in page
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"default {field.default:g}]" in flat
        if field.is_required():
            assert "required]" in flat


def test_panels_stand_in_the_order_of_the_lesson() -> None:
    page = help_page(training.train)
    places = [page.index(f"\n{title}\n") for title in ("Base model", "Data", "LoRA", "Optimisation", "Run", "General")]
    assert places == sorted(places)


def test_only_what_matters_is_offered() -> None:
    assert set(models.pull.fields) == {"model_name_or_path", "hub", "revision"}


def test_flags_know_which_are_switches() -> None:
    known = flags(training.train)
    assert known["--skip_bad"]
    assert known["--no_skip_bad"]
    assert not known["--max_steps"]


def test_every_class_of_options_has_an_immutable_default() -> None:
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, Options)]
    for kind in kinds:
        for field in kind.model_fields.values():
            assert not isinstance(field.default, list | dict | set)


@pytest.mark.parametrize(("language", "word"), [("en", "finite"), ("zh", "有限")])
@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_infinity_and_nan_are_refused_in_both_languages(run, language: str, word: str, value: str) -> None:
    outcome = run("train", "--output_dir", "o", "--num_train_epochs", value, "--lang", language)
    assert outcome.exit_code == 2
    assert word in outcome.err
