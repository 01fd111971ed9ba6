"""A model folder is accepted whole and without code, or refused with the name of the file."""

import json
from pathlib import Path

import pytest
from tiny_folder import tiny_files, tiny_weights, write_files

from pangzhu.errors import ModelError
from pangzhu.sources import resolve
from pangzhu.sources.folder import IncompleteFolderError, check_folder, is_device_name, recorded_public_id
from tests.damage import CUTS

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGES = [b"<!DOCTYPE html><html>", b"\n  <html lang='zh'>", b"<?xml version='1.0'?><Error>"]


def refused(folder: Path | str, key: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve(str(folder))
    assert caught.value.key == key
    assert caught.value.exit_code == 4
    return caught.value


def test_a_whole_folder_is_taken_as_it_is(model_folder: Path) -> None:
    base = resolve(str(model_folder))
    assert (base.folder, base.origin, base.revision, base.gguf) == (model_folder, "folder", None, None)
    assert base.public_id is None
    assert str(model_folder) in base.why


@pytest.mark.parametrize("written", ["{folder}", "{folder}/", "./model", "model", "../{parent}/model"])
def test_a_folder_may_be_written_in_any_way(model_folder: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.chdir(model_folder.parent)
    name = written.format(folder=model_folder, parent=model_folder.parent.name)
    assert resolve(name).folder == model_folder.resolve()


def test_a_tilde_is_the_home_folder(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    monkeypatch.setenv("USERPROFILE", str(model_folder.parent))
    assert resolve("~/model").folder == model_folder


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/model", "~/nowhere-at-all", "C:\\models\\qwen", "D:/models", ".."]
)
def test_what_looks_like_a_path_is_never_looked_for_on_a_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(name, "error.model.no_config" if name == ".." else "error.model.folder_missing")


def test_a_file_is_not_a_folder(model_folder: Path) -> None:
    refused(model_folder / "model.safetensors", "error.model.not_folder")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.fault("B6")
def test_broken_json_is_named(model_folder: Path, name: str, content: bytes) -> None:
    (model_folder / name).write_bytes(content)
    assert name in str(refused(model_folder, "error.model.bad_json").where)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.fault("B6")
def test_a_git_lfs_pointer_is_named(model_folder: Path, name: str) -> None:
    (model_folder / name).write_bytes(LFS)
    error = refused(model_folder, "error.model.lfs_pointer")
    assert name in str(error)
    assert "git lfs pull" in str(error)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.fault("B6")
def test_a_web_page_is_named(model_folder: Path, name: str, page: bytes) -> None:
    (model_folder / name).write_bytes(page)
    assert name in str(refused(model_folder, "error.model.html_file"))


CODE = [
    {"auto_map": {"AutoModel": "x.Y"}},
    {"trust_remote_code": True},
    {"text_config": {"auto_map": {"AutoModel": "x.Y"}}},
    {"_attn_implementation": "someone/kernel"},
    {"attn_implementation": "someone/kernel:forward"},
    {"experts_implementation": "someone/kernel"},
    {"sub": [{"_attn_implementation_internal": "x", "vision_attn_implementation": "someone/kernel@main"}]},
    {"use_kernels": True},
    {"kernel_config": {"RMSNorm": "someone/kernel:RMSNorm"}},
    {"transformers_weights": "../../weights.safetensors"},
]


@pytest.mark.parametrize("asking", CODE, ids=lambda asking: json.dumps(asking)[:40])
@pytest.mark.fault("B7")
def test_a_config_that_asks_to_run_code_is_refused(model_folder: Path, asking: dict[str, object]) -> None:
    config = json.loads((model_folder / "config.json").read_text()) | asking
    (model_folder / "config.json").write_text(json.dumps(config))
    error = refused(model_folder, "error.model.remote_code")
    assert not isinstance(error, IncompleteFolderError)


@pytest.mark.fault("B7")
def test_a_tokenizer_that_asks_to_run_code_is_refused(model_folder: Path) -> None:
    (model_folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.Y", null]}}')
    assert "tokenizer_config.json" in str(refused(model_folder, "error.model.remote_code"))


@pytest.mark.parametrize(
    "harmless", [{"auto_map": None}, {"trust_remote_code": False}, {"_attn_implementation": "sdpa"}]
)
def test_a_config_that_asks_for_nothing_is_accepted(model_folder: Path, harmless: dict[str, object]) -> None:
    config = json.loads((model_folder / "config.json").read_text()) | harmless
    (model_folder / "config.json").write_text(json.dumps(config))
    check_folder(model_folder)


@pytest.mark.parametrize("damage", CUTS)
@pytest.mark.fault("B6")
def test_damaged_weights_are_named(model_folder: Path, damage: str) -> None:
    (model_folder / "model.safetensors").write_bytes(CUTS[damage](tiny_weights()))
    assert "model.safetensors" in str(refused(model_folder, "error.model.damaged_weights"))


def sharded(folder: Path, weight_map: object) -> Path:
    files = tiny_files()
    files["a.safetensors"] = files.pop("model.safetensors")
    return write_files(
        folder, files | {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    )


@pytest.mark.fault("B6")
def test_every_shard_of_the_index_must_be_there(tmp_path: Path) -> None:
    check_folder(sharded(tmp_path / "whole", {"x": "a.safetensors"}))
    folder = sharded(tmp_path / "model", {"x": "a.safetensors", "y": "b.safetensors"})
    assert "b.safetensors" in str(refused(folder, "error.model.missing_file"))


@pytest.mark.parametrize("weight_map", [{}, [], "a.safetensors", None])
@pytest.mark.fault("B6")
def test_an_index_without_shards_is_broken(tmp_path: Path, weight_map: object) -> None:
    refused(sharded(tmp_path / "model", weight_map), "error.model.bad_json")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", 7])
def test_a_shard_stands_in_the_folder_itself(tmp_path: Path, shard: object) -> None:
    (tmp_path / "secret.safetensors").write_bytes(tiny_weights())
    refused(sharded(tmp_path / "model", {"x": shard}), "error.model.missing_file")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("pytorch_model.bin", "error.model.pickle_only"),
        ("model-q4.gguf", "error.model.gguf_only"),
        ("notes.md", "error.model.no_weights"),
    ],
)
@pytest.mark.fault("B5")
def test_weights_in_another_format_are_told_apart(model_folder: Path, name: str, key: str) -> None:
    (model_folder / "model.safetensors").unlink()
    (model_folder / name).write_bytes(b"x")
    refused(model_folder, key)


def test_no_config_means_no_model(model_folder: Path) -> None:
    (model_folder / "config.json").unlink()
    refused(model_folder, "error.model.no_config")


@pytest.mark.fault("B6")
def test_a_tokenizer_must_be_there(model_folder: Path) -> None:
    (model_folder / "tokenizer.json").unlink()
    refused(model_folder, "error.model.no_tokenizer")
    (model_folder / "vocab.json").write_bytes(b"{}")
    refused(model_folder, "error.model.no_tokenizer")
    (model_folder / "merges.txt").write_bytes(b"")
    check_folder(model_folder)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"), ("/home/me/model", None), ("model", None), (7, None), ("a/b/c", None)],
)
def test_a_folder_may_record_its_public_name(model_folder: Path, recorded: object, expected: str | None) -> None:
    (model_folder / "pangzhu.json").write_text(json.dumps({"public_id": recorded}))
    assert resolve(str(model_folder)).public_id == expected


def test_the_name_of_its_parent_in_config_json_is_not_taken_for_its_own(model_folder: Path) -> None:
    (model_folder / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}))
    assert resolve(str(model_folder)).public_id is None


def test_a_copied_packaged_model_still_knows_its_public_name(model_folder: Path) -> None:
    (model_folder / "pangzhu.json").write_text('{"public_id": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}')
    assert recorded_public_id(model_folder) == "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.mark.parametrize(
    ("name", "is_device"),
    [
        ("CON", True),
        ("nul.json", True),
        ("Com1.tar.gz", True),
        ("lpt9", True),
        ("aux .txt", True),
        ("com\u00b9", True),
        ("config.json", False),
        ("console.json", False),
        ("com10.json", False),
        ("nul-1.json", False),
    ],
)
def test_the_device_names_of_windows_are_known(name: str, is_device: bool) -> None:
    assert is_device_name(name) is is_device
