"""A hub on this machine that speaks what `pangzhu.sources.hubs` asks, and misbehaves on request.

    /api/models/ORG/NAME[/revision/REV]      commit and files, with sizes and hashes
    /ORG/NAME/resolve/COMMIT/FILE            a file, with ETag, X-Repo-Commit and Range

Every request is kept in `requests` as "METHOD path", with its Range and Authorization in `headers`.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

NAME = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in to the network.</body></html>"


@dataclass
class Fault:
    """What goes wrong, for how many requests.

    Args:
        kind: drop, delay, trickle, html (said to be), page (said to be a file), wrong, short, no_sha, list, or a status such as "404".
        times: None means always.
        headers: sent with a status.
    """

    kind: str
    times: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    """The repository it serves, what it does wrong, and what it was asked."""

    files: dict[str, bytes]
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    delay_seconds: float = 1.0
    name: str = NAME

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked_for(self, part: str) -> list[str]:
        return [request for request in self.requests if part in request]

    def ranges(self, part: str) -> list[str | None]:
        pairs = zip(self.requests, self.headers, strict=True)
        return [headers.get("range") for request, headers in pairs if part in request]

    def fault_for(self, what: str) -> Fault | None:
        """The fault due for this request, counted down."""
        fault = self.faults.get(what)
        if fault is None or fault.times == 0:
            return None
        if fault.times is not None:
            fault.times -= 1
        return fault

    def info(self) -> dict[str, object]:
        siblings = [_sibling(name, content) for name, content in self.files.items()]
        return {"id": self.name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}


def _sibling(name: str, content: bytes) -> dict[str, object]:
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_sha1}
    if name.endswith(".safetensors"):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
    return sibling


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms until its header is acknowledged
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        if path == "/":
            self._send(200, b"hub", with_body=with_body)
        elif path.startswith("/api/models/"):
            self._api(path)
        else:
            self._file(path.rsplit("/", 1)[-1], with_body=with_body)

    def _api(self, path: str) -> None:
        fault = self.hub.fault_for("api")
        revision = path.partition("/revision/")[2]
        if fault:
            self._misbehave(fault, json.dumps(self.hub.info()).encode())
        elif not path.startswith(f"/api/models/{self.hub.name}"):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("", "main", "v1", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(200, json.dumps(self.hub.info()).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, *, with_body: bool) -> None:
        content = self.hub.files.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if fault := self.hub.fault_for(name):
            self._misbehave(fault, content)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        begin = self._begin()
        if begin >= len(content) > 0:
            self._send(416, b"", headers)
        else:
            self._send(206 if begin else 200, content[begin:], headers, with_body=with_body)

    def _begin(self) -> int:
        """Where the asked-for range begins."""
        asked = self.headers.get("Range", "")
        return int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0

    def _misbehave(self, fault: Fault, content: bytes) -> None:
        match fault.kind:
            case "drop":
                begin = self._begin()
                half = begin + max(1, (len(content) - begin) // 2)
                self._send(206 if begin else 200, content[begin:half], length=len(content) - begin)
                self.close_connection = True
            case "delay":
                time.sleep(self.hub.delay_seconds)
                self.close_connection = True
            case "trickle":
                self._trickle(content)
            case "html":
                self._send(200, PAGE, {"Content-Type": "text/html"})
            case "page":
                self._send(200, PAGE + b" " * len(content))
            case "wrong":
                self._send(200, bytes(len(content)))
            case "short":
                self._send(200, content[: len(content) // 2])
            case "no_sha":
                self._send(200, json.dumps(self.hub.info() | {"sha": "../../evil"}).encode())
            case "list":
                self._send(200, b"[1, 2]")
            case status:
                self._send(int(status), b"", fault.headers)

    def _trickle(self, content: bytes) -> None:
        """A byte at a time, for as long as somebody listens."""
        begin = self._begin()
        self._send(206 if begin else 200, b"", length=len(content) - begin)
        try:
            for byte in content[begin:]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
