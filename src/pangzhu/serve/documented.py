"""What comes back, as `/openapi.json` tells it: OpenAI's objects, and the faults of every route."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

VALIDATION = "422"  # FastAPI's own; ours is 400
GUARDED = {  # by every route, before it is asked
    401: "No key, or a wrong one.",
    403: "A page of another site.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The server is not called so.",
    431: "The headers are too large.",
}
ASKED = {
    400: "It cannot be answered as it was asked.",
    404: "There is no such model.",
    409: "The model is here and cannot be used.",
    429: "All places are taken; Retry-After tells when to come back.",
    500: "The model failed.",
    503: "The server is stopping.",
    504: "It took too long.",
}


class Fault(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class FaultBody(BaseModel):
    """The body of every fault."""

    error: Fault


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Usage(BaseModel):
    """Tokens of prompt and answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Said(BaseModel):
    """An answer's text."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """The one answer."""

    index: Literal[0]
    message: Said
    logprobs: None
    finish_reason: Literal["stop", "length"]


class TextChoice(BaseModel):
    """The one continuation."""

    index: Literal[0]
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Completion(BaseModel):
    """A whole continuation."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Question(BaseModel):
    """A question that the page has at hand."""

    text: str
    kind: str


class Questions(BaseModel):
    """All of them."""

    questions: list[Question]


class State(BaseModel):
    """Of the server."""

    status: str


def faults(*, asked: bool = False, also: dict[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that are faults."""
    told = {**GUARDED, **(ASKED if asked else {}), **(also or {})}
    return {status: {"model": FaultBody, "description": meaning} for status, meaning in told.items()}


def answers(whole: type[BaseModel] | None) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that answers: whole or as a stream of events, or a fault."""
    stream = {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer."}
    return {200: stream | ({"model": whole} if whole else {}), **faults(asked=True)}


def document(app: FastAPI) -> None:
    """Let the schema tell what is really answered."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for path in found["paths"].values():
                for operation in path.values():
                    operation["responses"].pop(VALIDATION, None)
            for name in ("HTTPValidationError", "ValidationError"):
                found["components"]["schemas"].pop(name, None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]
