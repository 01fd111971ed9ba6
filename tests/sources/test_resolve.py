"""Where a name is looked for, in which order, and what is said when it is nowhere."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, NAME, Fault, HubServer
from tiny_folder import NOWHERE, tiny_files, write_files

from pangzhu.config import DEFAULT_MODEL, FALLBACK_MODEL
from pangzhu.errors import ModelError
from pangzhu.messages import set_language, text
from pangzhu.sources import available, cache_root, packaged, probe, resolve
from pangzhu.sources.modelscope import modelscope_cache_dir


@pytest.fixture
def packaged_folder(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged models are here already."""
    folder = write_files(caches / "packaged", tiny_files())
    monkeypatch.setattr(packaged, "obtain", lambda model: folder)
    return folder


@pytest.fixture
def modelscope(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """ModelScope's library, reachable; its calls are kept."""
    calls: list[dict[str, object]] = []

    def snapshot_download(name: str, **options: object) -> str:
        calls.append({"name": name} | options)
        folder = modelscope_cache_dir() / "models" / name.replace("/", "--") / "snapshots" / "master"
        return str(write_files(folder, tiny_files()))

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))  # type: ignore[misc]
    monkeypatch.setattr("pangzhu.sources.modelscope.find_spec", lambda name: object())
    reachable = probe.reachable
    monkeypatch.setattr(
        probe, "reachable", lambda endpoint, **options: endpoint == NOWHERE + "9" or reachable(endpoint, **options)
    )
    return calls


def key_of(name: str | None, **options: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name, **options)  # type: ignore[arg-type]
    return caught.value.key


def test_no_name_means_the_default_where_a_hub_has_it(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pangzhu.sources.resolve"], "DEFAULT_MODEL", NAME)
    base = resolve(None)
    assert (base.name, base.origin, base.revision) == (NAME, "hf", COMMIT)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_name_and_no_hub_means_the_packaged_model_and_the_reason(
    packaged_folder: Path, said: list[str], language: str
) -> None:
    set_language(language)  # type: ignore[arg-type]
    base = resolve(None)
    assert (base.name, base.origin, base.folder) == (FALLBACK_MODEL, "packaged", packaged_folder)
    assert base.public_id == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert DEFAULT_MODEL in base.why
    assert NOWHERE in base.why
    assert text("source.falling_back", name=FALLBACK_MODEL, default=DEFAULT_MODEL) in said
    assert base.why not in said


def test_no_name_and_a_hub_that_fails_means_the_packaged_model_too(hub: HubServer, packaged_folder: Path) -> None:
    hub.faults["api"] = Fault("500")
    assert "500" in resolve(None).why


def test_a_named_model_is_never_replaced(packaged_folder: Path) -> None:
    assert key_of(DEFAULT_MODEL) == "error.model.no_hub"


def test_a_revision_of_the_default_is_never_replaced(packaged_folder: Path) -> None:
    assert key_of(None, revision="main") == "error.model.no_hub"


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "", "Qwen/Qwen 2.5", "qwen/", "https:model", "名字", "a/../b"])
def test_what_is_no_name_is_refused(caches: Path, name: str) -> None:
    assert key_of(name) == "error.model.bad_name"


