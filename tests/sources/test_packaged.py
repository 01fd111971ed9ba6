"""Packaged models: what pip brings is what was promised, and what was not finished is not there."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZipFile

import pytest
from tiny_folder import tiny_files, write_files

from pangzhu.errors import ModelError
from pangzhu.sources import packaged, resolve, wheels
from pangzhu.sources.cache import STAMP, read_stamp
from pangzhu.sources.packaged import PackagedModel
from pangzhu.sources.wheels import Wheel

PARTS = (b"GGUF first half, ", b"second half")
FAKE_PIP = """
import pathlib, shutil, sys
arguments = sys.argv[1:]
pathlib.Path({log!r}).write_text("\\n".join(arguments))
target = pathlib.Path(arguments[arguments.index("-d") + 1])
shutil.copy(arguments[arguments.index("-r") + 1], {log!r} + ".requirements")
for wheel in pathlib.Path({index!r}).glob("*.whl"):
    print("Collecting", wheel.name.split("-")[0] + "==1.0")
    shutil.copy(wheel, target)
print({output!r})
sys.exit({code})
"""


def make_wheel(index: Path, number: int) -> Wheel:
    path = index / f"tiny_part{number}-1.0-py3-none-any.whl"
    member = f"tiny_part{number}/data/part.bin"
    with ZipFile(path, "w") as archive:
        archive.writestr(member, PARTS[number - 1])
        archive.writestr(f"tiny_part{number}/__init__.py", "raise SystemExit('imported')")
    return Wheel(f"tiny-part{number}", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), member)


@dataclass
class World:
    """A packaged model on a fake index, a fake pip and a fake conversion that count their calls."""

    model: PackagedModel
    index: Path
    log: Path
    conversions: list[Path]
    pip: Callable[..., None]


@pytest.fixture
def world(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    index = tmp_path / "index"
    index.mkdir()
    parts = tuple(make_wheel(index, number) for number in (1, 2))
    gguf = b"".join(PARTS)
    model = PackagedModel(
        name="tiny",
        public_id="someone/tiny",
        licence="Apache-2.0",
        wheels=parts,
        gguf_bytes=len(gguf),
        gguf_sha256=hashlib.sha256(gguf).hexdigest(),
        download_bytes=sum(path.stat().st_size for path in index.glob("*.whl")),
        num_parameters=100,
        minutes=1,
    )
    conversions: list[Path] = []

    def convert(gguf: Path, folder: Path, *, tied: bool, num_parameters: int) -> None:
        conversions.append(gguf)
        write_files(folder, tiny_files())

    def pip(*, output: str = "", code: int = 0) -> None:
        script = tmp_path / "pip.py"
        script.write_text(FAKE_PIP.format(log=str(tmp_path / "log"), index=str(index), output=output, code=code))
        monkeypatch.setattr(wheels, "pip_command", lambda: [sys.executable, str(script)])

    monkeypatch.setattr(packaged, "convert_gguf", convert)
    monkeypatch.setattr(packaged, "MODELS", (model,))
    pip()
    return World(model, index, tmp_path / "log", conversions, pip)


def refused(key: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve("packaged:tiny")
    assert (caught.value.key, caught.value.exit_code) == (key, 4)
    return caught.value


def leftovers(model: PackagedModel) -> list[Path]:
    return list(model.folder.parent.glob("*.tmp-*"))


def test_a_packaged_model_is_fetched_joined_and_converted_once(world: World) -> None:
    base = resolve("packaged:tiny")
    assert (base.origin, base.public_id, base.gguf) == ("packaged", "someone/tiny", world.model.gguf)
    assert world.model.gguf.read_bytes() == b"".join(PARTS)
    assert resolve("packaged:tiny").folder == base.folder
    assert len(world.conversions) == 1
    assert leftovers(world.model) == []


def test_pip_is_asked_for_exact_versions_by_hash_and_told_to_install_nothing(world: World) -> None:
    resolve("packaged:tiny")
    arguments = world.log.read_text().splitlines()
    assert arguments[0] == "download"
    for option in ("--no-deps", "--require-hashes", "--only-binary", "--no-input", "--no-cache-dir"):
        assert option in arguments
    assert not any("index" in argument and argument.startswith("-") for argument in arguments)
    lines = Path(f"{world.log}.requirements").read_text().splitlines()
    assert lines == [f"tiny-part{n}==1.0 --hash=sha256:{world.model.wheels[n - 1].sha256}" for n in (1, 2)]


def test_the_user_hears_what_is_done(world: World, said: list[str]) -> None:
    resolve("packaged:tiny")
    assert any("2 package(s)" in sentence for sentence in said)
    assert [sentence.strip() for sentence in said if sentence.startswith("  tiny")] == ["tiny_part1", "tiny_part2"]


def test_the_stamp_names_every_file_with_its_hash(world: World) -> None:
    folder = resolve("packaged:tiny").folder
    stamp = json.loads((folder / STAMP).read_text())
    assert set(stamp["files"]) == set(tiny_files())
    for name, entry in stamp["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def remove_stamp(folder: Path) -> None:
    (folder / STAMP).unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_stamp(folder: Path) -> None:
    (folder / STAMP).write_text("{")


def age_stamp(folder: Path) -> None:
    stamp = json.loads((folder / STAMP).read_text()) | {"conversion": 0}
    (folder / STAMP).write_text(json.dumps(stamp))


@pytest.mark.parametrize("damage", [remove_stamp, cut_weights, remove_tokenizer, break_stamp, age_stamp])
def test_a_folder_that_is_not_whole_is_made_again_from_the_gguf_file(
    world: World, damage: Callable[[Path], None]
) -> None:
    folder = resolve("packaged:tiny").folder
    damage(folder)
    world.log.unlink()
    assert not world.model.is_here()
    resolve("packaged:tiny")
    assert world.model.is_here()
    assert len(world.conversions) == 2
    assert not world.log.exists(), "pip was called although the GGUF file is here"


def test_a_gguf_file_that_was_changed_is_fetched_again(world: World) -> None:
    resolve("packaged:tiny")
    world.model.gguf.write_bytes(b"x" * world.model.gguf_bytes + b"x")
    resolve("packaged:tiny")
    assert world.model.gguf.read_bytes() == b"".join(PARTS)


def test_a_conversion_that_breaks_off_leaves_nothing_that_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packaged.convert_gguf

    def broken(gguf: Path, folder: Path, *, tied: bool, num_parameters: int) -> None:
        (folder / "config.json").write_bytes(b"{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert_gguf", broken)
    with pytest.raises(KeyboardInterrupt):
        resolve("packaged:tiny")
    assert not world.model.is_here()
    assert leftovers(world.model) == []
    monkeypatch.setattr(packaged, "convert_gguf", whole)
    assert (resolve("packaged:tiny").folder / "model.safetensors").is_file()


@pytest.mark.parametrize("num_moves", range(6))
def test_a_crash_while_publishing_leaves_nothing_that_counts(
    world: World, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    """The move of each file is a crash point, and so is the stamp's."""
    moved: list[Path] = []
    move = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if "converted" in str(self) or self.name.startswith(STAMP):
            if len(moved) == num_moves:
                raise KeyboardInterrupt
            moved.append(self)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        resolve("packaged:tiny")
    assert not world.model.is_here()
    monkeypatch.setattr(Path, "replace", move)
    assert read_stamp(resolve("packaged:tiny").folder) is not None


