"""A crash, or a full disk, at every operation of an export: nothing passes for whole that is not, and the same command then
ends with the same files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pangzhu import storage
from pangzhu.adapter import MANIFEST, file_hashes
from pangzhu.config import ChatConfig
from pangzhu.engines.named_models import choose_models
from pangzhu.errors import ResourceError
from pangzhu.export.gguf import export
from pangzhu.export.kept import FILE, KeptGguf
from pangzhu.export.merge import merge
from pangzhu.export.options import ExportConfig, MergeConfig
from pangzhu.sources.cache import STAMP
from pangzhu.storage import DiskError, sha256_of
from tests.torture.disks import Crash, Fault, FaultyDisk, Operation, Tree, disk_full, read_tree, write_tree
from tests.torture.recordings import OUT, Recording
from tests.torture.states import WAITING

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]

NUM_IN_SUITE = 12  # crash points of each export; `make torture` goes through all
KEPT = "kept for chat"
Make = Callable[[Path, Path, Path], None]  # home, base, adapter


def _merged(home: Path, base: Path, adapter: Path) -> None:
    merge(MergeConfig(model_name_or_path=str(base), adapter=(f"a={adapter}",), output_dir=home / OUT, verify=False))


def _gguf(content: str) -> Make:
    def make(home: Path, base: Path, adapter: Path) -> None:
        given = {"format": "gguf", "content": content, "output_dir": home / OUT, "verify": False}
        export(ExportConfig.model_validate({"model_name_or_path": str(base), "adapter": f"a={adapter}", **given}))

    return make


def _kept(home: Path, base: Path, adapter: Path) -> None:
    models = choose_models(ChatConfig(model_name_or_path=str(base)), (f"a={adapter}",))
    KeptGguf().base(models.base)
    KeptGguf().adapter(models.adapters[0], models.base)


EXPORTS: dict[str, Make] = {"merge": _merged, "gguf": _gguf("merged"), "lora": _gguf("lora"), KEPT: _kept}


@dataclass(frozen=True)
class Exported:
    """An export that was not broken.

    Args:
        name: of what is exported.
        make: makes it below a folder.
        start: what was below it before: the same export of an earlier time; nothing where the cache would keep that.
        log: what happened to the disk, as far as it is our own doing.
        end: the files in the end.
    """

    name: str
    make: Callable[[Path], None]
    start: Tree
    log: Sequence[Operation]
    end: Tree

    @property
    def crash_points(self) -> list[tuple[int, bool]]:
        """Before which operation the process ends, and whether half of what that writes is written."""
        found = [(number, False) for number, operation in enumerate(self.log) if operation.kind not in WAITING]
        halves = [(number, True) for number, operation in enumerate(self.log) if len(operation.data) > 1]
        return [*found, *halves]

    def begun(self, home: Path) -> None:
        """The disk as it was before."""
        storage.remove_tree(home)
        write_tree(self.start, home)

    def struck(self, home: Path, fault: Fault) -> BaseException | None:
        """Make it on a disk with this fault; gives what came of that."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(storage, "DISK", FaultyDisk(home, fault))
            try:
                self.make(home)
            except (Crash, DiskError, ResourceError) as ended:
                return ended
        return None


@pytest.fixture(params=EXPORTS)
def exported(
    request: pytest.FixtureRequest, recordings: Sequence[Recording], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Exported:
    """The export of a recorded run's adapter."""
    monkeypatch.setenv("PANGZHU_CACHE", str(home / "cache"))
    first = recordings[0]
    adapter = write_tree(first.end, home.with_name("trained")) / OUT
    base = first.lesson.base

    def make(folder: Path) -> None:
        EXPORTS[request.param](folder, base, adapter)

    home.mkdir()
    if request.param != KEPT:
        make(home)
    start = without_locks(read_tree(home))
    log: list[Operation] = []

    def only_watched(_: int, operation: Operation) -> bool:
        log.append(operation)
        return False

    watched = Exported(request.param, make, start, log, {})
    assert watched.struck(home, Fault(only_watched)) is None
    return Exported(request.param, make, start, tuple(log), without_locks(read_tree(home)))


def without_locks(tree: Tree) -> Tree:
    return {path: content for path, content in tree.items() if not path.startswith("cache/locks")}


def is_sound(home: Path) -> bool:
    """What passes for whole is whole: the files are those that the manifest, or the cache's stamp, names."""
    manifest = home / OUT / MANIFEST
    if manifest.exists():
        promised = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return bool(promised.items() <= file_hashes(home / OUT).items())
    stamps = (json.loads(stamp.read_text(encoding="utf-8")) for stamp in home.glob(f"cache/gguf/*/{STAMP}"))
    hashes = {sha256_of(file) for file in home.glob(f"cache/gguf/*/{FILE}")}
    return all(file["sha256"] in hashes for stamp in stamps for file in stamp["files"].values())


@pytest.mark.fault("A1")
def test_a1_a_crash_at_every_operation_of_an_export_harms_nothing_and_the_same_command_ends_the_same(
    exported: Exported, home: Path, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    points = exported.crash_points
    every = 1 if pytestconfig.getoption("--torture") else max(1, len(points) // NUM_IN_SUITE)
    for number, half in points[::every]:
        exported.begun(home)
        ended = exported.struck(home, Fault(lambda at, _, number=number: at == number, half=half))
        assert isinstance(ended, Crash)
        assert is_sound(home), (number, half)
        exported.make(home)
        assert without_locks(read_tree(home)) == exported.end, (number, half)
    record_property(f"crash points of an export, {exported.name}", len(points[::every]))


@pytest.mark.fault("A5")
def test_a5_a_disk_that_is_full_at_any_write_of_an_export_is_told_and_nothing_unfinished_passes_for_whole(
    exported: Exported, home: Path, pytestconfig: pytest.Config
) -> None:
    taking = [
        number for number, operation in enumerate(exported.log) if operation.kind in ("create", "write", "make_folder")
    ]
    every = 1 if pytestconfig.getoption("--torture") else max(1, len(taking) // NUM_IN_SUITE)
    for number in taking[::every]:
        exported.begun(home)
        ended = exported.struck(home, Fault(lambda at, _, number=number: at == number, disk_full()))
        assert isinstance(ended, DiskError | ResourceError)
        assert ended.exit_code == 5
        assert ended.fix
        assert is_sound(home), number
        exported.make(home)
        assert without_locks(read_tree(home)) == exported.end, number
