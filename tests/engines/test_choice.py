"""Which engine answers: the one asked for, else llama.cpp where it can, and the reason is told."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pangzhu import chat
from pangzhu.config import ChatConfig
from pangzhu.engines import Engine, choice
from pangzhu.engines.choice import load_engine
from pangzhu.engines.llamacpp import LlamaCppEngine
from pangzhu.engines.named_models import ChosenModels, choose_models
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import ModelError, UsageError
from pangzhu.messages import listening
from tests.engines.tiny_gguf import Converter
from tests.use_helpers import ENGLISH, Outcome, Told, Trained, vouch_for

pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path)


@pytest.fixture
def _base_has_gguf(trained: Trained, converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base comes with a GGUF file, as a packaged one does."""

    def choose(*given: object, **more: object) -> ChosenModels:
        models = choose_models(*given, **more)  # type: ignore[arg-type]
        file = converter.base(models.base)
        return replace(models, base=replace(models.base, source=replace(models.base.source, gguf=file)))

    monkeypatch.setattr(choice, "choose_models", choose)


@pytest.fixture
def load(trained: Trained) -> Iterator[Callable[..., tuple[Engine, str]]]:
    """Loads an engine; gives it and what was said. Closed after the test."""
    engines: list[Engine] = []

    def load_it(converter: Converter | None = None, **options: object) -> tuple[Engine, str]:
        told = Told()
        given = {"model_name_or_path": str(trained.base), "device": "cpu"} | options
        with listening(told):
            engines.append(load_engine(ChatConfig.model_validate(given), converter))
        return engines[-1], str(told)

    yield load_it
    for engine in engines:
        engine.close()


@pytest.mark.usefixtures("_base_has_gguf")
def test_llamacpp_answers_where_it_has_all_it_needs(
    load: Callable[..., tuple[Engine, str]], trained: Trained, converter: Converter
) -> None:
    for engine, said in (load(), load(converter, adapter=(str(trained.english),))):
        assert isinstance(engine, LlamaCppEngine)
        assert "Engine: llama.cpp." in said


@pytest.mark.usefixtures("_base_has_gguf")
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"engine": "transformers"}, "asked for by --engine"), ({"precision": "float32"}, "--precision float32")],
)
def test_transformers_answers_where_it_is_asked_for(
    load: Callable[..., tuple[Engine, str]], options: dict[str, str], reason: str
) -> None:
    engine, said = load(**options)
    assert isinstance(engine, TransformersEngine)
    assert "Engine: transformers" in said
    assert reason in said


@pytest.mark.usefixtures("_base_has_gguf")
def test_transformers_answers_on_a_gpu(
    load: Callable[..., tuple[Engine, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "decide_device", lambda _wanted: "cuda")
    engine, said = load()
    assert isinstance(engine, TransformersEngine)
    assert "it computes on the GPU" in said


@pytest.mark.usefixtures("_base_has_gguf")
def test_transformers_answers_where_llamacpp_is_not_installed(
    load: Callable[..., tuple[Engine, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _name: None)
    engine, said = load()
    assert isinstance(engine, TransformersEngine)
    assert "pip install xllamacpp" in said


def test_transformers_answers_where_the_base_has_no_gguf_file(load: Callable[..., tuple[Engine, str]]) -> None:
    engine, said = load()
    assert isinstance(engine, TransformersEngine)
    assert "a GGUF file of the base" in said


@pytest.mark.usefixtures("_base_has_gguf")
def test_transformers_answers_where_nothing_makes_gguf_files_of_adapters(
    load: Callable[..., tuple[Engine, str]], trained: Trained
) -> None:
    engine, said = load(adapter=(str(trained.english),))
    assert isinstance(engine, TransformersEngine)
    assert "GGUF files of the adapters" in said


@pytest.mark.usefixtures("_base_has_gguf")
def test_transformers_answers_with_dora(
    load: Callable[..., tuple[Engine, str]],
    trained: Trained,
    converter: Converter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(trained.english, tmp_path / "dora", ignore=shutil.ignore_patterns("run")))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}), encoding="utf-8")
    vouch_for(folder, "adapter_config.json")
    monkeypatch.setattr("pangzhu.adapter.check_weights", lambda *_: None)  # its magnitudes are not here
    monkeypatch.setattr("pangzhu.engines.transformers.load_chosen", lambda models, _config: told_apart)
    told_apart = TransformersEngine.__new__(TransformersEngine)
    engine, said = load(converter, adapter=(str(folder),))
    assert engine is told_apart
    assert "“dora”" in said


def test_llamacpp_asked_for_where_it_cannot_is_an_error(
    load: Callable[..., tuple[Engine, str]],
) -> None:
    with pytest.raises(ModelError) as refused:
        load(engine="llamacpp")
    assert refused.value.key == "error.engine.no_gguf"


@pytest.mark.parametrize(("name", "value"), [("precision", "bf16"), ("device", "cuda")])
def test_llamacpp_refuses_what_it_does_not_know(name: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        ChatConfig.model_validate({"engine": "llamacpp", name: value})
    assert f"--{name}" in str(refused.value)


# --- chat ----------------------------------------------------------------------------------------------------------


def test_chat_answers_with_llamacpp_and_closes_it(
    trained: Trained, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[LlamaCppEngine] = []
    monkeypatch.setattr(LlamaCppEngine, "close", lambda engine: (closed.append(engine), engine._server.close()))
    config = ChatConfig(adapter=(str(trained.english),), engine="llamacpp", prompt="one?", max_new_tokens=24)
    told, written = Told(), []
    with listening(told):
        answer = chat.run(config, write=written.append, converter=converter)
    assert answer is not None
    assert (answer.answer, "".join(written), answer.ended) == (ENGLISH[0], ENGLISH[0], True)
    assert len(closed) == 1
    assert "Engine: llama.cpp." in told.sentences


def test_chat_closes_the_engine_after_a_fault_too(
    trained: Trained, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    config = ChatConfig(adapter=(str(trained.english),), engine="llamacpp", prompt="long " * 900, max_new_tokens=24)
    monkeypatch.setattr(LlamaCppEngine, "close", lambda engine: (closed.append(engine), engine._server.close()))
    with listening(Told()), pytest.raises(UsageError):
        chat.run(config, converter=converter)
    assert len(closed) == 1


def test_the_command_line_says_which_engine_answers(trained: Trained, command: Callable[..., Outcome]) -> None:
    words = ("chat", "--engine", "transformers", "--adapter", f"law={trained.english}", "--precision", "float32")
    outcome = command(*words, "--max_new_tokens", "24", "--prompt", "one?")
    assert (outcome.exit_code, outcome.out) == (0, f"{ENGLISH[0]}\n")
    assert "Engine: transformers (asked for by --engine)." in outcome.err
