"""Open the port and serve until asked to stop."""

import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import psutil
import uvicorn

from pangzhu.adapter import read_manifest
from pangzhu.config import ChatConfig
from pangzhu.data import load_dataset
from pangzhu.data.findings import visible
from pangzhu.engines import Engine
from pangzhu.engines.llamacpp import NUM_AT_ONCE
from pangzhu.errors import UsageError
from pangzhu.examples import example
from pangzhu.messages import say
from pangzhu.questions import TAUGHT
from pangzhu.serve.app import Service, build_app
from pangzhu.serve.guard import LOOPBACK, MOST_HEAD, Guard, Rules
from pangzhu.serve.line import Line
from pangzhu.serve.metrics import Metrics
from pangzhu.serve.models import Models
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.protocol import BoundedProtocol
from pangzhu.storage import sha256_of

NUM_WAITING = 8
NUM_THREADS = 64
EXAMPLES_OF_A_KIND = 6
STOP_SECONDS = 10
LAW_DATA, LAW_QUESTIONS = "law_data.json", "law_eval.json"


def serve(config: ServeConfig, load: Callable[[ChatConfig], Engine]) -> None:
    """Load the models, open the port, answer until interrupted or told to stop.

    Args:
        config: models and port.
        load: loads an engine.

    Raises:
        PangzhuError: models that cannot be used, or a port that cannot be had.
    """
    with closing(open_port(config)) as port, closing(Models(config, load)) as models:
        examples = find_examples(config, models)
        host, number = port.getsockname()[:2]
        say("serve.open", address=f"http://{f'[{host}]' if ':' in host else host}:{number}")
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            server = build_server(config, models, threads, examples)
            with _stopped_by_signals():
                server.run(sockets=[port])
        say("serve.closed")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end the block and no more: uvicorn closes its connections and then sends itself the signal
    again, which would end the process before models are unloaded."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build_server(
    config: ServeConfig, models: Models, threads: ThreadPoolExecutor, examples: Sequence[dict[str, str]] = ()
) -> uvicorn.Server:
    """The server, guarded, not yet running; also for a loop of one's own."""
    line = Line(NUM_AT_ONCE, NUM_WAITING)
    metrics = Metrics(line)

    def seen(method: str, path: str, status: int, seconds: float) -> None:
        metrics.request(path, status)
        say("serve.request", method=method, path=visible(path, limit=80), status=status, seconds=seconds)

    app = build_app(Service(models, line, metrics, threads, examples))
    guarded = Guard(app, Rules(frozenset(own_names(config)), config.api_key), seen)
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MOST_HEAD,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


def open_port(config: ServeConfig) -> socket.socket:
    """The port, bound before models are loaded: one that is taken is known at once.

    Raises:
        UsageError: it is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except (OSError, UnicodeError) as refused:
        where = f"--host {config.host} --port {config.port}"
        raise UsageError("error.serve.no_port", where=where, reason=str(refused)) from refused


def own_names(config: ServeConfig) -> set[str]:
    """Names and addresses by which the server may be called."""
    names = {*LOOPBACK, config.host, *config.allowed_host}
    if not config.is_private:
        addresses = (address.address for of in psutil.net_if_addrs().values() for address in of)
        names |= {socket.gethostname(), *(address.partition("%")[0] for address in addresses)}
    return {name.lower() for name in names}


def find_examples(config: ServeConfig, models: Models) -> list[dict[str, str]]:
    """Questions for the page: of the file that was named, else the law example's where an adapter was trained on its data."""
    files = [config.examples_path] if config.examples_path else []
    if not files and _knows_the_law(models):
        files = [example(LAW_DATA), example(LAW_QUESTIONS)]
    rows = [row for file in files for row in load_dataset(file, require_answer=False).conversations]
    by_kind: dict[str, list[str]] = {}
    for row in rows:
        if row.field("choices") or row.field("format"):  # made for a measure, not for a reader
            continue
        by_kind.setdefault(row.field("kind") or TAUGHT, []).append(row.prompt[-1].content)
    return [
        {"text": text, "kind": kind}
        for kind, texts in by_kind.items()
        for text in texts[:: max(1, len(texts) // EXAMPLES_OF_A_KIND)][:EXAMPLES_OF_A_KIND]
    ]


def _knows_the_law(models: Models) -> bool:
    law = sha256_of(example(LAW_DATA))
    folders = (lying.folder for lying in models.known.adapters.values()) if models.known else ()
    return any(read_manifest(folder).data_sha256 == law for folder in folders)
