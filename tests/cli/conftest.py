"""What every test of the command line needs: language and form of output put back, and a way to run a command."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pangzhu import cli, messages
from pangzhu.cli import console


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """The one JSON object on standard output."""
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    monkeypatch.delenv("COLUMNS", raising=False)  # output to a file has a width of its own
    before = messages.language()
    yield
    messages.set_language(before)
    console.want_json(False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run_command(*words: str) -> Outcome:
        exit_code = cli.main(words)
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run_command