def test_what_a_killed_process_left_is_swept_up(world: World) -> None:
    stale = world.model.folder.parent / "tiny.tmp-abc"
    write_files(stale, {"half.whl": b"x"})
    resolve("packaged:tiny")
    assert not stale.exists()


def test_two_processes_make_one_model(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: packaged.obtain(world.model), range(4)))
    assert folders == {world.model.folder}
    assert len(world.conversions) == 1


FAILURES = [
    (
        "ERROR: Could not find a version that satisfies tiny-part1==1.0\nERROR: No matching distribution",
        "error.model.pip_failed",
    ),
    ("WARNING: Retrying after connection broken\nERROR: Max retries exceeded", "error.model.pip_failed"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "error.model.wheel_hash"),
    ("/usr/bin/python: No module named pip", "error.model.no_pip"),
]


@pytest.mark.parametrize(("output", "key"), FAILURES)
def test_pips_failure_is_told_with_its_last_lines(world: World, output: str, key: str) -> None:
    world.pip(output=output, code=1)
    error = refused(key)
    assert key == "error.model.no_pip" or output.splitlines()[-1] in str(error)
    assert leftovers(world.model) == []
    world.pip()
    assert resolve("packaged:tiny").folder.is_dir()


@pytest.mark.fault("D3")
def test_a_wheel_with_other_bytes_is_refused_even_if_pip_let_it_pass(world: World) -> None:
    wheel = next(world.index.glob("*part2*"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    refused("error.model.wheel_broken")
    assert not world.model.gguf.exists()


def test_a_wheel_that_did_not_come_is_named(world: World) -> None:
    next(world.index.glob("*part2*")).unlink()
    assert "tiny_part2" in str(refused("error.model.wheel_broken"))


def test_a_wheel_without_its_member_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = replace(world.model.wheels[0], member="tiny_part1/other.bin")
    monkeypatch.setattr(packaged, "MODELS", (replace(world.model, wheels=(first, world.model.wheels[1])),))
    assert "other.bin" in str(refused("error.model.wheel_broken"))


@pytest.mark.fault("D3")
def test_a_joined_file_with_another_hash_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "MODELS", (replace(world.model, gguf_sha256="0" * 64),))
    refused("error.model.gguf_hash")
    assert not world.model.gguf.exists()
    assert world.conversions == []


def test_nothing_of_the_packages_is_imported_or_kept(world: World) -> None:
    resolve("packaged:tiny")
    assert not any(name.startswith("tiny_part") for name in sys.modules)
    assert list(world.model.folder.parent.rglob("*.whl")) == []


@pytest.mark.parametrize(
    "name", ["packaged:qwen2.5-coder-0.5b", "packaged:qwen", "packaged:smolm2-135m-instruct", "packaged:"]
)
def test_a_misspelt_name_is_answered_with_the_names_there_are(caches: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert caught.value.key == "error.model.unknown_packaged"
    assert "packaged:smollm2-135m-instruct" in str(caught.value)


def test_the_nearest_name_is_hinted(caches: Path) -> None:
    with pytest.raises(ModelError, match=r"packaged:qwen2\.5-coder-0\.5b-instruct”"):
        resolve("packaged:qwen2.5-coder-0.5b")


def test_the_promised_files_are_pinned() -> None:
    for model in packaged.MODELS:
        assert len(model.gguf_sha256) == 64
        assert all(len(wheel.sha256) == 64 and wheel.version for wheel in model.wheels)
    assert sum(len(model.wheels) for model in packaged.MODELS) == 7
