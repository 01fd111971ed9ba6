"""Bounds: places, the line before them, clients that leave, models that change under those at work, the end."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pangzhu.config import ChatConfig
from pangzhu.engines import Engine
from pangzhu.errors import ModelError
from pangzhu.messages import listening
from pangzhu.serve import run, streams
from pangzhu.serve.options import ServeConfig
from tests.serve.conftest import Scripted, ScriptedEngine, running, wait_until

pytest_plugins = ["tests.use_fixtures"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places and a line of one."""
    monkeypatch.setattr(run, "NUM_AT_ONCE", 2)
    monkeypatch.setattr(run, "NUM_WAITING", 1)


@pytest.mark.usefixtures("narrow")
def test_who_finds_the_line_full_is_told_when_to_come_back(scripted: Callable[..., Scripted]) -> None:
    script = scripted()
    script.engine.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        let_in = [pool.submit(script.server.chat, "base", "x", stream=number == 1) for number in range(2)]
        wait_until(lambda: script.engine.at_work == 2, "two are at work")
        let_in.append(pool.submit(script.server.chat, "base", "x"))
        wait_until(lambda: script.server.metric("pangzhu_answers_waiting") == 1, "one waits")
        refused = [script.server.chat("base", "x", stream=stream) for stream in (False, True)]
        script.engine.gate.set()
        assert [reply.result().status for reply in let_in] == [200, 200, 200]
    for reply in refused:
        assert (reply.status, reply.json["error"]["type"]) == (429, "rate_limit_error")
        assert int(reply.headers["retry-after"]) >= 1
    assert script.server.chat("base", "x").status == 200


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_gives_its_place_back(scripted: Callable[..., Scripted], *, stream: bool) -> None:
    script = scripted(["word "] * 10_000)
    script.engine.context_length = 20_000
    for _ in range(5):
        body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 10_000, "stream": stream}
        script.engine.gate.clear()
        connection = script.server.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        wait_until(lambda: script.engine.at_work == 1, "the engine is at work")
        connection.close()
        script.engine.gate.set()
        wait_until(lambda: script.engine.at_work == 0, "the engine stops")
    wait_until(lambda: script.server.metric("pangzhu_answers_at_work") == 0, "all places are free")
    assert script.server.chat("base", "x", max_tokens=3).status == 200


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/compare"])
def test_a_client_that_leaves_the_line_makes_room_in_it(scripted: Callable[..., Scripted], route: str) -> None:
    script = scripted()
    script.engine.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(script.server.chat, "base", "x") for _ in range(2)]
        wait_until(lambda: script.engine.at_work == 2, "two are at work")
        body = {"messages": [{"role": "user", "content": "x"}], "model": "base", "models": ["base"], "stream": True}
        with closing(script.server.connection()) as connection:
            connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
            wait_until(lambda: script.server.metric("pangzhu_answers_waiting") == 1, "one waits")
        started = time.monotonic()
        wait_until(lambda: script.server.metric("pangzhu_answers_waiting") == 0, "nobody waits")
        assert time.monotonic() - started < streams.PING_SECONDS / 2
        answers.append(pool.submit(script.server.chat, "base", "x"))
        wait_until(lambda: script.server.metric("pangzhu_answers_waiting") == 1, "another waits")
        script.engine.gate.set()
        assert [reply.result().status for reply in answers] == [200, 200, 200]


@pytest.mark.usefixtures("narrow")
def test_a_client_that_leaves_a_comparison_ends_all_its_answers(
    scripted: Callable[..., Scripted], trained: object
) -> None:
    script = scripted(["word "] * 100_000, adapter=(f"a={trained.english}", f"b={trained.chinese}"))  # type: ignore[attr-defined]
    script.engine.context_length = 200_000
    script.engine.gate.wait = lambda timeout=None: bool(time.sleep(0.001))  # type: ignore[method-assign]  # 100 s in all
    body = {"models": ["base", "a", "b"], "messages": [{"role": "user", "content": "x"}], "max_tokens": 100_000}
    connection = script.server.connection()
    connection.request("POST", "/v1/compare", json.dumps(body), {"Content-Type": "application/json"})
    connection.getresponse().read(100)
    connection.close()
    wait_until(lambda: script.engine.at_work == 0, "the engine stops")
    wait_until(lambda: script.server.metric("pangzhu_answers_at_work") == 0, "the place is free")


def test_a_long_silence_is_filled_with_comments(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.05)
    script = scripted()
    script.engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(script.server.chat, "base", "x", stream=True)
        wait_until(lambda: script.engine.at_work == 1, "the engine is at work")
        threading.Event().wait(0.3)
        script.engine.gate.set()
        reply = waiting.result()
    assert reply.body.startswith(b": ping\n\n: ping\n\n")
    assert reply.text == "one two three"


