"""uvicorn's HTTP, with three bounds it has not: on the time a request's head may take, on open connections, and on the time
that one which is to be closed waits for its reader."""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
CLOSE_SECONDS = 15.0
MOST_CONNECTIONS = 128


class BoundedProtocol(H11Protocol):
    """A connection that is closed if no head of a request has come in time, or if too many others are open."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._overdue: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._look(was_closing=False)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        if self._is_answering:
            self._expect_nothing()
        elif self._overdue is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._expect_nothing()
        if self._looking:
            self._looking.cancel()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self, *, was_closing: bool) -> None:
        """Cut off what was closing at the last look already: closing waits until all is taken, were it for ever."""
        is_closing = self.transport.is_closing()
        if was_closing and is_closing:
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(CLOSE_SECONDS, partial(self._look, was_closing=is_closing))

    def _expect_head(self) -> None:
        self._overdue = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _expect_nothing(self) -> None:
        if self._overdue:
            self._overdue.cancel()
        self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        if not self._is_answering:
            self.transport.close()
