"""A `pangzhu` command that ends itself by `kill -9`: `python killed_run.py MODULE:NAME CALL SECONDS train …`.

At the CALL-th call of the function named, the process is killed, SECONDS later where that is not 0. With `-` in place of the
function nothing is killed. Nothing of Python runs at the end: no `finally`, no `atexit`, no flush.
"""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pangzhu.cli import main


def kill() -> None:
    """End this process now."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(function: Callable[..., Any], call: int, seconds: float) -> Callable[..., Any]:
    """The function, deadly at its `call`-th call."""
    calls = 0

    @functools.wraps(function)
    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if not seconds:
                kill()
            timer = threading.Timer(seconds, kill)
            timer.daemon = True
            timer.start()
        return function(*given, **named)

    return counted


def arm(where: str, call: int, seconds: float) -> None:
    """Put the deadly function in place of the named one."""
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, import_module(module))
    setattr(owner, name, kill_at(getattr(owner, name), call, seconds))


if __name__ == "__main__":
    where, call, seconds, *words = sys.argv[1:]
    if where != "-":
        arm(where, int(call), float(seconds))
    sys.exit(main(words))
