"""Two small trained adapters on one base: `pytest_plugins = ["tests.use_fixtures"]` brings them to a test file.

Both have learned the same questions; one answers in English, the other in Chinese with an emoji, and the random base
answers neither. Trained once a session, in about two seconds.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pangzhu import cli
from pangzhu.cli import console
from pangzhu.engines.transformers import TransformersEngine
from tests.use_helpers import CHINESE, ENGLISH, Outcome, Trained, train_tiny


@pytest.fixture(scope="session")
def trained(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The base and both adapters on disk."""
    folder, base = tmp_path_factory.mktemp("adapters"), model_folder("qwen2")
    english = train_tiny(base, folder / "english", ENGLISH)
    return Trained(base, english, train_tiny(base, folder / "chinese", CHINESE))


@pytest.fixture(scope="session")
def engine(trained: Trained) -> TransformersEngine:
    """The base and both adapters in memory, as `english` and `chinese`."""
    return trained.engine(str(trained.english), str(trained.chinese))


@pytest.fixture(scope="session")
def plain(trained: Trained) -> TransformersEngine:
    """The base in memory, with no adapter beside it."""
    return trained.engine()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    """Run `pangzhu` in this process, in English; leaves the streams' state as it was."""
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*words: str) -> Outcome:
        exit_code = cli.main(words)
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    yield run
    console.want_json(False)
