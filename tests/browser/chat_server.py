"""What `pangzhu serve` says to its page, without a model: every answer is written down beforehand, and can be held back.

    GET  /                       the page, under the policy that the server sends
    GET  /v1/models, /v1/examples
    POST /v1/chat/completions    one model's answer as server-sent events
    POST /v1/compare             several models' answers in one stream, a piece of each in turn

Every request is kept in `requests`. A post from another origin than its own is refused, as the server does.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pangzhu

PAGE = Path(pangzhu.__file__).parent / "serve" / "web" / "index.html"
MOST_SECONDS = 30.0  # that an answer is held back or goes on
CHAT, COMPARE = "/v1/chat/completions", "/v1/compare"

Chunk = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What a model says.

    Args:
        pieces: its text as it comes; the first comes at once, the others when nothing is held.
        finish: why it ends; None breaks off without a word.
        fault: an error in place of its end.
        endless: goes on until nobody listens.
    """

    pieces: tuple[str, ...]
    finish: str | None = "stop"
    fault: str | None = None
    endless: bool = False


@dataclass(frozen=True)
class Refusal:
    """An answer that is no answer."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked."""

    path: str
    headers: dict[str, str]
    body: Chunk


@dataclass
class ChatServer:
    """Models with what they say, and what goes wrong.

    Args:
        says: by model, the base first; what each says to every question.
        questions: text and kind of the questions at hand.
        key: that every request to the API must bring.
        refusals: answered to the next posts.
    """

    says: dict[str, Said]
    questions: Sequence[tuple[str, str]] = ()
    key: str | None = None
    refusals: list[Refusal] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    root: str = "Qwen/Qwen2.5-0.5B-Instruct"

    def __post_init__(self) -> None:
        self.let_go, self.was_left = Event(), Event()
        self.let_go.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()

    def asked(self, path: str) -> list[Chunk]:
        """The bodies of the posts to a path, in turn."""
        return [request.body for request in self.requests if request.path == path]

    def models(self) -> Chunk:
        base = next(iter(self.says))
        rows = [
            {"id": name, "object": "model", "created": 1, "owned_by": "pangzhu"}
            | {"parent": None if name == base else base, "root": self.root}
            for name in self.says
        ]
        return {"object": "list", "data": rows}

    def examples(self) -> Chunk:
        return {"questions": [{"text": text, "kind": kind} for text, kind in self.questions]}


def policy(page: str) -> str:
    """The content security policy of a page: its own script and style, nothing else."""
    script, style = (_hash(re.search(f"<{name}>(.*?)</{name}>", page, re.DOTALL)) for name in ("script", "style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(found: re.Match[str] | None) -> str:
    assert found is not None
    return "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    chat: ChatServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""

    def do_GET(self) -> None:
        if self.path == "/":
            page = PAGE.read_text(encoding="utf-8")
            self._send(200, page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy(page)})
        elif self._is_let_in():
            self._json(200, {"/v1/models": self.chat.models, "/v1/examples": self.chat.examples}[self.path]())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("origin") != self.chat.address:
            self._refuse(Refusal(403, "another origin"))
        elif self._is_let_in():
            self.chat.requests.append(Request(self.path, headers, body))
            if self.chat.refusals:
                self._refuse(self.chat.refusals.pop(0))
            else:
                self._stream(body["models"] if self.path == COMPARE else [body["model"]])

    def _is_let_in(self) -> bool:
        if self.chat.key is None or self.headers.get("Authorization") == f"Bearer {self.chat.key}":
            return True
        self._refuse(Refusal(401, "a key is needed"))
        return False

    def _refuse(self, refusal: Refusal) -> None:
        error = {"message": refusal.message, "type": "error", "param": None, "code": None}
        self._json(refusal.status, {"error": error}, refusal.headers)

    def _stream(self, names: Sequence[str]) -> None:
        """All answers, a piece of each in turn; whoever leaves is noticed."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for turn, chunks in enumerate(zip_longest(*(self._chunks(name) for name in names))):
                if turn == 1:
                    self.wfile.write(b": ping\n\n")
                    self.chat.let_go.wait(MOST_SECONDS)
                for chunk in filter(None, chunks):
                    self._event(json.dumps(chunk, ensure_ascii=False))
            if all(self.chat.says[name].finish for name in names):
                self._event("[DONE]")
        except OSError:
            self.chat.was_left.set()

    def _chunks(self, name: str) -> Iterator[Chunk]:
        said = self.chat.says[name]
        for piece in said.pieces:
            yield _chunk(name, {"role": "assistant", "content": piece})
        until = time.monotonic() + MOST_SECONDS
        while said.endless and time.monotonic() < until:
            yield _chunk(name, {"content": "."})
            time.sleep(0.02)
        if said.fault:
            yield {"error": {"message": said.fault, "type": "server_error", "param": None, "code": None}, "model": name}
        elif said.finish:
            yield _chunk(name, {}, said.finish)
            usage = {"prompt_tokens": 7, "completion_tokens": len(said.pieces), "total_tokens": 7 + len(said.pieces)}
            yield _chunk(name, None) | {"usage": usage}

    def _event(self, data: str) -> None:
        """One event in two writes, cut in the middle, be it of a character."""
        event = f"data: {data}\n\n".encode()
        for part in (event[: len(event) // 2], event[len(event) // 2 :]):
            self.wfile.write(part)
            self.wfile.flush()

    def _json(self, status: int, answer: Chunk, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _chunk(name: str, delta: Chunk | None, finish: str | None = None) -> Chunk:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": name,
        "choices": choices,
        "usage": None,
    }
