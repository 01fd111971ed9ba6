"""The command line: finds the verb, runs it, shows its result, and is the only place that catches errors and exits.

`pangzhu VERB` imports the verb's own module and nothing of the others, so help is quick and never loads torch. The way
of a command: `read_flags` takes out `--lang`, `--json` and `--debug`; `options.parse` turns the rest into the verb's
frozen configuration; the verb's function calls its stage; `console.print_result` shows what came back.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING

from pangzhu import __version__, messages
from pangzhu.cli import console
from pangzhu.cli.flags import Flags, read_flags
from pangzhu.errors import InterruptedRunError, PangzhuError, ResourceError, UsageError, is_out_of_memory, nearest
from pangzhu.messages import say
from pangzhu.storage import DISK_FORBIDDEN, DISK_FULL

if TYPE_CHECKING:
    from pangzhu.cli.options import Verb
    from pangzhu.config import Options

VERBS = {  # verb -> module of this package, name in it
    "demo": ("demo", "demo"),
    "doctor": ("doctor", "doctor"),
    "pull": ("models", "pull"),
    "models": ("models", "models"),
    "check": ("data", "check"),
    "plan": ("training", "plan"),
    "train": ("training", "train"),
    "compare": ("use", "compare"),
    "eval": ("use", "eval_"),
    "chat": ("use", "chat"),
    "adapters": ("adapters", "adapters"),
    "merge": ("export", "merge"),
    "export": ("export", "export"),
    "serve": ("serve", "serve"),
}
PANELS = {
    "panel.start": ("demo", "doctor"),
    "panel.prepare": ("pull", "models", "check", "plan"),
    "panel.teach": ("train",),
    "panel.prove": ("compare", "eval"),
    "panel.use": ("chat", "serve", "adapters"),
    "panel.carry": ("merge", "export"),
}
BROKEN_PIPE_EXIT_CODE = 141  # 128 + SIGPIPE, what a shell reports for a reader that left


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    Args:
        argv: the words after `pangzhu`; None takes the process's own.
    """
    flags, words = read_flags(sys.argv[1:] if argv is None else argv)
    return _guarded(flags, lambda: _run(flags, words))


def run_script(stages: Callable[[], None], argv: Sequence[str] | None = None) -> int:
    """Run a lesson's script, which takes no arguments, with the same messages, errors and exit codes as a verb.

    Args:
        stages: what the script does.
        argv: the words after the script; None takes the process's own.
    """
    flags, words = read_flags(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        if words:
            raise UsageError("error.cli.script_takes_nothing", where=" ".join(words))
        stages()
        return 0

    return _guarded(flags, run)


def _guarded(flags: Flags, run: Callable[[], int]) -> int:
    """The exit code of `run`, whatever happens in it."""
    console.make_streams_tolerant()
    messages.set_language(flags.language)
    console.want_json(flags.json)
    try:
        with messages.listening(console.say_line):
            exit_code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:  # noqa: BLE001  # the one place where nothing may pass
        return _report(error, debug=flags.debug)
    return exit_code


def _run(flags: Flags, words: Sequence[str]) -> int:
    if flags.mistake:
        raise flags.mistake
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("--help", "-h", "help"):
        return _print_overview()
    if name == "--version":
        return _print_version()
    return _run_verb(_find_verb(name), rest)


def _run_verb(verb: "Verb[Options]", words: Sequence[str]) -> int:
    from pangzhu.cli.options import parse

    config = parse(verb, words)
    if config is None:
        return 0
    with redirect_stdout(sys.stderr) if console.json_is_wanted() else nullcontext():  # whatever a library prints
        result = verb.function(config)
    return console.print_result(result)


def _find_verb(name: str) -> "Verb[Options]":
    if name not in VERBS:
        key = "error.cli.no_such_option_here" if name.startswith("-") else "error.cli.no_such_verb"
        raise UsageError(key, name=name, hint=nearest(name, VERBS), verbs=", ".join(VERBS))
    module, function = VERBS[name]
    verb: Verb[Options] = getattr(import_module(f"pangzhu.cli.{module}"), function)
    return verb


def _print_overview() -> int:
    from pangzhu.cli.help import overview

    print(overview(PANELS))
    return 0


def _print_version() -> int:
    if console.json_is_wanted():
        console.print_json({"ok": True, "version": __version__})
    else:
        print(f"pangzhu {__version__}")
    return 0


def _report(error: Exception, *, debug: bool) -> int:
    """Show an error in the user's language; its traceback only where `--debug` asks for it."""
    known = _as_pangzhu_error(error)
    try:
        sentences = str(known)
    except (KeyError, ValueError, IndexError) as incomplete:  # the catalogue lacks a sentence or a value: our bug
        known = _as_bug(incomplete)
        sentences = str(known)
    if debug:
        console.say_line("".join(traceback.format_exception(error)))
    console.say_line(sentences)
    if console.json_is_wanted():
        console.print_json(console.error_as_json(known))
    return known.exit_code


def _as_pangzhu_error(error: Exception) -> PangzhuError:
    """The error itself, or what it means; whatever is not recognised is a bug of Pangzhu."""
    if isinstance(error, PangzhuError):
        return error
    if is_out_of_memory(error):
        return ResourceError("error.cli.out_of_memory")
    if isinstance(error, OSError):
        return _as_disk_fault(error) or _as_bug(error)
    return _as_bug(error)


def _as_disk_fault(error: OSError) -> PangzhuError | None:
    """What the disk refused, or None where the fault is another."""
    where = None if error.filename is None else str(error.filename)
    if error.errno in DISK_FULL:
        return ResourceError("error.disk.full", where=where)
    if error.errno in DISK_FORBIDDEN and where is not None:  # without a path it may be a socket's
        return ResourceError("error.disk.forbids", where=where, reason=error.strerror)
    return None


def _as_bug(error: Exception) -> PangzhuError:
    return PangzhuError("error.cli.bug", kind=type(error).__name__, reason=str(error))


def _interrupted() -> int:
    say("cli.interrupted")
    error = InterruptedRunError("error.cli.interrupted", signal_number=signal.SIGINT)
    if console.json_is_wanted():
        console.print_json(console.error_as_json(error))
    return error.exit_code


def _reader_left() -> int:
    """`pangzhu … | head`: nobody reads any more; keep Python from complaining again when it closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE_EXIT_CODE