def test_a_packaged_name_without_its_prefix_is_hinted(caches: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean “packaged:smollm2-135m-instruct”"):
        resolve("smollm2-135m-instruct")


def test_modelscope_is_tried_where_hugging_face_cannot_be_reached(
    caches: Path, modelscope: list[dict[str, object]]
) -> None:
    base = resolve(NAME)
    assert (base.origin, base.public_id) == ("modelscope", NAME)
    assert "ModelScope" in base.why
    assert all("*.py" in call["ignore_patterns"] for call in modelscope)  # type: ignore[operator]


def test_modelscope_is_tried_where_hugging_face_does_not_deliver(
    hub: HubServer, modelscope: list[dict[str, object]]
) -> None:
    hub.faults["model.safetensors"] = Fault("wrong")
    assert resolve(NAME).origin == "modelscope"


@pytest.mark.parametrize("hub_option", ["auto", "modelscope"])
def test_modelscope_is_never_asked_for_a_commit_of_hugging_face(
    caches: Path, modelscope: list[dict[str, object]], said: list[str], hub_option: str
) -> None:
    base = resolve(NAME, hub=hub_option, revision=COMMIT)  # type: ignore[arg-type]
    assert (base.origin, base.revision) == ("modelscope", None)
    assert {call["revision"] for call in modelscope} == {None}
    assert any(COMMIT in sentence for sentence in said)
    assert resolve(NAME, hub="modelscope", revision=COMMIT).origin == "cache"


def test_a_branch_reaches_modelscope_as_it_was_given(caches: Path, modelscope: list[dict[str, object]]) -> None:
    assert resolve(NAME, hub="modelscope", revision="v1").revision == "v1"
    assert {call["revision"] for call in modelscope} == {"v1"}


def test_hub_hf_never_asks_modelscope(caches: Path, modelscope: list[dict[str, object]]) -> None:
    assert key_of(NAME, hub="hf") == "error.model.no_hub"
    assert modelscope == []


def test_hub_modelscope_never_asks_hugging_face(hub: HubServer, modelscope: list[dict[str, object]]) -> None:
    assert resolve(NAME, hub="modelscope").origin == "modelscope"
    assert hub.requests == []


def test_without_modelscopes_library_the_command_to_install_it_is_shown(
    caches: Path, modelscope: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.sources.modelscope.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install modelscope") as caught:
        resolve(NAME, hub="modelscope")
    assert caught.value.key == "error.model.no_modelscope"


@pytest.mark.parametrize("failure", [ValueError("no such model"), ConnectionError("reset"), RuntimeError("bad hash")])
def test_modelscopes_failures_are_one_sentence(
    caches: Path, modelscope: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(name: str, **options: object) -> str:
        raise failure

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", fail)
    with pytest.raises(ModelError, match=str(failure)) as caught:
        resolve(NAME, hub="modelscope")
    assert caught.value.key == "error.model.modelscope_failed"


LAYOUTS = [
    "models/someone--tiny.v2/snapshots/master",
    "models/someone/tiny___v2",
    "hub/models/someone/tiny___v2",
    "someone/tiny.v2",
    "hub/someone/tiny.v2",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modelscopes_cache_is_used_without_its_library_or_a_request(caches: Path, layout: str) -> None:
    folder = write_files(modelscope_cache_dir() / layout, tiny_files())
    base = resolve("someone/tiny.v2")
    assert (base.folder, base.origin, base.public_id) == (folder, "cache", "someone/tiny.v2")


def test_a_whole_copy_is_preferred_to_one_that_is_not(hub: HubServer) -> None:
    (resolve(NAME).folder / "config.json").unlink()
    folder = write_files(modelscope_cache_dir() / "models" / "someone--tiny" / "snapshots" / "master", tiny_files())
    assert resolve(NAME).folder == folder


@pytest.mark.fault("B7")
def test_a_cached_model_that_wants_to_run_code_is_refused(hub: HubServer) -> None:
    config = resolve(NAME).folder / "config.json"
    config.unlink()
    config.write_text('{"auto_map": {"AutoModel": "x.Y"}}')
    assert key_of(NAME) == "error.model.remote_code"


def test_a_hub_that_was_not_there_is_not_waited_for_again_by_the_default(
    packaged_folder: Path, said: list[str]
) -> None:
    resolve(None)
    probe.forget()
    said.clear()
    resolve(None)
    assert not any("Asking" in sentence for sentence in said)


def test_a_named_model_asks_again_since_the_network_may_be_mended(
    packaged_folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_root().mkdir(parents=True, exist_ok=True)
    (cache_root() / "probes.json").write_text(json.dumps({hub.endpoint: [time.time(), False]}))
    assert resolve(None).origin == "packaged"
    assert resolve(NAME).origin == "hf"


@pytest.mark.parametrize("age", [601.0, -60.0])
def test_an_old_answer_is_forgotten(hub: HubServer, age: float) -> None:
    cache_root().mkdir(parents=True)
    (cache_root() / "probes.json").write_text(json.dumps({hub.endpoint: [time.time() - age, False]}))
    assert probe.reachable(hub.endpoint)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_broken_memory_is_no_memory(hub: HubServer, content: str) -> None:
    cache_root().mkdir(parents=True)
    (cache_root() / "probes.json").write_text(content)
    assert probe.reachable(hub.endpoint)


def test_answers_are_remembered_by_address(hub: HubServer) -> None:
    assert not probe.reachable(NOWHERE)
    assert probe.reachable(hub.endpoint)
    remembered = json.loads((cache_root() / "probes.json").read_text())
    assert {endpoint: answer for endpoint, (_, answer) in remembered.items()} == {NOWHERE: False, hub.endpoint: True}


@pytest.mark.fault("D1")
def test_a_name_server_that_hangs_does_not_hold_the_command(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(endpoint: str, seconds: float) -> bool:
        time.sleep(5)
        return True

    monkeypatch.setattr(probe, "_ask", hang)
    began = time.monotonic()
    assert not probe.reachable(NOWHERE, seconds=0.1)
    assert time.monotonic() - began < 1


def test_the_listing_tells_what_is_here_and_what_can_be_had(hub: HubServer) -> None:
    folder = resolve(NAME).folder
    write_files(modelscope_cache_dir() / "models" / "other" / "model___1", tiny_files())
    write_files(modelscope_cache_dir() / "models" / "half--model" / "snapshots" / "master", {"config.json": b"{}"})
    by_name = {listing.name: listing for listing in available()}
    assert by_name[DEFAULT_MODEL].state == "can be fetched"
    assert by_name[FALLBACK_MODEL].num_bytes > 400_000_000
    assert (by_name[NAME].state, by_name[NAME].folder) == ("here", folder)
    assert by_name[NAME].num_bytes == sum(len(content) for content in tiny_files().values())
    assert by_name["other/model.1"].state == "here"
    assert "half/model" not in by_name
    assert next(iter(by_name)) == DEFAULT_MODEL


def platform_cache(monkeypatch: pytest.MonkeyPatch, platform: str, **environment: str) -> Path:
    for name in ("PANGZHU_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pangzhu.sources.cache.sys.platform", platform)
    return cache_root()


Where = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, lambda home: home / ".cache" / "pangzhu"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, lambda home: Path("/xdg/pangzhu")),
        ("darwin", {}, lambda home: home / "Library" / "Caches" / "pangzhu"),
        ("win32", {"LOCALAPPDATA": "/local"}, lambda home: Path("/local/pangzhu")),
        ("win32", {}, lambda home: home / "AppData" / "Local" / "pangzhu"),
        ("linux", {"PANGZHU_CACHE": "/mine"}, lambda home: Path("/mine").resolve()),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: Where
) -> None:
    assert platform_cache(monkeypatch, platform, **environment) == expected(Path.home())


def test_looking_for_a_model_does_not_load_torch() -> None:
    import subprocess

    code = (
        "import sys, pangzhu.sources as s; s.available(); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_languages_say_the_same_things() -> None:
    from string import Formatter

    from pangzhu.messages.en.sources import MESSAGES as ENGLISH
    from pangzhu.messages.zh.sources import MESSAGES as CHINESE

    def fields(sentence: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(sentence) if name}

    assert ENGLISH.keys() == CHINESE.keys()
    assert {key: fields(ENGLISH[key]) for key in ENGLISH} == {key: fields(CHINESE[key]) for key in CHINESE}