def test_a_fault_on_the_way_is_an_event_of_the_stream(scripted: Callable[..., Scripted]) -> None:
    script = scripted()
    write = ScriptedEngine.generate

    def breaks(*given: object, **named: object) -> object:
        write(*given, **named)  # type: ignore[arg-type]
        raise RuntimeError("the engine's own fault")

    script.engine.generate = breaks.__get__(script.engine)  # type: ignore[method-assign, attr-defined]
    reply = script.server.chat("base", "x", stream=True)
    last = reply.body.decode().strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "own fault" not in reply.body.decode()
    whole = script.server.chat("base", "x")
    assert (whole.status, whole.json["error"]["type"]) == (500, "server_error")


def test_a_panic_of_a_library_is_told_at_once(scripted: Callable[..., Scripted]) -> None:
    """The tokenizers library's panics are no `Exception`."""

    class PanicError(BaseException):
        pass

    def panics(*_given: object) -> list[int]:
        raise PanicError

    script = scripted()
    script.engine.prompt = panics  # type: ignore[method-assign]
    reply = script.server.chat("base", "x")
    assert (reply.status, reply.json["error"]["code"]) == (500, "engine_failed")


def test_an_answer_that_fails_is_told_even_where_the_log_cannot_be_written() -> None:
    """The log's other end may have been closed."""
    broken = threading.Event()

    def listener(_sentence: str) -> None:
        if broken.is_set() and threading.current_thread().name.startswith("ThreadPool"):
            raise BrokenPipeError

    with running(ScriptedEngine, listener) as server:  # type: ignore[arg-type, return-value]
        engine = server.models.known.engine  # type: ignore[union-attr]
        engine.prompt = lambda *_given: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        broken.set()
        assert server.chat("base", "x").status == 500


def test_a_template_that_refuses_the_order_of_roles_refuses_the_request(scripted: Callable[..., Scripted]) -> None:
    def refuses(*_given: object) -> list[int]:
        raise ModelError("error.template.refused", reason="roles must alternate")

    script = scripted()
    script.engine.prompt = refuses  # type: ignore[method-assign]
    reply = script.server.chat("base", "x")
    assert (reply.status, reply.json["error"]["param"]) == (400, "messages")
    assert "roles must alternate" in reply.json["error"]["message"]


def test_models_change_only_when_those_at_work_have_finished(
    scripted: Callable[..., Scripted], adapters: Path, trained: object
) -> None:
    import shutil

    script = scripted(adapters=adapters)
    first = script.engine
    first.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(script.server.chat, "base", "x")
        wait_until(lambda: first.at_work == 1, "the first is at work")
        shutil.copytree(trained.english, adapters / "english", ignore=shutil.ignore_patterns("run"))  # type: ignore[attr-defined]
        late = pool.submit(script.server.chat, "english", "x")
        wait_until(lambda: not script.server.models.ready, "models are changing")
        assert script.server.ask("GET", "/ready").status == 503
        assert script.server.ask("GET", "/health").status == 200
        assert (first.closed, len(script.engines)) == (False, 1)
        first.gate.set()
        assert [reply.result().status for reply in (early, late)] == [200, 200]
    assert first.closed
    assert script.engine.names == ("base", "english")
    assert script.server.ask("GET", "/ready").status == 200


def test_a_port_that_is_taken_is_known_before_models_are_loaded() -> None:
    from pangzhu.errors import UsageError

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        with pytest.raises(UsageError) as refused:
            run.serve(ServeConfig(port=taken.getsockname()[1]), lambda _config: pytest.fail("models were loaded"))
        assert refused.value.key == "error.serve.no_port"


def test_memory_does_not_grow_with_paths_that_are_no_routes(scripted: Callable[..., Scripted]) -> None:
    server = scripted().server
    for number in range(20):
        assert server.ask("GET", f"/nothing/{number}").status == 404
    told = server.ask("GET", "/metrics").body.decode()
    assert 'pangzhu_requests_total{route="other",status="404"} 20.0' in told
    assert "/nothing" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_with_its_models_unloaded(number: signal.Signals) -> None:
    engines: list[ScriptedEngine] = []
    said: list[str] = []

    def load(config: ChatConfig) -> Engine:
        engines.append(ScriptedEngine(config))
        return engines[-1]  # type: ignore[return-value]

    def hear(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("Open at"):
            threading.Timer(1.0, signal.raise_signal, [number]).start()

    before = signal.getsignal(signal.SIGTERM)
    with listening(hear):
        run.serve(ServeConfig(port=0), load)
    assert said[-1] == "Stopped."
    assert engines[0].closed
    assert signal.getsignal(signal.SIGTERM) == before
