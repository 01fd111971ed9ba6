"""Configuration: defaults, YAML below flags, and every way to contradict oneself."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pangzhu.config import ChatConfig, CheckConfig, CompareConfig, Options, TrainConfig, load_config
from pangzhu.errors import UsageError


@pytest.fixture
def yaml_file(tmp_path: Path):
    """Write a YAML file and give its path."""

    def write(content: str | bytes) -> Path:
        file = tmp_path / "run.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


def train(given: dict[str, object], config_file: Path | None = None) -> TrainConfig:
    return load_config(TrainConfig, {"output_dir": "out"} | given, config_file=config_file)


def refused(given: dict[str, object], config_file: Path | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        train(given, config_file)
    return caught.value


def test_the_defaults_are_those_of_the_design() -> None:
    config = train({})
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (8, 32, 0, "all-linear")
    assert (config.learning_rate, config.lr_scheduler_type, config.warmup_ratio) == (2e-4, "cosine", 0.05)
    assert (config.num_train_epochs, config.max_steps) == (3, None)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (8, 1)
    assert (config.train_on, config.overlong, config.max_seq_length) == ("assistant", "fail", None)
    assert (config.weight_decay, config.max_grad_norm, config.seed) == (0, 1.0, 42)
    assert (config.precision, config.save_steps, config.logging_steps) == ("auto", 50, 1)


def test_what_is_none_was_not_given() -> None:
    assert train({"r": None, "max_steps": None}) == train({})


def test_texts_become_values() -> None:
    config = train({"r": "16", "learning_rate": "1e-3", "output_dir": "a/b"})
    assert (config.r, config.learning_rate, config.output_dir) == (16, 1e-3, Path("a/b"))


def test_yaml_has_the_same_keys_in_both_spellings(yaml_file) -> None:
    file = yaml_file("max_steps: 5\nlora-alpha: 16\nsystem: 你是法律助手\nlearning_rate: 2e-4\n")
    config = train({}, file)
    assert (config.max_steps, config.lora_alpha, config.system, config.learning_rate) == (5, 16, "你是法律助手", 2e-4)


def test_flags_win_over_yaml(yaml_file) -> None:
    assert train({"max_steps": 9}, yaml_file("max_steps: 5\nr: 4\n")).max_steps == 9


def test_a_flag_of_false_wins_over_yaml(yaml_file) -> None:
    assert train({"use_dora": False}, yaml_file("use_dora: true\n")).use_dora is False


def test_an_empty_file_changes_nothing(yaml_file) -> None:
    assert train({}, yaml_file("# nothing\n")) == train({})


def test_an_unknown_key_names_the_nearest(yaml_file) -> None:
    error = refused({}, yaml_file("max_stpes: 5\n"))
    assert error.key == "error.config.unknown_key"
    assert "max_steps" in error.what
    assert str(error.where).endswith("run.yaml")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("a: [1\n", "error.config.not_yaml"),
        (b"\xff\xfe\x00a", "error.config.not_yaml"),
        ("- a\n- b\n", "error.config.not_mapping"),
        ("just a text\n", "error.config.not_mapping"),
    ],
)
def test_a_broken_file_is_named(yaml_file, content: str | bytes, key: str) -> None:
    assert refused({}, yaml_file(content)).key == key


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refused({}, tmp_path / "none.yaml")
    assert (error.key, error.where) == ("error.config.unreadable", str(tmp_path / "none.yaml"))


def test_yaml_constructs_nothing(yaml_file) -> None:
    assert refused({}, yaml_file("a: !!python/object/apply:os.getcwd []\n")).key == "error.config.not_yaml"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", 0),
        ("r", "x"),
        ("r", 1.5),
        ("lora_dropout", 1),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("warmup_ratio", -0.1),
        ("max_steps", 0),
        ("max_seq_length", 7),
        ("train_on", "user"),
        ("precision", "fp16"),
        ("save_steps", 0),
        ("seed", -1),
        ("skip_bad", "maybe"),
        ("num_train_epochs", "inf"),
        ("num_train_epochs", float("inf")),
        ("learning_rate", float("nan")),
        ("lora_alpha", "nan"),
        ("max_grad_norm", float("inf")),
    ],
)
def test_an_unfit_value_names_its_flag(name: str, value: object) -> None:
    error = refused({name: value})
    assert (error.key, error.where) == ("error.config.invalid_value", f"--{name}")
    assert error.values["name"] == name


def test_an_unfit_value_of_a_file_names_the_file_too(yaml_file) -> None:
    assert "run.yaml" in str(refused({}, yaml_file("r: [1]\n")).where)


def test_what_is_required_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(CompareConfig, {})
    assert (caught.value.key, caught.value.where) == ("error.config.missing", "--dataset_path")


def test_an_alias_is_a_key_of_the_file_too(yaml_file) -> None:
    file = yaml_file("adapter-dir: [a, b=c]\n")
    assert load_config(ChatConfig, {}, config_file=file).adapter == ("a", "b=c")
    assert refused({}, file).key == "error.config.unknown_key"


def test_an_alias_beside_its_own_name_is_refused(yaml_file) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(ChatConfig, {}, config_file=yaml_file("adapter_dir: [a]\nadapter: [b]\n"))
    assert caught.value.key == "error.cli.given_twice"


def test_top_p_is_refused_where_nothing_is_drawn() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(ChatConfig, {"top_p": 0.9})
    assert caught.value.key == "error.config.idle_drawing"
    assert load_config(ChatConfig, {"top_p": 0.9, "temperature": 0.7}).top_p == 0.9


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_what_happens_to_long_rows_needs_a_length(overlong: str) -> None:
    with pytest.raises(UsageError):
        load_config(CheckConfig, {"overlong": overlong})
    assert refused({"overlong": overlong}).key == "error.config.overlong_without_length"
    assert train({"overlong": overlong, "max_seq_length": 64}).overlong == overlong


def test_a_configuration_cannot_be_changed() -> None:
    config = train({})
    with pytest.raises(ValidationError):
        config.r = 4  # type: ignore[misc]


def test_an_unknown_name_is_refused_by_the_class_itself() -> None:
    with pytest.raises(ValidationError):
        ChatConfig(adapters=("a",))  # type: ignore[call-arg]


def test_each_field_has_its_default_in_one_class_only() -> None:
    kinds = Options.__subclasses__()
    allowed = {"system", "adapter", "output_dir", "max_new_tokens", "allow_base_mismatch", "dataset_path"}
    owners: dict[str, list[str]] = {}
    for kind in kinds:
        for name in kind.__annotations__:
            owners.setdefault(name, []).append(kind.__name__)
    assert {name for name, where in owners.items() if len(where) > 1} <= allowed


@pytest.mark.parametrize("name", ["output_dir", "dataset_path", "validation_path"])
def test_an_empty_path_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_config(TrainConfig, {"output_dir": "out"} | {name: ""})
    assert refused.value.key == "error.config.empty_path"


@pytest.mark.parametrize(("name", "value"), [("seed", 2**32), ("max_steps", 10**20), ("num_train_epochs", 1e300)])
def test_absurd_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError) as refused:
        load_config(TrainConfig, {"output_dir": "out", name: value})
    assert refused.value.where == f"--{name}"


def test_a_yaml_bomb_of_brackets_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("[" * 2_000, encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load_config(TrainConfig, {"output_dir": "out"}, config_file=file)
    assert refused.value.key == "error.config.not_yaml"


@pytest.mark.parametrize(
    ("name", "value"), [("eval_steps", 5), ("load_best_model_at_end", True), ("early_stopping_patience", 2)]
)
def test_what_is_done_with_validation_rows_needs_them(name: str, value: object) -> None:
    error = refused({name: value})
    assert (error.key, error.where) == ("error.config.without_validation", f"--{name}")
    assert f"--{name}" in error.what
    assert getattr(train({name: value, "validation_path": "rows.jsonl"}), name) == value


def test_the_best_weights_are_published_where_there_are_validation_rows_unless_that_is_not_wanted() -> None:
    rows: dict[str, object] = {"validation_path": "rows.jsonl"}
    assert train(rows).keeps_best
    assert train(rows | {"load_best_model_at_end": True}).keeps_best
    assert not train(rows | {"load_best_model_at_end": False}).keeps_best
    assert not train({}).keeps_best
    assert not train({"load_best_model_at_end": False}).keeps_best


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["wandb", "swanlab"], ("wandb", "swanlab")),
        ("tensorboard", ("tensorboard",)),
        ("none", ()),
        (["wandb", "wandb"], ("wandb",)),
        ([], ()),
    ],
)
def test_trackers_are_named_one_by_one(given: object, taken: tuple[str, ...]) -> None:
    assert train({"report_to": given}).report_to == taken


def test_a_tracker_that_nobody_knows_is_refused_with_the_nearest() -> None:
    error = refused({"report_to": ["tensorbord"]})
    assert (error.key, error.where) == ("error.config.unknown_tracker", "--report_to")
    assert "tensorboard" in error.what
    assert "swanlab" in error.fix


def test_none_beside_a_tracker_is_refused() -> None:
    assert refused({"report_to": ["none", "wandb"]}).key == "error.config.tracker_and_none"


def test_a_file_may_name_a_single_tracker(yaml_file) -> None:
    assert train({}, yaml_file("report_to: swanlab\n")).report_to == ("swanlab",)
    assert train({"report_to": ["none"]}, yaml_file("report_to: swanlab\n")).report_to == ()
