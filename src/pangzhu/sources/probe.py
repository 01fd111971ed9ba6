"""Can a hub be reached? One question of at most three seconds, remembered.

The answer is kept in the process, and for ten minutes in the cache folder under the hub's address, so that a second
command does not wait again. A question that ends in an error the user must act on is always asked afresh (`fresh`).
The request runs in a thread of its own because a name server that does not answer ignores every timeout.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from pangzhu import storage
from pangzhu.hiding import public_address
from pangzhu.messages import say
from pangzhu.sources.cache import cache_root
from pangzhu.storage import DiskError

SECONDS = 3.0
REMEMBERED_SECONDS = 600.0

_asked: dict[str, bool] = {}


def reachable(endpoint: str, *, fresh: bool = False, seconds: float = SECONDS) -> bool:
    """Whether anything answers HTTP at `endpoint`.

    Args:
        endpoint: address of a hub, without a path.
        fresh: do not trust an earlier "no"; someone may have mended the network since.
        seconds: how long to wait.
    """
    known = _asked.get(endpoint, _remembered(endpoint))
    if known is None or (fresh and not known):
        return ask(endpoint, seconds=seconds)
    _asked[endpoint] = known
    return known


def ask(endpoint: str, *, seconds: float = SECONDS) -> bool:
    """Ask now, whatever is remembered, and remember the answer."""
    say("source.probing", endpoint=public_address(endpoint), seconds=f"{seconds:g}")
    answers = _answers(endpoint, seconds)
    if not answers:
        say("source.unreachable", endpoint=public_address(endpoint))
    _remember(endpoint, answers)
    _asked[endpoint] = answers
    return answers


def forget() -> None:
    """Drop what this process remembers."""
    _asked.clear()


def _answers(endpoint: str, seconds: float) -> bool:
    return _within(lambda: _ask(endpoint, seconds), seconds)


def _within(question: Callable[[], bool], seconds: float) -> bool:
    """The answer, or False where it takes longer than `seconds`."""
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(question()), daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers and answers[0])


def _ask(endpoint: str, seconds: float) -> bool:
    """One request through the library's own session: the user's proxies and certificates apply."""
    try:
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        return bool(get_session().head(endpoint, timeout=seconds).status_code < 500)
    except Exception:  # noqa: BLE001  # whatever went wrong, the hub was not reached
        return False


def _file() -> Path:
    return cache_root() / "probes.json"


def _all_remembered() -> dict[str, list[float]]:
    try:
        remembered = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _remembered(endpoint: str) -> bool | None:
    """The answer of an earlier command, while it is younger than ten minutes."""
    match _all_remembered().get(endpoint):
        case [int() | float() as when, answer] if 0 <= time.time() - when < REMEMBERED_SECONDS:
            return bool(answer)
    return None


def _remember(endpoint: str, answer: bool) -> None:
    """Best effort: a cache folder that cannot be written costs three seconds, no more."""
    remembered = _all_remembered() | {endpoint: [time.time(), answer]}
    with suppress(DiskError):
        storage.make_folder(_file().parent)
        storage.write_atomically(_file(), json.dumps(remembered), alone=False)
