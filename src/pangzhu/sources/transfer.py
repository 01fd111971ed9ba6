"""Requests to a hub that may fail halfway: try again with patience, go on where it stopped, keep only what is right.

huggingface_hub 2.4 goes on within one call but throws the partial file away when the call fails, so that a download of
one gigabyte over a poor line may never end. Here the part stays on the disk as `….part` and the next attempt, of this
command or of the next, asks for the rest. A file gets its name only once its hash is the one the hub promised.
What this does not do: know which files a model has (`hubs`).
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pangzhu import storage
from pangzhu.errors import ModelError
from pangzhu.messages import say, text
from pangzhu.sources.cache import size_text
from pangzhu.sources.folder import WEB_PAGE
from pangzhu.storage import sha256_of

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
PROGRESS_SECONDS = 10.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a hub.

    Args:
        read_seconds: silence after which a request is given up.
        tries: attempts in a row that bring nothing new before giving up.
        first_wait: seconds before the second attempt; doubled each time.
        longest_wait: the most seconds between two attempts, whatever the hub asks for.
        slow_seconds: how long a hub may send less than `least_rate` before it is given up.
        least_rate: bytes a second; a gigabyte would take eleven days.
    """

    read_seconds: float = 15.0
    tries: int = 3
    first_wait: float = 2.0
    longest_wait: float = 30.0
    slow_seconds: float = 60.0
    least_rate: int = 1000


PATIENCE = Patience()


class Response(Protocol):
    """What is used of an answer, whichever library gave it."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, whatever its case."""
        ...

    def iter_bytes(self) -> Iterator[bytes]:
        """The body, in pieces as they arrive: what came before a drop is kept."""
        ...


@dataclass(frozen=True)
class Source:
    """Which model is asked for, and from whom. The token is never shown."""

    endpoint: str
    name: str
    revision: str | None
    token: str | None

    def __repr__(self) -> str:
        return f"Source({self.endpoint}, {self.name}, {self.revision})"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model as the hub lists it.

    Args:
        name: plain file name, at the root of the repository.
        size: in bytes.
        sha256: of the content, for large files.
        git_sha1: git's name of the content, for small files.
    """

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def identity(self) -> str:
        """Name of the content in the cache."""
        return self.sha256 or self.git_sha1 or f"{self.size}-{self.name}"


@dataclass(frozen=True)
class Download:
    """One file on its way: from `url` to `target`, by way of `part`."""

    file: RemoteFile
    url: str
    target: Path
    source: Source

    @property
    def part(self) -> Path:
        """What has come so far; it outlives the command."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def done(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0


