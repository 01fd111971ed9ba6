"""The error tree: exit codes, layout, hints."""

import pytest

from pangzhu import errors, messages
from pangzhu.errors import InterruptedRunError, PangzhuError, UsageError, nearest

EXIT_CODES = {
    "UsageError": 2,
    "DataError": 3,
    "ModelError": 4,
    "ResourceError": 5,
    "DivergedError": 6,
    "LockedError": 7,
    "VerificationError": 8,
    "InterruptedRunError": 130,
}


@pytest.fixture(params=["zh", "en"])
def language(request: pytest.FixtureRequest):
    before = messages.language()
    messages.set_language(request.param)
    yield request.param
    messages.set_language(before)


def test_exit_codes_are_the_documented_ones() -> None:
    assert {kind.__name__: kind.exit_code for kind in PangzhuError.__subclasses__()} == EXIT_CODES


@pytest.mark.parametrize(("signal_number", "exit_code"), [(2, 130), (15, 143)])
def test_an_interrupted_run_ends_as_its_signal_says(signal_number: int, exit_code: int) -> None:
    error = InterruptedRunError("error.cli.interrupted", signal_number=signal_number)
    assert error.exit_code == exit_code
    assert InterruptedRunError.exit_code == 130


def test_an_error_says_what_where_and_how_to_fix_it(language: str) -> None:
    error = UsageError("error.config.unreadable", where="run.yaml", reason="R")
    what, where, fix = str(error).splitlines()
    assert "R" in what
    assert where.endswith("run.yaml")
    assert fix.endswith(error.fix)


def test_without_a_place_there_is_no_line_for_it(language: str) -> None:
    assert len(str(UsageError("error.config.not_mapping")).splitlines()) == 2


def test_the_language_is_that_of_the_moment_it_is_read() -> None:
    error = UsageError("error.config.not_mapping")
    before = messages.language()
    messages.set_language("zh")
    chinese = error.what
    messages.set_language("en")
    assert error.what != chinese
    messages.set_language(before)


def test_nearest_names_one_or_none(language: str) -> None:
    assert "max_steps" in nearest("max_stpes", ["r", "max_steps", "max_seq_length"])
    assert nearest("zzz", ["r", "max_steps"]) == ""
    assert nearest("zzz", []) == ""


def test_every_error_class_has_a_docstring() -> None:
    for kind in (PangzhuError, *PangzhuError.__subclasses__()):
        assert kind.__doc__
        assert getattr(errors, kind.__name__) is kind
