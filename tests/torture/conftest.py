"""Runs are recorded once for all tests."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest

from pangzhu.messages import listening

pytest.register_assert_rewrite("tests.torture.recordings")
from tests.torture.recordings import Recording, record_all  # noqa: E402  # once its assertions explain themselves


@pytest.fixture(scope="session")
def recordings(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Sequence[Recording]:
    """Three runs, from three states of the output folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pangzhu.machine.num_physical_cores", lambda: 1)
        return tuple(record_all(model_folder("qwen2"), tmp_path_factory.mktemp("recorded")))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The folder in which output folders are made, not there yet; in memory where the system has such a place: hundreds of
    them come and go."""
    memory = Path("/dev/shm")
    folder = mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path, prefix="pangzhu-")
    yield Path(folder) / "home"
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[str]]:
    """Every sentence said while the test runs; hundreds of runs are not to be read."""
    sentences: list[str] = []
    with listening(sentences.append):
        yield sentences
