"""A chat template is a program from a stranger: it is tried out where it can do no harm before it is used.

transformers renders templates in jinja2's sandbox, which keeps them from reaching attributes and changing what they are
given, but not from looping for hours or writing gigabytes. So each template is first rendered in a process of its own
(`child`), on conversations of several shapes, within bounds on computing, memory and text.

What this does not find: a template that behaves until it meets certain words.

Try it: `try_out("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")`.
"""

import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import psutil

from pangzhu.errors import ModelError

MOST_SECONDS = 2.0  # of computing, not of waiting for a processor that others use
MOST_WAITING_SECONDS = 120.0
MOST_MEMORY = 512 * 2**20
MOST_LETTERS = 1_000_000  # of a template, and of what it writes
POLL_SECONDS = 0.01
CHILD = Path(__file__).with_name("child.py")


@lru_cache(maxsize=256)
def try_out(template: str) -> None:
    """Render a template within bounds; once for each template, whoever asks.

    Raises:
        ModelError: it computes, takes or writes more than any chat template has a reason to, or could not be tried.
    """
    if len(template) > MOST_LETTERS:
        raise _unbounded()
    command = [sys.executable, "-P", str(CHILD), str(MOST_LETTERS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            output, _ = _hand_over(child, template)
        finally:
            child.kill()
    if output != b"done":
        raise _unbounded() if output == b"large" else ModelError("error.template.not_tried", python=sys.executable)


def _hand_over(child: "subprocess.Popen[bytes]", template: str) -> tuple[bytes, bytes]:
    """Give the child its template and wait for what it says, as long as it keeps its bounds."""
    watched = psutil.Process(child.pid)
    begun = time.monotonic()
    pending: bytes | None = template.encode("utf-8", "surrogatepass")
    while True:
        try:
            return child.communicate(pending, timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            pending = None  # kept by `communicate` from the first call on
        if not _keeps_bounds(watched) or time.monotonic() - begun > MOST_WAITING_SECONDS:
            raise _unbounded()


def _keeps_bounds(watched: psutil.Process) -> bool:
    """Whether a process has computed and taken little enough; one that has ended has."""
    try:
        used = watched.cpu_times()
        return used.user + used.system <= MOST_SECONDS and watched.memory_info().rss <= MOST_MEMORY
    except psutil.Error:
        return True


def _unbounded() -> ModelError:
    megabytes, letters = MOST_MEMORY >> 20, MOST_LETTERS
    return ModelError("error.template.unbounded", seconds=MOST_SECONDS, megabytes=megabytes, letters=letters)
