"""The dispatcher: which verb runs, what comes out on which stream, and every way a command can end."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu import __version__, cli
from pangzhu.cli.options import Verb, verb
from pangzhu.config import Options
from pangzhu.data.conversation import Location
from pangzhu.data.findings import BadRowsError, Finding
from pangzhu.errors import DataError, DivergedError, InterruptedRunError, LockedError, PangzhuError, UsageError
from pangzhu.messages import say

HEAVY = ("torch", "transformers", "peft", "accelerate")


class Counted:
    """A result with every part a result may have."""

    exit_code = 8

    def as_json(self) -> dict[str, object]:
        return {"num_rows": 3, "loss": float("nan"), "path": Path("a/b"), "pair": (1, float("inf"))}

    def render(self) -> str:
        return "three [rows]"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], object]], None]:
    """Put a function in the place of the verb `models`."""

    def replace(function: Callable[[Options], object]) -> None:
        stand_in: Verb[Options] = verb(Options)(function)  # type: ignore[arg-type]
        monkeypatch.setattr("pangzhu.cli.models.models", stand_in)

    return replace


def raising(error: BaseException) -> Callable[[Options], object]:
    def function(_config: Options) -> object:
        raise error

    return function


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    source = str(Path(cli.__file__).parents[2])
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env={"PYTHONPATH": source, "PATH": "", "PYTHONIOENCODING": "utf-8", **environment},
    )


# --- overview, version, verbs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_the_verbs(run, words: list[str]) -> None:
    outcome = run(*words)
    assert outcome.exit_code == 0
    listed = {line.split()[0] for line in outcome.out.splitlines() if line.startswith("  ")}
    assert set(cli.VERBS) <= listed


def test_every_verb_stands_in_one_panel() -> None:
    shown = [name for verbs in cli.PANELS.values() for name in verbs]
    assert sorted(shown) == sorted(cli.VERBS)


def test_version(run) -> None:
    assert run("--version").out == f"pangzhu {__version__}\n"
    assert run("--version", "--json").json == {"ok": True, "version": __version__}


@pytest.mark.parametrize("name", cli.VERBS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_verb_has_help(run, name: str, language: str) -> None:
    outcome = run("--lang", language, name, "--help")
    assert outcome.exit_code == 0
    assert outcome.err == ""
    assert outcome.out.startswith(f"用法：pangzhu {name}" if language == "zh" else f"Usage: pangzhu {name}")


@pytest.mark.parametrize("name", cli.VERBS)
def test_chinese_help_has_no_english_words_of_typer(run, name: str) -> None:
    page = run(name, "--help", "--lang", "zh").out
    for word in ("Usage", "Options", "Arguments", "Show this message", "default:", "required", "TEXT", "…"):
        assert word not in page


def test_a_misspelt_verb_names_the_nearest(run) -> None:
    outcome = run("trian")
    assert outcome.exit_code == 2
    assert "“train”" in outcome.err
    assert outcome.out == ""


def test_an_option_in_the_place_of_the_verb(run) -> None:
    outcome = run("--max_steps", "3")
    assert outcome.exit_code == 2
    assert "--max_steps" in outcome.err


# --- language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--lang", "zh", "trian"], ["trian", "--lang=ZH"], ["--json", "--lang", "zh", "x"]])
def test_language_may_stand_anywhere(run, words: list[str]) -> None:
    assert "没有" in run(*words).err


def test_language_comes_from_the_locale(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "没有" in run("trian").err


@pytest.mark.parametrize("words", [["--lang", "fr"], ["--lang"], ["train", "--lang="]])
def test_a_language_that_is_not_there_is_a_usage_error(run, words: list[str]) -> None:
    outcome = run(*words)
    assert outcome.exit_code == 2
    assert "zh" in outcome.err


# --- results -----------------------------------------------------------------------------------------------------


def test_a_result_is_printed_as_it_is_and_gives_the_exit_code(run, install) -> None:
    install(lambda _config: Counted())
    outcome = run("models")
    assert (outcome.exit_code, outcome.out, outcome.err) == (8, "three [rows]\n", "")


@pytest.mark.parametrize("words", [["--json", "models"], ["models", "--json"]])
def test_json_is_one_object_without_nan(run, install, words: list[str]) -> None:
    install(lambda _config: Counted())
    outcome = run(*words)
    assert outcome.json == {"ok": False, "num_rows": 3, "loss": None, "path": str(Path("a/b")), "pair": [1, None]}


def test_no_result_is_success(run, install) -> None:
    install(lambda _config: None)
    assert run("models").out == ""
    assert run("models", "--json").json == {"ok": True}


def test_what_a_library_prints_does_not_spoil_the_json(run, install) -> None:
    install(lambda _config: print("chatter"))
    outcome = run("models", "--json")
    assert (outcome.json, outcome.err) == ({"ok": True}, "chatter\n")
    assert run("models").out == "chatter\n"


def test_messages_go_to_standard_error_as_they_are(run, install) -> None:
    def speak(_config: Options) -> None:
        say("error.where", where="[bold]" + "长" * 200 + ":smile:")

    install(speak)
    outcome = run("models", "--json")
    assert outcome.json == {"ok": True}
    assert outcome.err == "  Where: [bold]" + "长" * 200 + ":smile:\n"


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UsageError("error.config.not_mapping"), 2),
        (DataError("error.config.not_mapping"), 3),
        (DivergedError("error.config.not_mapping"), 6),
        (LockedError("error.config.not_mapping"), 7),
        (InterruptedRunError("error.config.not_mapping", signal_number=15), 143),
        (MemoryError(), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 5),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 5),
    ],
)
def test_an_error_gives_its_exit_code_and_no_traceback(run, install, error: Exception, exit_code: int) -> None:
    install(raising(error))
    outcome = run("models")
    assert outcome.exit_code == exit_code
    assert outcome.out == ""
    assert "Error: " in outcome.err
    assert "Fix: " in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EROFS", "EEXIST", "ENOTDIR", "EISDIR", "EDQUOT"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_disk_refuses_is_no_bug_and_names_the_path(run, install, number: str, language: str) -> None:
    install(raising(OSError(getattr(errno, number), "refused", "/x/y")))
    outcome = run("models", "--lang", language)
    assert outcome.exit_code == 5
    assert "/x/y" in outcome.err


def test_a_file_where_a_folder_is_needed_is_no_bug(run, install, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    install(lambda _config: (tmp_path / "file" / "folder").mkdir())
    assert run("models").exit_code == 5


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "a socket"), OSError(errno.EINVAL, "odd", "/x/y"), OSError()])
def test_an_error_of_the_system_that_is_not_the_disks_stays_a_bug(run, install, error: OSError) -> None:
    install(raising(error))
    assert run("models").exit_code == 1


def test_an_error_as_json(run, install) -> None:
    install(raising(DataError("error.config.unreadable", where="a.yaml", reason="gone")))
    fault = run("models", "--json").json
    assert fault["ok"] is False
    error = fault["error"]
    assert isinstance(error, dict)
    assert set(error) == {"key", "what", "where", "fix", "exit_code"}
    assert (error["key"], error["where"], error["exit_code"]) == ("error.config.unreadable", "a.yaml", 3)


def test_findings_stand_in_the_json_of_an_error(run, install) -> None:
    finding = Finding("error.config.not_mapping", Location(Path("a.jsonl"), 4, 2), "output")
    install(raising(BadRowsError((finding,), num_rows=9)))
    listed = run("models", "--json").json["findings"]
    assert isinstance(listed, list)
    assert {key: listed[0][key] for key in ("file", "line", "row", "field")} == {
        "file": "a.jsonl",
        "line": 4,
        "row": 2,
        "field": "output",
    }


def test_a_bug_is_one_sentence_and_the_way_to_its_traceback(run, install) -> None:
    install(raising(ZeroDivisionError("seven by nought")))
    outcome = run("models")
    assert outcome.exit_code == 1
    assert "ZeroDivisionError: seven by nought" in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), UsageError("error.config.not_mapping")])
def test_debug_shows_the_traceback(run, install, error: Exception) -> None:
    install(raising(error))
    assert "Traceback" in run("models", "--debug").err


def test_an_error_without_a_sentence_is_a_bug_not_a_crash(run, install) -> None:
    install(raising(PangzhuError("error.no.such.key")))
    outcome = run("models")
    assert outcome.exit_code == 1
    assert "error.no.such.key" in outcome.err


def test_ctrl_c_is_one_line(run, install) -> None:
    install(raising(KeyboardInterrupt()))
    outcome = run("models")
    assert outcome.exit_code == 130
    assert outcome.err.count("\n") == 1
    assert run("models", "--json").json["ok"] is False


# --- the process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"]])
def test_overview_loads_neither_torch_nor_pydantic(words: list[str]) -> None:
    check = f"import sys; from pangzhu.cli import main; main({words}); print(*sys.modules, file=sys.stderr)"
    loaded = set(command("-c", check).stderr.split())
    assert "pangzhu.cli" in loaded
    assert not loaded & {*HEAVY, "pydantic", "typer"}


def test_help_of_a_verb_loads_no_torch() -> None:
    """One verb after another in one process; what is loaded by then is told beside each."""
    check = (
        "import sys; from pangzhu.cli import VERBS, main\n"
        "for name in VERBS: main([name, '--help']); print(name, *sys.modules, file=sys.stderr)"
    )
    told = [line.split() for line in command("-c", check).stderr.splitlines()]
    assert [name for name, *_ in told] == list(cli.VERBS)
    assert all("pydantic" in loaded for _, *loaded in told)
    assert {name: found for name, *loaded in told if (found := set(loaded) & set(HEAVY))} == {}


def test_the_module_is_the_command() -> None:
    done = command("-m", "pangzhu", "--version")
    assert (done.returncode, done.stdout) == (0, f"pangzhu {__version__}\n")
    assert command("-m", "pangzhu", "nonsense").returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes closed by the reader")
def test_a_reader_that_left_is_no_traceback() -> None:
    check = (
        "import os, sys\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "from pangzhu.cli import main\n"
        "sys.exit(main(['--help']))"
    )
    done = command("-c", check)
    assert done.returncode == cli.BROKEN_PIPE_EXIT_CODE
    assert done.stderr == ""
