"""Which errors of the package the tests have seen raised; a whole run of the suite fails where one was not.

`places` reads the source for every call that makes a `PangzhuError`. `ErrorsRaised` watches, while tests run, where in the
source an error is made, under which key, and whether it is raised: made in a `raise` statement, or in what such a statement
calls and gets returned. An error that a test makes for itself, or has made and does not let be raised, is not counted. At the
end of a whole run, of one process or of several workers, every place and every key of the catalogue must have been seen; a
part of the suite cannot tell and is not judged. What other processes raise is not seen.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from weakref import WeakKeyDictionary

import pytest

import pangzhu
from pangzhu.errors import PangzhuError
from pangzhu.messages import catalogue

SOURCE = Path(pangzhu.__file__).parent
LAYOUT = {"error.what", "error.where", "error.fix", "error.nearest"}
TOLD = {  # where errors are made that are told, not raised there: they count once their sentence is read
    "cli/__init__.py": "what another exception means",
    "cli/flags.py": "a wrong language: raised once the streams are ready",
    "gate.py": "a bar missed: figures and report are finished all the same",
}
WHOLE = ("", "not real")  # choices of marks that raise every error

Raised = tuple[str, int, str]  # file below src/pangzhu, line, key
Expected = tuple[set[tuple[str, int]], set[str]]  # places and keys
Statement = ast.Raise | ast.Return | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr


def keys() -> set[str]:
    """Every key of the catalogue that an error may have."""
    return {key for key in catalogue("en") if key.startswith("error.") and not key.endswith(".fix")} - LAYOUT


def everything() -> Expected:
    """All places and keys there are."""
    return places(), keys()


def places(source: Path = SOURCE) -> set[tuple[str, int]]:
    """File and line of every call that makes an error."""
    return {
        (file.relative_to(source).as_posix(), node.lineno)
        for file in source.rglob("*.py")
        for node in ast.walk(_tree(str(file)))
        if isinstance(node, ast.Call) and _name(node.func) in error_classes(source)
    }


@cache
def error_classes(source: Path = SOURCE) -> frozenset[str]:
    """`PangzhuError` and whatever descends from it, by name."""
    found = {"PangzhuError"}
    classes = [
        node for file in source.rglob("*.py") for node in ast.walk(_tree(str(file))) if isinstance(node, ast.ClassDef)
    ]
    while new := {node.name for node in classes if found & {_name(base) for base in node.bases}} - found:
        found |= new
    return frozenset(found)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"), file)


@cache
def _statements(file: str) -> tuple[Statement, ...]:
    return tuple(node for node in ast.walk(_tree(file)) if isinstance(node, Statement))


def _statement(frame: FrameType) -> Statement | None:
    """What a frame of the package is at; None for other code."""
    file = frame.f_code.co_filename
    if not Path(file).is_relative_to(SOURCE):
        return None
    return next((node for node in _statements(file) if node.lineno <= frame.f_lineno <= (node.end_lineno or 0)), None)


def _is_raised(frame: FrameType | None) -> bool:
    """Whether what is made here goes into a `raise` statement, straight on or as what functions return."""
    while frame is not None:
        statement = _statement(frame)
        if not isinstance(statement, ast.Return):
            return isinstance(statement, ast.Raise)
        frame = frame.f_back
    return False


def _maker(error: PangzhuError, frame: FrameType | None) -> FrameType | None:
    """The frame that makes the error: the first outside the error's own class."""
    while frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is error:
        frame = frame.f_back
    return frame


class ErrorsRaised:
    """A plugin of pytest that keeps the account.

    Args:
        config: pytest's.
        expect: which places and keys are to be seen.
    """

    def __init__(self, config: pytest.Config, expect: Callable[[], Expected] = everything) -> None:
        self._config = config
        self._expect = expect
        self._seen: set[Raised] = set()
        self._untold: WeakKeyDictionary[PangzhuError, Raised] = WeakKeyDictionary()
        self._missing: list[str] = []
        self._watch()

    def _watch(self) -> None:
        """Look at every error that is made, and at every sentence of one that is read."""
        init, sentence = PangzhuError.__init__, PangzhuError.what.fget

        def made(error: PangzhuError, key: str, /, **values: object) -> None:
            init(error, key, **values)
            self._note(error, _maker(error, sys._getframe(1)))

        def read(error: PangzhuError) -> str:
            if error in self._untold:
                self._seen.add(self._untold.pop(error))
            return sentence(error)

        patched = pytest.MonkeyPatch()
        patched.setattr(PangzhuError, "__init__", made)
        patched.setattr(PangzhuError, "what", property(read, doc=PangzhuError.what.__doc__))
        self._config.add_cleanup(patched.undo)

    def _note(self, error: PangzhuError, frame: FrameType | None) -> None:
        file = Path(frame.f_code.co_filename) if frame else Path()
        if frame is None or not file.is_relative_to(SOURCE):
            return
        raised = (file.relative_to(SOURCE).as_posix(), frame.f_lineno, error.key)
        if _is_raised(frame):
            self._seen.add(raised)
        elif raised[0] in TOLD:
            self._untold[error] = raised

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A worker has ended: take over what it saw."""
        found: Iterable[Raised] = getattr(node, "workeroutput", {}).get("errors_raised", ())
        self._seen.update(map(tuple, found))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Hand over what was seen, or judge it."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["errors_raised"] = sorted(self._seen)
        elif exitstatus == pytest.ExitCode.OK and is_whole(self._config):
            self._missing = list(self._not_seen())
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if self._missing else exitstatus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what no test has raised."""
        if self._missing:
            terminalreporter.section("errors that no test raises", red=True)
            terminalreporter.write("".join(f"{line}\n" for line in self._missing))

    def _not_seen(self) -> Iterator[str]:
        seen_places, seen_keys = {(file, line) for file, line, _ in self._seen}, {key for *_, key in self._seen}
        all_places, all_keys = self._expect()
        yield from (f"{file}:{line}" for file, line in sorted(all_places - seen_places))
        yield from sorted(all_keys - seen_keys)


def is_whole(config: pytest.Config) -> bool:
    """Whether a run takes every test, or every one that needs no real model."""
    chosen = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "collectonly")
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr in WHOLE
    return whole and not any(getattr(config.option, name, None) for name in chosen)
