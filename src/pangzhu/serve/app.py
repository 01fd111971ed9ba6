"""The routes: OpenAI's, `/v1/compare`, the page, and what watches over a server asks for."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from pangzhu import __version__
from pangzhu.engines.named_models import BASE
from pangzhu.serve import documented
from pangzhu.serve.answers import Ended, Event, Prompt, Wanted, answered
from pangzhu.serve.documented import answers, document, faults
from pangzhu.serve.faults import ApiError, refusal
from pangzhu.serve.line import Line
from pangzhu.serve.metrics import Metrics
from pangzhu.serve.models import Models
from pangzhu.serve.page import page, policy
from pangzhu.serve.replies import Reply
from pangzhu.serve.schema import ChatRequest, CompareRequest, CompletionRequest, Conversational, Drawing, NotServedError
from pangzhu.serve.streams import merged, streamed, told, unless_left

NO_MODEL = {404: "There is no such model."}
NOT_YET = {"model": documented.State, "description": "Models are changing."}
BY_STATUS = {
    400: ("serve.refusal.invalid_request", "invalid_request"),
    404: ("serve.refusal.no_route", "no_such_route"),
    405: ("serve.refusal.method", "wrong_method"),
}
CLIENT_LEFT = 499  # nobody reads it; nginx's number for the log
Question = dict[str, str]


@dataclass(frozen=True)
class Service:
    """What the routes work with.

    Args:
        models: who answers.
        line: places for answers.
        metrics: what is counted.
        threads: engines write in.
        examples: questions the page has at hand, `text` and `kind`.
    """

    models: Models
    line: Line
    metrics: Metrics
    threads: Executor
    examples: Sequence[Question] = ()


def build_app(service: Service) -> FastAPI:
    """The application, without the guard around it."""
    app = FastAPI(
        title="Pangzhu",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.service = service
    _handle_faults(app)
    _add_answers(app, service)
    _add_models(app, service)
    _add_rest(app, service)
    document(app)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=None, responses=answers(documented.ChatCompletion))
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await _answer(service, _conversation(asked, asked.model), asked, Reply(asked.model), request)

    @app.post("/v1/completions", response_model=None, responses=answers(documented.Completion))
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        wanted = _wanted(asked, asked.model, lambda engine: engine.plain_ids(asked.text))
        return await _answer(service, wanted, asked, Reply(asked.model, chat=False), request)

    @app.post("/v1/compare", response_model=None, responses=answers(None))
    async def compare(asked: CompareRequest, request: Request) -> Response:
        """Answer one conversation with several models, in one stream of events that tell whose they are."""
        wanted = (_conversation(asked, name) for name in asked.models)
        streams = [told(_counted(service, each), Reply(each.name), with_usage=True) for each in wanted]
        return await streamed(request, service.line, merged(streams))


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=documented.Models, responses=faults())
    async def models() -> dict[str, object]:
        """The base and every adapter."""
        names = await asyncio.to_thread(service.models.names)
        return {"object": "list", "data": [_model(service, name) for name in names]}

    @app.get("/v1/models/{name}", response_model=documented.Model, responses=faults(also=NO_MODEL))
    async def model(name: str) -> dict[str, object]:
        """One of them."""
        if name not in await asyncio.to_thread(service.models.names):
            raise refusal(404, "serve.refusal.no_such_model", code="model_not_found", param="model", name=name)
        return _model(service, name)

    @app.get("/v1/examples", response_model=documented.Questions, responses=faults())
    async def examples() -> dict[str, object]:
        """Questions that the page has at hand."""
        return {"questions": list(service.examples)}


def _add_rest(app: FastAPI, service: Service) -> None:
    @app.get("/", response_class=HTMLResponse, responses=faults())
    async def index() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page(), headers={"content-security-policy": policy()})

    @app.get("/health", response_model=documented.State, responses=faults())
    async def health() -> dict[str, str]:
        """The server lives."""
        return {"status": "ok"}

    @app.get("/ready", response_model=documented.State, responses={503: NOT_YET, **faults()})
    async def ready() -> JSONResponse:
        """Whether models are loaded; 503 while they change."""
        state = service.models.ready
        return JSONResponse({"status": "ready" if state else "loading"}, 200 if state else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=faults())
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _conversation(asked: Conversational, name: str) -> Wanted:
    return replace(_wanted(asked, name, lambda engine: engine.prompt(asked.turns, name)), schema=asked.schema_to_fit)


def _wanted(asked: Drawing, name: str, prompt: Prompt) -> Wanted:
    return Wanted(name, prompt, asked.options(), asked.stops, fits_itself=asked.num_tokens is None)


def _model(service: Service, name: str) -> dict[str, object]:
    known = service.models.known
    return {
        "id": name,
        "object": "model",
        "created": known.since if known else 0,
        "owned_by": "pangzhu",
        "root": known.engine.base_name if known else "",
        "parent": None if name == BASE else BASE,
    }


async def _answer(service: Service, wanted: Wanted, asked: Drawing, reply: Reply, request: Request) -> Response:
    """One answer, whole or as a stream."""
    events = _counted(service, wanted)
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await streamed(request, service.line, told(events, reply, with_usage=with_usage))
    collected = await unless_left(request, _collected(service.line, events))
    return JSONResponse(reply.whole(*collected)) if collected else Response(status_code=CLIENT_LEFT)


async def _counted(service: Service, wanted: Wanted) -> AsyncGenerator[Event]:
    """An answer's pieces, its tokens and times counted."""
    started = time.monotonic()
    first: float | None = None
    async with aclosing(answered(service.models, wanted, service.threads)) as pieces:
        async for piece in pieces:
            passed = time.monotonic() - started
            first = passed if first is None else first
            if isinstance(piece, Ended):
                service.metrics.answer(wanted.name, piece, first=first, whole=passed)
            yield piece


async def _collected(line: Line, events: AsyncGenerator[Event]) -> tuple[str, Ended]:
    pieces: list[str] = []
    async with line.place(), aclosing(events):
        async for piece in events:
            if isinstance(piece, Ended):
                return "".join(pieces), piece
            pieces.append(piece)
    raise refusal(500, "serve.refusal.failed", code="engine_failed")


def _handle_faults(app: FastAPI) -> None:
    """Every fault in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def known(_: Request, fault: ApiError) -> JSONResponse:
        return JSONResponse(fault.body, fault.status, dict(fault.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> JSONResponse:
        first = fault.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, NotServedError):
            refused = refusal(400, "serve.refusal.not_served", code="unsupported", param=cause.name, name=cause.name)
            return await known(request, refused)
        where = ".".join(str(part) for part in first["loc"] if part != "body") or None
        refused = refusal(
            400, "serve.refusal.invalid", code="invalid_value", param=where, where=where or "body", reason=first["msg"]
        )
        return await known(request, refused)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, _: Exception) -> JSONResponse:
        """Starlette raises it again for the log."""
        return await known(request, refusal(500, "serve.refusal.failed", code="engine_failed"))

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, fault: HTTPException) -> JSONResponse:
        key, code = BY_STATUS.get(fault.status_code, BY_STATUS[400])
        return await known(request, refusal(fault.status_code, key, code=code))
