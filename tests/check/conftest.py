"""The checks are run as a user runs them: from the command line, in English."""

from tests.cli.conftest import _english, run

__all__ = ["_english", "run"]
