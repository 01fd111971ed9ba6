"""A folder holds one export: nothing of an earlier one, nothing of somebody else's, written by one process at a time."""

import json
import shutil
from pathlib import Path

import pytest

from pangzhu.errors import LockedError, UsageError
from pangzhu.export.staging import MANIFEST, PUBLISHING, UNPROVEN, alone, begin, publish
from pangzhu.sources.folder import INDEX, weight_files
from tests.export.conftest import Adapt, Adapted


def export_of(folder: Path, *files: str, made_of: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """An export with these files, published."""
    staged = begin(folder, "merged", num_bytes=1, made_of=made_of)
    for name in files:
        (staged / name).write_text(name, encoding="utf-8")
    return publish(folder, "merged", {})


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_nothing_of_an_earlier_export_stays_beside_the_new_one(tmp_path: Path) -> None:
    """An earlier index would have readers load the earlier shards, an earlier parity.json would vouch for another's figures."""
    folder = tmp_path / "model"
    export_of(folder, INDEX, "model-00001-of-00001.safetensors", "parity.json", "config.json")
    assert export_of(folder, "model.safetensors", "config.json") == ("config.json", "model.safetensors")
    assert names_in(folder) == {"config.json", "model.safetensors", MANIFEST}
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]


def test_what_its_owner_put_beside_an_export_stays(tmp_path: Path) -> None:
    export_of(tmp_path, "model.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    export_of(tmp_path, "other.safetensors")
    assert names_in(tmp_path) == {"other.safetensors", "notes.txt", MANIFEST}


def test_a_publication_that_was_broken_off_leaves_nothing_of_the_earlier_export_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    export_of(folder, "old.gguf")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pangzhu.storage.move", killed)
        with pytest.raises(KeyboardInterrupt):
            export_of(folder, "new.gguf")
    assert names_in(folder) == {"old.gguf", PUBLISHING, UNPROVEN}
    export_of(folder, "new.gguf")
    assert names_in(folder) == {"new.gguf", MANIFEST}


@pytest.mark.parametrize("name", ["../mine.txt", "folder/mine.txt", ".", "", "\x00"])
def test_a_manifest_that_somebody_wrote_removes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    for mine in (tmp_path / "mine.txt", folder / "folder" / "mine.txt"):
        mine.write_text("mine")
    (folder / MANIFEST).write_text(json.dumps({"kind": "merged", "files": {name: ""}}))
    export_of(folder, "model.safetensors")
    assert (tmp_path / "mine.txt").exists()
    assert (folder / "folder" / "mine.txt").exists()


@pytest.mark.parametrize("place", [".", UNPROVEN, f"{UNPROVEN}/base.gguf"])
def test_what_an_export_is_made_of_is_not_replaced_by_it(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    export_of(folder, "model.safetensors")
    source = folder / place
    source.parent.mkdir(exist_ok=True)
    if place.endswith(".gguf"):
        source.write_text("base")
    with pytest.raises(UsageError) as caught:
        export_of(folder, "other.safetensors", made_of=(source,))
    assert caught.value.key == "error.export.folder_taken"
    assert (folder / "model.safetensors").exists()


def test_a_merged_base_is_not_merged_into_its_own_place(adapted: Adapt, tmp_path: Path) -> None:
    from pangzhu.export.merge import merge

    made = adapted()
    base = Path(shutil.copytree(made.base, tmp_path / "merged-once"))
    (base / MANIFEST).write_text(json.dumps({"kind": "merged", "files": {}}))
    before = (base / "model.safetensors").read_bytes()
    with pytest.raises(UsageError):
        merge(Adapted(base, made.adapter).config(base, model_name_or_path=str(base), verify=False))
    assert (base / "model.safetensors").read_bytes() == before


def test_what_a_link_in_the_place_of_the_unproven_leads_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("mine")
    (tmp_path / "model").mkdir()
    try:
        (tmp_path / "model" / UNPROVEN).symlink_to(tmp_path / "mine", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(UsageError):
        export_of(tmp_path / "model", "model.safetensors")
    assert (tmp_path / "mine" / "thesis.docx").exists()


def test_a_second_process_on_one_folder_is_refused_and_told_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 4321)
    with alone(tmp_path / "model"), alone(tmp_path / "other"):
        with pytest.raises(LockedError) as caught, alone(tmp_path / "other" / ".." / "model"):
            pass
        assert (caught.value.exit_code, caught.value.values["holder"]) == (7, "4321")
    with alone(tmp_path / "model"):
        assert len(list((tmp_path / "cache" / "locks").glob("*.pid"))) == 1
