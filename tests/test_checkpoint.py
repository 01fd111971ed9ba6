"""The run folder: who holds it, which run lives there, and which checkpoint can be trusted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pangzhu.checkpoint import (
    RunRecord,
    intact_at,
    locked,
    newest_valid,
    open_run,
    prune,
    read_record,
    require_room,
    seal_checkpoint,
    set_aside,
    write_record,
)
from pangzhu.errors import LockedError, ResourceError, UsageError

HERE = {"r": "8", "data": "aaaa"}


def make_checkpoint(run_dir: Path, step: int, *, sealed: bool = True) -> Path:
    folder = run_dir / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).write_bytes(f"{name} of step {step}, long enough to be cut in many ways".encode())
    if sealed:
        seal_checkpoint(folder)
    return folder


# --- the lock ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("A7")
def test_the_second_run_on_a_folder_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError) as refused, locked(tmp_path):
        pass
    assert refused.value.exit_code == 7
    assert str(os.getpid()) in refused.value.what


def test_a_lock_that_cannot_be_taken_is_a_fault_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(ResourceError) as refused, locked(tmp_path):
        pass
    assert refused.value.key == "error.run.not_writable"
    assert refused.value.where == str(tmp_path)


@pytest.mark.fault("A7")
def test_another_process_meets_the_lock_too(tmp_path: Path) -> None:
    script = "import sys\nfrom pathlib import Path\nfrom pangzhu.checkpoint import locked\nwith locked(Path(sys.argv[1])): pass"
    with locked(tmp_path):
        outcome = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert outcome.returncode == 1
    assert "LockedError" in outcome.stderr


@pytest.mark.fault("A7")
def test_a_lock_that_its_owner_left_behind_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    (tmp_path / "run" / "holder").write_text("99999999", encoding="utf-8")
    with locked(tmp_path) as run_dir:
        assert (run_dir / "holder").read_text(encoding="utf-8") == str(os.getpid())


@pytest.mark.fault("A7")
def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_a_lock_without_a_named_holder_still_refuses(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / "lock"), pytest.raises(LockedError), locked(tmp_path):
        pass


def test_an_output_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ResourceError) as refused, locked(tmp_path / "out"):
        pass
    assert refused.value.exit_code == 5


# --- which run lives here ------------------------------------------------------------------------------------------


def put_run(output_dir: Path, *, state: str, adapter: bool = False) -> None:
    run_dir = output_dir / "run"
    make_checkpoint(run_dir, 4)
    write_record(run_dir, RunRecord(HERE, state=state, decisions={"num_threads": 3}))  # type: ignore[arg-type]
    (run_dir / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    if adapter:
        for name in ("adapter_model.safetensors", "adapter_config.json", "prompt.json", "manifest.json", "README.md"):
            (output_dir / name).write_text("old", encoding="utf-8")
        manifest = {
            "base": {
                "name": "b", "public_id": None, "revision": None,
                "fingerprint": {"config": "c", "tensors": "t", "tokenizer": "k"},
            },
            "data_sha256": "", "template_sha256": "", "versions": {}, "metrics": {},
            "files": dict.fromkeys(("adapter_model.safetensors", "adapter_config.json", "prompt.json", "README.md"), "h"),
        }  # fmt: skip
        (output_dir / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_an_empty_folder_starts_a_run(tmp_path: Path) -> None:
    record = open_run(tmp_path, HERE)
    assert (record.identity, record.state, record.decisions) == (HERE, "running", {})


@pytest.mark.parametrize("state", ["running", "finished"])
def test_the_same_run_is_found_again_with_its_decisions(state: str, tmp_path: Path) -> None:
    put_run(tmp_path, state=state)
    record = open_run(tmp_path, HERE)
    assert (record.state, record.decisions) == (state, {"num_threads": 3})


def test_a_finished_run_with_other_settings_moves_aside_whole(tmp_path: Path, said: list[str]) -> None:
    put_run(tmp_path, state="finished", adapter=True)
    with locked(tmp_path):
        record = open_run(tmp_path, HERE | {"r": "16"})
    old = tmp_path / "run" / "previous-1"
    assert record.state == "running"
    assert (old / "run" / "checkpoints" / "checkpoint-4" / "optimizer.pt").exists()
    assert (old / "run" / "record.json").exists()
    assert (old / "adapter_model.safetensors").read_text(encoding="utf-8") == "old"
    assert (old / "README.md").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]
    assert str(old) in said[0]


def test_moving_aside_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """`--output_dir .` must not sweep a working folder away."""
    put_run(tmp_path, state="finished", adapter=True)
    (tmp_path / "data.jsonl").write_text("mine", encoding="utf-8")
    (tmp_path / "src").mkdir()
    open_run(tmp_path, HERE | {"r": "16"})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data.jsonl", "run", "src"]


def test_a_file_that_a_manifest_names_outside_its_folder_is_not_touched(tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    put_run(output_dir, state="finished", adapter=True)
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    manifest = json.loads((output_dir / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../precious"] = "h"
    (output_dir / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    set_aside(output_dir)
    assert (tmp_path / "precious").exists()


def test_every_earlier_run_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put_run(tmp_path, state="finished", adapter=True)
        assert set_aside(tmp_path).name == f"previous-{number}"
    assert all((tmp_path / "run" / f"previous-{number}" / "run" / "record.json").exists() for number in (1, 2, 3))


@pytest.mark.fault("A8")
def test_an_unfinished_run_with_other_settings_is_refused_with_the_differences(tmp_path: Path) -> None:
    put_run(tmp_path, state="running")
    with pytest.raises(UsageError) as refused:
        open_run(tmp_path, {"r": "16", "data": "aaaa", "seed": "1"})
    assert refused.value.exit_code == 2
    assert "r: 8 → 16" in refused.value.what
    assert "seed: - → 1" in refused.value.what
    assert "data" not in str(refused.value.values["differences"])
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-4").exists()


@pytest.mark.parametrize("state", ["running", "finished"])
@pytest.mark.parametrize("wanted", [HERE, HERE | {"r": "16"}])
def test_resume_never_moves_any_run_aside(state: str, wanted: dict[str, str], tmp_path: Path) -> None:
    put_run(tmp_path, state=state)
    assert open_run(tmp_path, wanted, resume=False) == RunRecord(wanted)
    assert (tmp_path / "run" / "previous-1" / "run" / "checkpoints").exists()
    assert newest_valid(tmp_path / "run") is None


@pytest.mark.fault("A8")
def test_checkpoints_without_a_record_are_never_gone_on_from(tmp_path: Path) -> None:
    """Nothing tells with which settings they were made."""
    make_checkpoint(tmp_path / "run", 4)
    assert open_run(tmp_path, HERE).decisions == {}
    assert newest_valid(tmp_path / "run") is None
    assert (tmp_path / "run" / "previous-1" / "run" / "checkpoints" / "checkpoint-4").exists()


def test_an_adapter_that_came_from_elsewhere_is_moved_aside_not_overwritten(tmp_path: Path) -> None:
    put_run(tmp_path, state="finished", adapter=True)
    (tmp_path / "run" / "record.json").unlink()
    open_run(tmp_path, HERE)
    assert (tmp_path / "run" / "previous-1" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": 1, "unknown": 2}', "3"])
def test_a_damaged_record_is_an_error_and_no_traceback(content: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResourceError) as refused:
        read_record(tmp_path)
    assert refused.value.exit_code == 5


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = RunRecord(HERE, "finished", {"num_threads": 2}, {"num_steps": 4})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


# --- which checkpoint can be trusted -------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: _rewrite(folder, lambda content: bytes([content[0] ^ 1]) + content[1:]),
    "cut to nothing": lambda folder: _rewrite(folder, lambda content: b""),
    "cut at 4": lambda folder: _rewrite(folder, lambda content: content[:4]),
    "cut at 8": lambda folder: _rewrite(folder, lambda content: content[:8]),
    "cut at 20": lambda folder: _rewrite(folder, lambda content: content[:20]),
    "half": lambda folder: _rewrite(folder, lambda content: content[: len(content) // 2]),
    "all but one byte": lambda folder: _rewrite(folder, lambda content: content[:-1]),
    "trailing bytes": lambda folder: _rewrite(folder, lambda content: content + b"\0"),
    "missing": lambda folder: (folder / "optimizer.pt").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut": lambda folder: (folder / "manifest.json").write_text('{"optimizer.pt":', encoding="utf-8"),
    "manifest empty": lambda folder: (folder / "manifest.json").write_text("{}", encoding="utf-8"),
    "manifest a list": lambda folder: (folder / "manifest.json").write_text("[]", encoding="utf-8"),
}


def _rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "optimizer.pt"
    file.write_bytes(change(file.read_bytes()))


@pytest.mark.fault("B1")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(damage: str, tmp_path: Path, said: list[str]) -> None:
    older, newest = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    DAMAGE[damage](newest)
    assert newest_valid(tmp_path) == older
    assert not newest.exists()
    assert (newest.parent / ".damaged-checkpoint-10").exists()
    assert ".damaged-checkpoint-10" in said[0]
    assert newest_valid(tmp_path) == older


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_every_file_of_a_checkpoint_counts(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 3)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    assert newest_valid(tmp_path) is None


@pytest.mark.fault("A10")
def test_the_newest_is_the_one_of_the_largest_step_whatever_the_clock_said(tmp_path: Path) -> None:
    newest = make_checkpoint(tmp_path, 100)
    older = make_checkpoint(tmp_path, 20)
    os.utime(newest, (1, 1))
    os.utime(older, (2_000_000_000, 2_000_000_000))
    assert newest_valid(tmp_path) == newest


def test_no_checkpoint_at_all_is_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None


def test_a_folder_with_a_strange_name_is_passed_over(tmp_path: Path) -> None:
    valid = make_checkpoint(tmp_path, 3)
    (tmp_path / "checkpoints" / "checkpoint-copy").mkdir()
    assert newest_valid(tmp_path) == valid


def test_an_earlier_damaged_one_is_not_deleted(tmp_path: Path) -> None:
    for _ in range(2):
        make_checkpoint(tmp_path, 10, sealed=False)
        assert newest_valid(tmp_path) is None
    assert len(list((tmp_path / "checkpoints").glob(".damaged-*"))) == 2


def test_pruning_keeps_the_newest_two_and_never_an_unsealed_one_in_their_place(tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path, step) for step in (1, 2, 3, 10)]
    unsealed = make_checkpoint(tmp_path, 11, sealed=False)
    prune(tmp_path)
    assert [folder.exists() for folder in (*folders, unsealed)] == [False, False, True, True, True]


def name_best(folder: Path, step: int | None) -> None:
    best = None if step is None else {"step": step, "loss": 1.0}
    (folder / "validation.json").write_text(json.dumps({"best": best}), encoding="utf-8")


def test_pruning_keeps_what_each_checkpoint_that_is_kept_names_as_the_best(tmp_path: Path) -> None:
    """Whichever of them a run goes on from, its best is there; an older best is not."""
    folders = {step: make_checkpoint(tmp_path, step) for step in (1, 2, 3, 8, 10)}
    for step, best in ((1, 1), (2, 1), (3, 3), (8, 2), (10, 3)):
        name_best(folders[step], best)
    prune(tmp_path)
    assert {step: folder.exists() for step, folder in folders.items()} == {
        1: False, 2: True, 3: True, 8: True, 10: True
    }  # fmt: skip


@pytest.mark.parametrize("content", ["{", "[]", '{"best": null}', '{"best": {"step": "x"}}', '{"best": {"step": 77}}'])
def test_a_checkpoint_that_names_no_best_keeps_none(content: str, tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path, step) for step in (1, 2, 3)]
    (folders[-1] / "validation.json").write_text(content, encoding="utf-8")
    prune(tmp_path)
    assert [folder.exists() for folder in folders] == [False, True, True]


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_an_intact_checkpoint_of_a_step_is_given(damage: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 5)
    assert intact_at(tmp_path, 5) == folder
    assert intact_at(tmp_path, 6) is None
    DAMAGE[damage](folder)
    assert intact_at(tmp_path, 5) is None


def test_pruning_removes_the_empty_folder_that_a_crash_left_of_a_deleted_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    newest = make_checkpoint(tmp_path, 3)
    prune(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == [newest]


def test_checkpoints_that_are_there_count_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run replaces them."""
    taken = sum(file.stat().st_size for file in make_checkpoint(tmp_path, 3).iterdir())
    monkeypatch.setattr("pangzhu.storage.free_space", lambda _: 1000)
    require_room(tmp_path, 1000 + taken)
    with pytest.raises(ResourceError) as refused:
        require_room(tmp_path, 1001 + taken)
    assert (refused.value.key, refused.value.exit_code) == ("error.run.no_space", 5)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"target": "../x", "adapter": [], "run": []}',
                                     '{"target": "previous-1", "adapter": ["../precious"], "run": []}'])  # fmt: skip
def test_a_list_of_what_moves_that_is_damaged_or_names_what_is_elsewhere_is_refused(
    content: str, tmp_path: Path
) -> None:
    output_dir = tmp_path / "out"
    (output_dir / "run").mkdir(parents=True)
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (output_dir / "run" / "moving.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResourceError) as refused:
        open_run(output_dir, HERE)
    assert refused.value.where == str(output_dir / "run" / "moving.json")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_a_checkpoint_sealed_twice_is_intact(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 3)
    (folder / "optimizer.pt").write_bytes(b"written again")
    seal_checkpoint(folder)
    assert newest_valid(tmp_path) == folder
