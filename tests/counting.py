"""A plugin of pytest that counts, with `--counts FILE`, how many faults of which kind the tests have shown, and writes it there.

A test that goes through many states itself says so with `record_property`; of the others each case counts as one.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.results import keep_torture

PASSING = re.compile(r"(\d+) passing")  # hypothesis's statistics, a line for each of its phases
DAMAGED_FILES = "B"  # the group of docs/faults.md
ADDED_UP = ("cases of faults", "cases of damaged files", "hypothesis cases")


def count_of(item: pytest.Item) -> Iterator[tuple[str, int]]:
    """What one case of a test counts for, once it has run."""
    faults = [row for mark in item.iter_markers("fault") for row in mark.args]
    if faults:
        yield "cases of faults", 1
    if any(row.startswith(DAMAGED_FILES) for row in faults):
        yield "cases of damaged files", 1
    if tried := PASSING.findall(getattr(item, "hypothesis_statistics", "")):
        yield "hypothesis cases", sum(map(int, tried))


class Counting:
    """Adds up what tests that passed count for.

    Args:
        config: pytest's.
        file: where the counts go; those of an earlier run on the same platform are replaced.
    """

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._is_worker = hasattr(config, "workerinput")
        self._file = file
        self._counts: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Send the counts along with the report: a worker's too."""
        if call.when == "call":
            item.user_properties += count_of(item)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add those up that are cases; of states, one test goes through some and another through all."""
        if report.when != "call" or not report.passed:
            return
        for name, count in report.user_properties:
            self._counts[name] = self._counts[name] + count if name in ADDED_UP else max(self._counts[name], count)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the counts of a run in which nothing failed."""
        if not self._is_worker and exitstatus == pytest.ExitCode.OK:
            keep_torture(self._counts, self._file)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them."""
        terminalreporter.section("counted")
        for name, count in sorted(self._counts.items()):
            terminalreporter.write_line(f"{count:>6}  {name}")
