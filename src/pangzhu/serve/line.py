"""Places for answers, and a short line before them. Who finds the line full is refused, and told when to come back."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pangzhu.serve.faults import busy

FIRST_GUESS = 5.0  # seconds an answer takes, as long as none has been seen
LATEST = 0.2  # what the latest answer counts for in the mean


class Line:
    """Gives out places in the order in which they are asked for.

    Args:
        num_at_once: answers that are written side by side.
        num_waiting: how many may wait for a place.
    """

    def __init__(self, num_at_once: int, num_waiting: int) -> None:
        self._free = asyncio.Semaphore(num_at_once)
        self._num_at_once = num_at_once
        self._num_waiting = num_waiting
        self._mean_seconds = FIRST_GUESS
        self.at_work = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for one answer.

        Raises:
            ApiError: the line is full (429).
        """
        if self._free.locked() and self.waiting >= self._num_waiting:
            raise busy(self.seconds_until_free())
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.at_work += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += LATEST * (time.monotonic() - started - self._mean_seconds)
            self.at_work -= 1
            self._free.release()

    def seconds_until_free(self) -> int:
        """When somebody who comes back will likely find a place in the line."""
        return max(1, math.ceil(self._mean_seconds / self._num_at_once))
