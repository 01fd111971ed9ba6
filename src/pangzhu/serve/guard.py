"""Who is let in, and how much they may take: an ASGI layer around the whole server.

A page elsewhere must not reach it: the Host and Origin must be ours (DNS rebinding, cross-site posts), posts are JSON, nothing
is shared with other origins. With a key, every route but `/health` and the page itself, which holds nothing, asks for it.
Bodies are small and come in time, readers keep up, requests end.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pangzhu.data.findings import visible
from pangzhu.messages import say
from pangzhu.serve.faults import ApiError, refusal

OPEN_ROUTES = ("/", "/health")
MOST_HEAD = 16_384  # bytes
MOST_BODY = 1_000_000
RECEIVE_SECONDS = 15.0
READER_SECONDS = 30.0
REQUEST_SECONDS = 600.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Rules:
    """What the guard goes by.

    Args:
        hosts: names by which the server may be called, without port.
        api_key: None for none.
        most_body: bytes of a request's body.
        receive_seconds: within which a body has come.
        reader_seconds: within which a piece of an answer is taken.
        request_seconds: within which a request has ended.
    """

    hosts: frozenset[str]
    api_key: str | None = None
    most_body: int = MOST_BODY
    receive_seconds: float = RECEIVE_SECONDS
    reader_seconds: float = READER_SECONDS
    request_seconds: float = REQUEST_SECONDS


class SlowReaderError(Exception):
    """An answer is not taken."""


class Guard:
    """The layer.

    Args:
        app: what is guarded.
        rules: of the guard.
        seen: gets method, path, status and seconds of each request; a line of the log says no more.
    """

    def __init__(self, app: ASGIApp, rules: Rules, seen: Callable[[str, str, int, float], None]) -> None:
        self._app = app
        self._rules = rules
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server for each request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outlet = _Outlet(send, self._rules.reader_seconds)
        started = time.monotonic()
        try:
            self._let_in(scope)
            inlet = _Inlet(receive, await _body(receive, Headers(scope=scope), self._rules))
            async with asyncio.timeout(self._rules.request_seconds):
                await self._app(scope, inlet.receive, outlet.send)
        except ApiError as fault:
            await outlet.refuse(fault, scope)
        except TimeoutError:
            await outlet.refuse(refusal(504, "serve.refusal.too_long", code="timeout"), scope)
        except SlowReaderError:
            say("serve.slow_reader", path=visible(scope["path"]))
        finally:
            self._seen(scope["method"], scope["path"], outlet.status, time.monotonic() - started)

    def _let_in(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD:
            raise refusal(431, "serve.refusal.head_too_large", code="head_too_large", most=MOST_HEAD)
        if not _is_ours(headers.get("host", ""), self._rules.hosts):
            raise refusal(421, "serve.refusal.host", code="wrong_host")
        self._check_origin(headers, posts=scope["method"] not in ("GET", "HEAD"))
        if self._rules.api_key and scope["path"] not in OPEN_ROUTES:
            _check_key(headers.get("authorization", ""), self._rules.api_key)
        if (
            scope["method"] == "POST"
            and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json"
        ):
            raise refusal(415, "serve.refusal.not_json", code="unsupported_media_type")

    def _check_origin(self, headers: Headers, *, posts: bool) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        own = origin is None or _is_own_origin(origin, headers["host"])
        if not own or (posts and site in ("cross-site", "same-site")):
            raise refusal(403, "serve.refusal.origin", code="wrong_origin")


class _Inlet:
    """Gives a body that is here, then what the client does next: it leaves."""

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._body: bytes | None = body

    async def receive(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Outlet:
    """Sends with the headers that every answer has, and gives up on who does not take it."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self.status = 499  # the client left before there was one

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *ours]}
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowReaderError from None

    async def refuse(self, fault: ApiError, scope: Scope) -> None:
        """Answer with a fault, if nothing was answered yet."""
        if self.status == 499:
            response = JSONResponse(fault.body, fault.status, dict(fault.headers))
            await response(scope, _nothing, self.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _body(receive: Receive, headers: Headers, rules: Rules) -> bytes:
    """The whole body.

    Raises:
        ApiError: too large, or too slow.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > rules.most_body:
        raise refusal(413, "serve.refusal.too_large", code="body_too_large", most=rules.most_body)
    body = bytearray()
    try:
        async with asyncio.timeout(rules.receive_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise refusal(400, "serve.refusal.cut_off", code="cut_off")
                body += message.get("body", b"")
                if len(body) > rules.most_body:
                    raise refusal(413, "serve.refusal.too_large", code="body_too_large", most=rules.most_body)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise refusal(408, "serve.refusal.too_slow", code="timeout") from None


def _is_ours(host: str, hosts: Iterable[str]) -> bool:
    """Whether a Host header names this server; its port may be another's that was forwarded."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and name in hosts


def _is_own_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _check_key(given: str, key: str) -> None:
    scheme, _, token = given.partition(" ")
    if not secrets.compare_digest(token.strip().encode(), key.encode()) or scheme.lower() != "bearer":
        raise refusal(401, "serve.refusal.key", code="invalid_api_key")
