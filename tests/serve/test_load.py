"""Fifty clients at once, some of which leave: nobody gets another's answer, nobody is refused but by 429, nothing is left over."""

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import psutil
import pytest

from tests.serve.conftest import Running, wait_until
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS

pytest_plugins = ["tests.use_fixtures"]

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.untraced]

NUM_CLIENTS = 50
SECONDS = 2.5
TORTURE_SECONDS = 180.0
MOST_GROWTH = 30_000_000  # bytes, over all that came after the first third
TAUGHT = {"english": ENGLISH, "chinese": CHINESE}


class Client:
    """One that asks, now and then leaves in the middle, and looks at what it got.

    Args:
        server: whom it asks.
        seed: of what it does.
    """

    def __init__(self, server: Running, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self._server = server
        self._random = random.Random(seed)

    def run(self, until: float) -> Counter[str]:
        """Ask until then."""
        while time.monotonic() < until:
            self.seen[self._leave() if self._random.random() < 0.3 else self._ask()] += 1
        return self.seen

    def _ask(self) -> str:
        name, number = self._random.choice(list(TAUGHT)), self._random.randrange(len(QUESTIONS))
        stream = self._random.random() < 0.5
        reply = self._server.chat(name, QUESTIONS[number], stream=stream)
        if reply.status == 429:
            assert int(reply.headers["retry-after"]) >= 1
            time.sleep(0.05)
            return "refused"
        assert reply.status == 200, reply.body
        text = reply.text if stream else reply.json["choices"][0]["message"]["content"]
        assert text == TAUGHT[name][number]
        return "answered"

    def _leave(self) -> str:
        name = self._random.choice(list(TAUGHT))
        body = {"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "stream": True}
        connection = self._server.connection()
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            time.sleep(self._random.random() * 0.05)
        except (HTTPException, OSError):
            return "cut off"
        finally:
            connection.close()
        return "left"


@pytest.mark.early
def test_fifty_clients_that_come_and_go(server: Running, pytestconfig: pytest.Config) -> None:
    seconds = TORTURE_SECONDS if pytestconfig.getoption("--torture") else SECONDS
    ended, memory = threading.Event(), list[int]()

    def watch() -> None:
        while not ended.wait(seconds / 100):
            assert server.ask("GET", "/health").status == 200
            memory.append(psutil.Process().memory_info().rss)

    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        watching = pool.submit(watch)
        until = time.monotonic() + seconds
        clients = [pool.submit(Client(server, seed).run, until) for seed in range(NUM_CLIENTS)]
        seen = sum((client.result() for client in clients), Counter[str]())
        ended.set()
        watching.result()
    assert seen["answered"] > NUM_CLIENTS / 5
    assert seen["refused"] > 0
    assert seen["left"] > 0
    wait_until(lambda: server.metric("pangzhu_answers_at_work") == 0, "all places are free")
    assert server.metric("pangzhu_answers_waiting") == 0
    assert all(server.answer(name, QUESTIONS[0]) == answers[0] for name, answers in TAUGHT.items())
    assert max(memory[len(memory) // 3 :]) - memory[len(memory) // 3] < MOST_GROWTH


def test_health_answers_while_others_wait(server: Running) -> None:
    """What it takes is measured in benchmarks; here it is that it does not wait for the engine."""
    with ThreadPoolExecutor(8) as pool:
        long = [pool.submit(server.chat, "english", "x", max_tokens=400) for _ in range(8)]
        assert server.ask("GET", "/health").status == 200
        assert not all(answer.done() for answer in long)
        assert all(answer.result().status == 200 for answer in long)
