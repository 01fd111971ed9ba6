"""Streams that cannot write every character, and what colour and width become outside a terminal."""

import io
import json

import pytest
from rich.table import Table

from pangzhu import messages
from pangzhu.cli import console


def stream(encoding: str, *, terminal: bool = False, errors: str = "strict") -> io.TextIOWrapper:
    made = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="")
    made.isatty = lambda: terminal  # type: ignore[method-assign]
    return made


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


def test_a_file_on_windows_becomes_utf8() -> None:
    file = stream("cp1252")
    console.make_tolerant(file, platform="win32")
    assert (file.encoding, file.errors) == ("utf-8", "replace")


@pytest.mark.parametrize(("terminal", "platform"), [(True, "win32"), (False, "linux"), (True, "linux")])
def test_a_legacy_stream_elsewhere_keeps_its_encoding_and_survives(terminal: bool, platform: str) -> None:
    legacy = stream("cp1252", terminal=terminal)
    console.make_tolerant(legacy, platform=platform)
    assert legacy.encoding == "cp1252"
    legacy.write("旁注")


def test_an_encoding_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "gbk")
    chosen = stream("gbk")
    console.make_tolerant(chosen, platform="win32")
    assert chosen.encoding == "gbk"


def test_lone_surrogates_in_arguments_do_not_break_utf8() -> None:
    file = stream("utf-8")
    console.make_tolerant(file, platform="linux")
    file.write("\udce4")


def test_the_tolerance_of_standard_error_stays() -> None:
    file = stream("utf-8", errors="backslashreplace")
    console.make_tolerant(file, platform="linux")
    assert file.errors == "backslashreplace"


def test_json_survives_a_legacy_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    legacy = stream("cp1252")
    monkeypatch.setattr("sys.stdout", legacy)
    console.print_json({"text": "旁注"})
    legacy.flush()
    assert json.loads(legacy.buffer.getvalue()) == {"text": "旁注"}  # type: ignore[attr-defined]


def test_a_table_in_a_file_has_no_colour_and_room_for_paths(capsys: pytest.CaptureFixture[str]) -> None:
    class Tabled:
        def as_json(self) -> dict[str, object]:
            return {}

        def render(self) -> Table:
            table = Table("名称", style="red")
            table.add_row("路" * 50)
            return table

    assert console.print_result(Tabled()) == 0
    printed = capsys.readouterr().out
    assert "路" * 50 in printed
    assert "\x1b" not in printed


def test_main_speaks_through_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    with messages.listening(console.say_line):
        messages.say("error.where", where="x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("x\n")
