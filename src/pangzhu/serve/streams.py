"""From an answer's pieces to what goes over the wire: in the order of the line, with pings where nothing comes for long, and
ended where the client leaves."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pangzhu.serve.answers import Ended, Event
from pangzhu.serve.faults import ApiError
from pangzhu.serve.line import Line
from pangzhu.serve.replies import DONE, PING, Reply, event

PING_SECONDS = 10.0

T = TypeVar("T")


class EventStream(StreamingResponse):
    """A response of server-sent events, which ends what it was told by whatever ends it.

    Args:
        first: the first event, under way.
        told: those after it.
    """

    def __init__(self, first: "asyncio.Future[str]", told: AsyncGenerator[str]) -> None:
        self._first, self._told = first, told
        self._sent = _with_pings(first, told)
        super().__init__(self._sent, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server. A reader that takes nothing leaves the events where they are, or never begun: nobody else would
        close them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._sent.aclose()
            await _close(self._first, self._told)


async def streamed(request: Request, line: Line, told: AsyncGenerator[str]) -> EventStream:
    """A response of server-sent events. A fault before the first of them is raised, so that it has a status of its own;
    who leaves before it leaves the line too.

    Raises:
        ApiError: the line is full, or there is no such answer.
    """
    told = _in_place(line, told)
    first = asyncio.ensure_future(anext(told))
    try:
        await unless_left(request, asyncio.wait({first}, timeout=PING_SECONDS))
        if first.done():
            first.result()
    except BaseException:
        await _close(first, told)
        raise
    return EventStream(first, told)


async def told(events: AsyncGenerator[Event], reply: Reply, *, with_usage: bool) -> AsyncGenerator[str]:
    """An answer as server-sent events, the first of which has the first piece."""
    begin = reply.begin()
    async with aclosing(events):
        async for piece in events:
            yield begin + (reply.end(piece, with_usage=with_usage) if isinstance(piece, Ended) else reply.piece(piece))
            begin = ""


async def merged(sources: Sequence[AsyncGenerator[str]]) -> AsyncGenerator[str]:
    """The events of several answers as they come."""
    arrived: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    async def drain(source: AsyncGenerator[str]) -> None:
        try:
            async with aclosing(source):
                async for piece in source:
                    arrived.put_nowait(piece)
        except ApiError as fault:
            arrived.put_nowait(fault)
        finally:
            arrived.put_nowait(None)

    draining = [asyncio.create_task(drain(source)) for source in sources]
    num_open = len(draining)
    try:
        while num_open:
            piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                num_open -= 1
            else:
                yield piece
        await asyncio.gather(*draining)  # what else one of them raised
    finally:
        for task in draining:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*draining, return_exceptions=True)


async def unless_left(request: Request, work: Awaitable[T]) -> T | None:
    """What comes of the work; None where the client left before, and the work with it."""
    working, leaving = asyncio.ensure_future(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _in_place(line: Line, told: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with line.place(), aclosing(told):
        async for piece in told:
            yield piece


async def _with_pings(first: "asyncio.Future[str]", told: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events, a comment where none came for long, and the mark of the end; a fault on the way is an event too."""
    pending = first
    try:
        while True:
            await asyncio.wait({pending}, timeout=PING_SECONDS)
            if not pending.done():
                yield PING
                continue
            yield pending.result()
            pending = asyncio.ensure_future(anext(told))
    except StopAsyncIteration:
        yield DONE
    except ApiError as fault:
        yield event(fault.body)
    finally:
        await _close(pending, told)


async def _close(pending: "asyncio.Future[str]", told: AsyncGenerator[str]) -> None:
    """End what is under way; whoever waits for the place gets it only then."""
    pending.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.gather(pending, return_exceptions=True)
        await told.aclose()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
