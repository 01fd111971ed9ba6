"""GGUF files for chat: made where there are none, once for each base and adapter, and never half."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.engines import Engine
from pangzhu.engines.choice import load_engine
from pangzhu.engines.llamacpp import LlamaCppEngine
from pangzhu.engines.named_models import choose_models
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import ModelError, ResourceError
from pangzhu.export.kept import FILE, KeptGguf
from pangzhu.messages import listening
from tests.export.conftest import Adapt, Adapted, teach, write_base
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS, Outcome, Told, ask, vouch_for

pytest.importorskip("xllamacpp")

pytest_plugins = ["tests.use_fixtures"]

Load = Callable[..., tuple[Engine, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; gives where it keeps GGUF files."""
    monkeypatch.setenv("PANGZHU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads base and adapters of `chat`; gives the engine and what was said. Closed after the test."""
    engines: list[Engine] = []

    def load_it(*adapters: Path, **options: object) -> tuple[Engine, str]:
        told = Told()
        with listening(told):
            config = ChatConfig.model_validate({"adapter": tuple(map(str, adapters)), "device": "cpu"} | options)
            engines.append(load_engine(config, KeptGguf()))
        return engines[-1], str(told)

    yield load_it
    for engine in engines:
        engine.close()


@pytest.fixture
def own_copy(adapted: Adapt, tmp_path: Path) -> Adapted:
    """A base and its adapter that the test may change."""
    made = adapted()
    adapter = Path(shutil.copytree(made.adapter, tmp_path / "own", ignore=shutil.ignore_patterns("run")))
    return Adapted(made.base, adapter)


def test_chat_answers_through_llamacpp_though_nobody_gave_a_gguf_file(
    adapted: Adapt, command: Callable[..., Outcome], cache: Path
) -> None:
    words = ("chat", "--adapter", f"law={adapted().adapter}", "--device", "cpu", "--max_new_tokens", "24")
    first, second = (command(*words, "--prompt", QUESTIONS[0]) for _ in range(2))
    assert (first.exit_code, first.out) == (second.exit_code, second.out) == (0, f"{ENGLISH[0]}\n")
    assert "Engine: llama.cpp." in first.err
    assert "Making a GGUF file" in first.err
    assert "Making" not in second.err
    assert len(list(cache.iterdir())) == 2


def test_each_adapter_of_one_name_gets_a_file_of_its_own(
    adapted: Adapt, load: Load, tmp_path: Path, cache: Path
) -> None:
    base = adapted().base
    for folder, answers in ((tmp_path / "1" / "law", ENGLISH), (tmp_path / "2" / "law", CHINESE)):
        folder.parent.mkdir()
        engine, _ = load(teach(base, folder, answers))
        assert isinstance(engine, LlamaCppEngine)
        assert [ask(engine, "law", question).text for question in QUESTIONS] == list(answers)
    assert sum(entry.name.startswith("lora-") for entry in cache.iterdir()) == 2
    assert sum(entry.name.startswith("base-") for entry in cache.iterdir()) == 1


def test_a_base_that_changed_under_the_same_name_is_made_anew(own_copy: Adapted, cache: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(own_copy.base, tmp_path / "base"))

    def file() -> Path:
        with listening(Told()):
            return KeptGguf().base(choose_models(ChatConfig(model_name_or_path=str(base)), ()).base)

    before = file()
    assert file() == before
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert file() != before


@pytest.mark.parametrize("harm", ["killed", "cut short"])
def test_a_file_that_is_not_whole_is_written_anew(own_copy: Adapted, load: Load, cache: Path, harm: str) -> None:
    load(own_copy.adapter)[0].close()
    for folder in list(cache.iterdir()):
        whole = (folder / FILE).read_bytes()
        if harm == "killed":
            folder.rename(folder.with_name(f"{folder.name}.unfinished"))
        else:
            (folder / FILE).write_bytes(whole[:-1])
    engine, said = load(own_copy.adapter)
    assert said.count("Making") == 2
    assert ask(engine, "own", QUESTIONS[1]).text == ENGLISH[1]
    assert not list(cache.glob("*.unfinished"))


def test_an_adapter_of_dora_is_refused_where_llamacpp_was_asked_for(own_copy: Adapted, load: Load) -> None:
    from safetensors.torch import load_file, save_file

    weights = own_copy.adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    lengths = {
        name.replace("lora_B.weight", "lora_magnitude_vector"): tensor.norm(dim=1)
        for name, tensor in tensors.items()
        if "lora_B" in name
    }
    save_file(tensors | lengths, weights, metadata={"format": "pt"})
    config = own_copy.adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"use_dora": True}), encoding="utf-8")
    for name in (weights.name, config.name):
        vouch_for(own_copy.adapter, name)
    with pytest.raises(ModelError) as refused:
        load(own_copy.adapter, engine="llamacpp")
    assert refused.value.key == "error.export.dora"


def test_transformers_answers_where_the_disk_has_no_room_for_the_file(
    adapted: Adapt, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.storage.free_space", lambda _folder: 10)
    engine, said = load(adapted().adapter)
    assert isinstance(engine, TransformersEngine)
    assert "Engine: transformers (" in said
    assert "10 B" in said
    with pytest.raises(ResourceError):
        load(adapted().adapter, engine="llamacpp")


def test_transformers_answers_where_the_disk_has_no_room_for_the_file_of_an_adapter_alone(
    adapted: Adapt, load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(adapted().adapter)[0].close()
    for made in cache.glob("lora-*"):
        shutil.rmtree(made)
    monkeypatch.setattr("pangzhu.storage.free_space", lambda _folder: 10)
    engine, said = load(adapted().adapter)
    assert isinstance(engine, TransformersEngine)
    assert "10 B" in said
    assert "Engine: llama.cpp" not in said
    with pytest.raises(ResourceError):
        load(adapted().adapter, engine="llamacpp")


def test_transformers_answers_where_the_cache_cannot_be_written(adapted: Adapt, load: Load, cache: Path) -> None:
    made = adapted()
    cache.parent.write_text("a file in its place")
    engine, said = load(made.adapter)
    assert isinstance(engine, TransformersEngine)
    assert "Engine: transformers (" in said
    with pytest.raises(ResourceError):
        load(made.adapter, engine="llamacpp")


def test_transformers_answers_where_llamacpp_does_not_compute_the_base(
    adapted: Adapt, load: Load, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(adapted().base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}), encoding="utf-8")
    engine, said = load(model_name_or_path=str(base))
    assert isinstance(engine, TransformersEngine)
    assert "hidden_act is relu" in said
    with pytest.raises(ModelError) as refused:
        load(model_name_or_path=str(base), engine="llamacpp")
    assert refused.value.key == "error.export.config"


def test_a_context_is_no_longer_than_the_bases_window(load: Load, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "mistral")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"sliding_window": 256}), encoding="utf-8")
    engine, _ = load(model_name_or_path=str(base), engine="llamacpp")
    assert engine.context_length == 256
    assert len(engine.generate(list(range(3, 203)), "base", GenerationOptions(max_new_tokens=56)).token_ids) > 0
