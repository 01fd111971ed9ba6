"""The server keeps what its own schema says: made-up requests, good and bad, on every route."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from pangzhu.config import ChatConfig
from pangzhu.engines import Engine
from tests.serve.conftest import Running, Scripted, ScriptedEngine, running

pytestmark = pytest.mark.untraced

pytest_plugins = ["tests.use_fixtures"]

load_all_checks()
# What fits the schema may still be refused: a model that is not here, an answer longer than its context.
KEPT = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]
CASES = 15  # of a route; `make torture` makes 2,000 in all
TORTURE_CASES = 300

ROUTES = [
    ("/", "get"), ("/health", "get"), ("/ready", "get"), ("/metrics", "get"), ("/v1/models", "get"), ("/v1/examples", "get"),
    ("/v1/models/{name}", "get"), ("/v1/compare", "post"), ("/v1/completions", "post"), ("/v1/chat/completions", "post"),
]  # fmt: skip


@pytest.fixture(scope="module")
def told() -> Iterator[Any]:
    """The schema of a server that runs, whose engine is a script."""

    def load(config: ChatConfig) -> Engine:
        engine = ScriptedEngine(config)
        engine.context_length = 1_000_000
        return engine  # type: ignore[return-value]

    with running(load) as server:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (*route, mode)
        for route in ROUTES
        for mode in GenerationMode
        if route[1] == "post" or mode == GenerationMode.POSITIVE
    ],
)
def test_no_made_up_request_breaks_the_schema(
    told: Any, path: str, method: str, mode: GenerationMode, pytestconfig: pytest.Config
) -> None:
    num = TORTURE_CASES if pytestconfig.getoption("--torture") else CASES

    @settings(max_examples=num, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=told[path][method].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=KEPT)

    holds()


def test_every_route_and_every_fault_stands_in_the_schema(scripted: Callable[..., Scripted]) -> None:
    server: Running = scripted().server
    found = server.ask("GET", "/openapi.json").json
    assert set(found["paths"]) == {
        "/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/{name}", "/v1/examples", "/v1/compare",
        "/v1/completions", "/v1/chat/completions",
    }  # fmt: skip
    chat = found["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "404", "429", "503"} <= set(chat)
    assert "422" not in chat
