"""`python -m benchmarks.serve_speed`: what the server costs, against its engine alone; four clients against one.

One process holds one engine. By turns the same questions, differently numbered so that none is known already, are put to the
engine itself and, over HTTP as a stream, to the server around it: seconds to the first piece, and tokens a second after it.
Then one client asks all questions one after another, and four clients share them. `/health` is asked all the while. Quoted are
medians of pairs.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median, quantiles

from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Turn
from pangzhu.engines import Engine
from pangzhu.engines.choice import load_engine
from pangzhu.examples import example
from pangzhu.export.kept import KeptGguf
from pangzhu.serve.models import Models
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.run import build_server, open_port

NUM_CLIENTS = 4
PAUSE = 0.05  # seconds between two looks at /health
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer."""

    first: float
    rest: float
    num_tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second behind the first."""
        return (self.num_tokens - 1) / self.rest


def main() -> None:
    """Measure and print one JSON object."""
    given = _arguments()
    questions = [row.prompt[-1].content for row in load_dataset(example("law_data.json")).conversations][
        : given.questions
    ]
    config = ServeConfig.model_validate(
        {"model_name_or_path": given.model, "adapter": tuple(given.adapter), "engine": given.engine, "port": 0}
    )
    with served(config) as (engine, port):
        name = engine.first_name
        alone = lambda question: ask_engine(engine, name, question, given.tokens)  # noqa: E731
        over_http = lambda question: ask_server(port, name, question, given.tokens)  # noqa: E731
        for ask in (alone, over_http):
            ask(questions[0])
        pairs = [(alone(f"1. {question}"), over_http(f"2. {question}")) for question in questions]
        with health(port) as waits:
            rates = [throughput(over_http, questions, clients) for clients in (1, NUM_CLIENTS) * given.rounds]
    print(json.dumps(figures(pairs, rates, waits), indent=2))


def figures(pairs: Sequence[tuple[Timed, Timed]], rates: Sequence[float], waits: Sequence[float]) -> dict[str, float]:
    """Ratios of server to engine, of four clients to one, and the 95th percentile of the health route in milliseconds."""
    return {
        "first_piece_ratio": round(median(http.first / engine.first for engine, http in pairs), 3),
        "rate_ratio": round(median(http.rate / engine.rate for engine, http in pairs), 3),
        "engine_tokens_per_second": round(median(engine.rate for engine, _ in pairs), 1),
        "four_clients_to_one": round(median(b / a for a, b in zip(rates[::2], rates[1::2], strict=True)), 3),
        "health_p95_ms": round(1000 * quantiles(waits, n=20)[-1], 1),
    }


@contextmanager
def served(config: ServeConfig) -> Iterator[tuple[Engine, int]]:
    """An engine and a server around it, on a free port."""
    converter = KeptGguf()

    def load(chosen: ChatConfig) -> Engine:
        return load_engine(chosen, converter)

    with closing(open_port(config)) as port, closing(Models(config, load)) as models, ThreadPoolExecutor(16) as threads:
        server = build_server(config, models, threads)
        running = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        running.start()
        while not server.started:
            time.sleep(0.01)
        try:
            with models.asked() as engine:
                yield engine, port.getsockname()[1]
        finally:
            server.should_exit = True
            running.join()


def ask_engine(engine: Engine, name: str, question: str, num_tokens: int) -> Timed:
    """One answer of the engine itself."""
    arrivals: list[float] = []
    started = time.perf_counter()
    prompt = engine.prompt([Turn("user", question)], name)
    options = GenerationOptions(max_new_tokens=num_tokens)
    answer = engine.generate(prompt, name, options, write=lambda _piece: arrivals.append(time.perf_counter()))
    return Timed(arrivals[0] - started, arrivals[-1] - arrivals[0], len(answer.token_ids))


def ask_server(port: int, name: str, question: str, num_tokens: int) -> Timed:
    """One streamed answer of the server."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": num_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    arrivals: list[float] = []
    num = 0
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), JSON)
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                arrivals.append(time.perf_counter())
            num = event.get("usage", {}).get("completion_tokens", num)
    return Timed(arrivals[0] - started, arrivals[-1] - arrivals[0], num)


def throughput(ask: Callable[[str], Timed], questions: Sequence[str], num_clients: int) -> float:
    """Tokens a second of all clients together."""
    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as clients:
        tokens = sum(answer.num_tokens for answer in clients.map(ask, questions))
    return tokens / (time.perf_counter() - started)


@contextmanager
def health(port: int) -> Iterator[list[float]]:
    """Asks `/health` all the while; gives the seconds it took each time."""
    waits: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PAUSE):
            started = time.perf_counter()
            with closing(HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/health")
                connection.getresponse().read()
            waits.append(time.perf_counter() - started)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield waits
    finally:
        ended.set()
        watching.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--adapter", action="append", default=[], help="DIR or NAME=DIR")
    parser.add_argument("--engine", default="llamacpp", choices=("llamacpp", "transformers"))
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="of one client, then four")
    return parser.parse_args()


if __name__ == "__main__":
    main()