def network_errors() -> tuple[type[Exception], ...]:
    """What a request may raise. The HTTP library beneath huggingface_hub has changed its name before."""
    from huggingface_hub.errors import HfHubHTTPError

    of_library = [kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    return (*of_library, HfHubHTTPError, ConnectionError)


def patiently(
    act: Callable[[], Result], source: Source, *, file: str = "", done: Callable[[], int] = lambda: 0
) -> Result:
    """Do `act` until it succeeds, fails for good, or brings nothing new `PATIENCE.tries` times in a row.

    Args:
        act: one attempt.
        source: for the sentences.
        file: what is asked for.
        done: bytes so far; an attempt that brings some which never came before is not counted against the hub. Those of a
            part that is begun anew again and again are: else a hub could keep us for ever.

    Raises:
        ModelError: what happened, and the other ways to a model.
    """
    failures, most = 0, done()
    while True:
        try:
            return act()
        except network_errors() as failed:
            failures, most = (1, done()) if done() > most else (failures + 1, most)
            if failures >= PATIENCE.tries or (_status(failed) or 503) not in TRANSIENT:
                raise explain(failed, source, file=file) from failed
            _wait(failed, source, file=file, attempt=failures + 1)


def _wait(failed: Exception, source: Source, *, file: str, attempt: int) -> None:
    """Sleep as long as the hub asks for, or twice as long as the last time, within bounds."""
    asked = _header(failed, "Retry-After")
    wait = float(asked) if asked and asked.isdigit() else PATIENCE.first_wait * 2 ** (attempt - 2)
    wait = min(wait, PATIENCE.longest_wait)
    say(
        "source.retrying",
        file=file or source.name,
        reason=_reason(failed, source),
        seconds=wait,
        attempt=attempt,
        tries=PATIENCE.tries,
    )
    time.sleep(wait)


def explain(failed: Exception, source: Source, *, file: str = "") -> ModelError:
    """The error a user reads for an exception of the network."""
    status = _status(failed)
    if status is None:
        return ModelError(
            "error.model.hub_interrupted",
            endpoint=source.endpoint,
            file=file or source.name,
            tries=PATIENCE.tries,
            reason=_reason(failed, source),
        )
    if status in (401, 403) or (status == 404 and not file):
        return _refusal(failed, source)
    if status == 429:
        return ModelError("error.model.rate_limited", endpoint=source.endpoint)
    return ModelError("error.model.hub_failed", endpoint=source.endpoint, status=status, file=file or source.name)


def _refusal(failed: Exception, source: Source) -> ModelError:
    """Tell apart what the hub answers alike: it says 401 for a private model and for one that does not exist."""
    status = _status(failed)
    code = _header(failed, "X-Error-Code")
    if code == "RevisionNotFound":
        key = "error.model.no_revision"
    elif code == "GatedRepo" or status == 403:
        key = "error.model.gated"
    elif status == 401 and source.token:
        key = "error.model.token_refused"
    else:
        key = "error.model.not_on_hub"
    return ModelError(key, endpoint=source.endpoint, name=source.name, revision=source.revision or "main")


def _response(failed: Exception) -> Response | None:
    return getattr(failed, "response", None)


def _status(failed: Exception) -> int | None:
    response = _response(failed)
    return None if response is None else response.status_code


def _header(failed: Exception, name: str) -> str | None:
    response = _response(failed)
    return None if response is None else response.headers.get(name)


def _reason(failed: Exception, source: Source) -> str:
    """One line without the token."""
    status = _status(failed)
    said = f"HTTP {status}" if status else f"{type(failed).__name__}: {failed}".splitlines()[0].removesuffix(": ")
    return said.replace(source.token, "***") if source.token else said


def fetch(download: Download) -> None:
    """Download a file, beginning where its part ends, and check it.

    Raises:
        ModelError: the hub failed for good, or the bytes are not those promised; a wrong part is thrown away.
    """
    file, part = download.file, download.part
    resumed = _announce(download)
    _fetch_rest(download)
    if resumed and not _is_right(file, part):  # the old part may have been another file's: once more from nothing
        storage.remove(part)
        _fetch_rest(download)
    if not _is_right(file, part):
        raise _wrong_bytes(download)
    storage.sync_file(part)
    storage.move(part, download.target)


def _announce(download: Download) -> bool:
    """Say what is fetched, and whether it is gone on with."""
    file, done = download.file, download.done
    if done:
        say("source.resuming_file", file=file.name, size=size_text(file.size), done=size_text(done))
    else:
        say("source.downloading_file", file=file.name, size=size_text(file.size))
    return done > 0


def _fetch_rest(download: Download) -> None:
    """Bring the part to its full length, however often the connection drops."""
    if download.done != download.file.size:
        patiently(lambda: _stream(download), download.source, file=download.file.name, done=lambda: download.done)


def _stream(download: Download) -> None:
    """One request for what the part lacks. A part the server cannot go on from (416) is begun anew."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    part, have = download.part, download.done
    storage.make_folder(part.parent)
    headers = build_hf_headers(token=download.source.token or False) | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", download.url, headers=headers, timeout=PATIENCE.read_seconds) as response:
        if response.status_code == 416 and have:
            storage.remove(part)
            raise ConnectionError(text("source.part_refused"))
        hf_raise_for_status(response)
        if "text/html" in (response.headers.get("Content-Type") or ""):
            raise ModelError("error.model.hub_html", endpoint=download.source.endpoint)
        goes_on = response.status_code == 206
        with storage.appending(part, anew=not goes_on) as write:
            _copy(response, write, download, done=have if goes_on else 0)
    if download.done < download.file.size:
        raise ConnectionError(text("source.cut_short"))


def _copy(response: Response, write: Callable[[bytes], None], download: Download, *, done: int) -> None:
    """Write the body as it comes, saying now and then how far it is; `done` bytes were here before.

    Raises:
        ModelError: the hub sends so slowly that another way is quicker; what came stays.
    """
    file = download.file
    told = watched = time.monotonic()
    done_then = done
    for chunk in response.iter_bytes():
        write(chunk)
        done += len(chunk)
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS:
            told = now
            say("source.downloading_progress", file=file.name, done=size_text(done), size=size_text(file.size))
        if now - watched > PATIENCE.slow_seconds:
            if done - done_then < PATIENCE.least_rate * (now - watched):
                raise _trickles(download)
            watched, done_then = now, done


def _trickles(download: Download) -> ModelError:
    source, rate = download.source, size_text(PATIENCE.least_rate)
    return ModelError("error.model.hub_trickles", endpoint=source.endpoint, file=download.file.name, rate=rate)


def _is_right(file: RemoteFile, path: Path) -> bool:
    """Size and, where the hub gave one, hash."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    return file.git_sha1 is None or _git_sha1(path) == file.git_sha1


def _git_sha1(path: Path) -> str:
    """What git calls this content: sha1 over `blob SIZE\\0` and the bytes. Small files only."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _wrong_bytes(download: Download) -> ModelError:
    """Throw the part away; the error says whether it was a web page."""
    endpoint = download.source.endpoint
    with download.part.open("rb") as opened:
        page = WEB_PAGE.match(opened.read(256)) is not None
    storage.remove(download.part)
    if page:
        return ModelError("error.model.hub_html", endpoint=endpoint)
    return ModelError("error.model.wrong_bytes", file=download.file.name, endpoint=endpoint)
