"""A server in a thread of this process, on a port of its own, and what asks it."""

import contextvars
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, EndAnswerError, Engine, Schema, Write
from pangzhu.engines.choice import load_engine
from pangzhu.export.kept import KeptGguf
from pangzhu.messages import listening
from pangzhu.serve.models import Models
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.run import build_server, open_port
from tests.conftest import silently
from tests.use_helpers import Trained

KEY = "a key of enough letters"
SECONDS = 10.0


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that is to come soon."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, without the mark of the end."""
        data = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(line) for line in data[:-1]]

    @property
    def text(self) -> str:
        """Of a streamed chat."""
        return "".join(choice["delta"].get("content") or "" for event in self.events for choice in event["choices"])


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    port: int
    models: Models
    headers: Mapping[str, str]
    engine: str

    def connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """One request on a connection of its own."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(self.connection()) as connection:
            content = None if body is None else json.dumps(body).encode()
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, content, {**self.headers, **kind, **given})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def chat(self, model: str, question: str, **options: object) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 24, **options}
        return self.ask("POST", "/v1/chat/completions", body)

    def answer(self, model: str, question: str, **options: object) -> str:
        """The text of an answer."""
        reply = self.chat(model, question, **options)
        assert reply.status == 200, reply.body
        return str(reply.json["choices"][0]["message"]["content"])

    def metric(self, name: str) -> float:
        """The value of one line of `/metrics`."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))


@contextmanager
def running(
    load: Callable[[ChatConfig], Engine], listener: Callable[[str], None] = silently, **options: Any
) -> Iterator[Running]:
    """A server as `pangzhu serve` starts it; `listener` gets what it says."""
    config = ServeConfig.model_validate({"port": 0, **options})
    with ExitStack() as stack:
        stack.enter_context(listening(listener))
        port = stack.enter_context(closing(open_port(config)))
        models = stack.enter_context(closing(Models(config, load)))
        threads = stack.enter_context(ThreadPoolExecutor(32))
        server = build_server(config, models, threads)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(server.run, [port]))
        thread.start()
        try:
            wait_until(lambda: server.started, "the server starts")
            headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
            yield Running(port.getsockname()[1], models, headers, config.engine)
        finally:
            server.should_exit = True
            thread.join()


class ScriptedEngine:
    """An engine that says what it is told to, when it is let.

    Args:
        pieces: of every answer.
    """

    base_name, first_name, context_length = "a base", "base", 64
    conditions: Mapping[str, Any] = {}

    def __init__(self, config: ChatConfig, pieces: Sequence[str] = ("one ", "two ", "three")) -> None:
        self.names = ("base", *(given.partition("=")[0] for given in config.adapter))
        self.pieces = list(pieces)
        self.gate = threading.Event()
        self.gate.set()
        self.at_work = 0
        self.closed = False
        self.asked: list[GenerationOptions] = []

    def prompt(self, turns: Sequence[Turn], name: str) -> list[int]:
        return list(range(sum(len(turn.content.split()) for turn in turns)))

    def plain_ids(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def generate(
        self,
        prompt: Sequence[int],
        name: str,
        options: GenerationOptions,
        *,
        write: Write | None = None,
        schema: Schema | None = None,
    ) -> Answer:
        assert write is not None
        self.asked.append(options)
        self.at_work += 1
        written: list[str] = []
        try:
            for piece in self.pieces[: options.max_new_tokens]:
                self.gate.wait()
                written.append(piece)
                write(piece)
        except EndAnswerError:
            return Answer("".join(written), tuple(range(len(written))), ended=True)
        finally:
            self.at_work -= 1
        return Answer("".join(written), tuple(range(len(written))), ended=len(written) == len(self.pieces))

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Scripted:
    """A server whose engine is a script."""

    server: Running
    engines: list[ScriptedEngine]

    @property
    def engine(self) -> ScriptedEngine:
        """The one that answers now."""
        return self.engines[-1]


@contextmanager
def scripts() -> Iterator[Callable[..., Scripted]]:
    """Inside, starts servers whose engine is a script."""
    with ExitStack() as stack:

        def start(pieces: Sequence[str] = ("one ", "two ", "three"), **options: Any) -> Scripted:
            engines: list[ScriptedEngine] = []

            def load(config: ChatConfig) -> Engine:
                engines.append(ScriptedEngine(config, pieces))
                return engines[-1]  # type: ignore[return-value]

            server = stack.enter_context(running(load, **options))
            stack.callback(lambda: [engine.gate.set() for engine in engines])
            return Scripted(server, engines)

        yield start


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Starts a server whose engine is a script; stopped after the test."""
    with scripts() as start:
        yield start


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """An empty folder for adapters."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def server(
    request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server of the tiny base and two adapters in one folder, on each engine."""
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")
    folder = tmp_path_factory.mktemp("served")
    for adapter in (trained.english, trained.chinese):
        shutil.copytree(adapter, folder / adapter.name, ignore=shutil.ignore_patterns("run"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PANGZHU_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setattr("pangzhu.machine.num_physical_cores", lambda: 1)
        options = {"adapters": folder, "model_name_or_path": str(trained.base), "engine": request.param}
        with running(lambda config: load_engine(config, KeptGguf()), **options) as started:
            yield started
