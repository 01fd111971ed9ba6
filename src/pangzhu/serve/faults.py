"""Faults in OpenAI's words: a status, and `{"error": {"message", "type", "param", "code"}}`.

Every sentence comes from the catalogue, in the server's language. What is not the client's fault says nothing of this machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pangzhu.errors import PangzhuError, UsageError
from pangzhu.messages import text

INVALID = "invalid_request_error"
SERVER = "server_error"
UNFIT = {  # code and field by the key of what an engine says
    "error.chat.too_long": ("context_length_exceeded", "messages"),
    "error.engine.bad_schema": ("invalid_schema", "response_format"),
    "error.engine.no_schema": ("unsupported", "response_format"),
    "error.template.refused": ("invalid_value", "messages"),
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass  # not frozen: Python writes the traceback into it
class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: for a reader.
        code: for a program, `model_not_found`.
        param: the field concerned.
        headers: of the response.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """As JSON."""
        kind = TYPES.get(self.status, INVALID if self.status < 500 else SERVER)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal(status: int, key: str, *, code: str, param: str | None = None, **values: object) -> ApiError:
    """A fault by its key; `code` is for programs."""
    return ApiError(status, text(key, **values), code, param)


def busy(seconds: int) -> ApiError:
    """No place left; the client is told when to come back."""
    message = text("serve.refusal.busy", seconds=seconds)
    return ApiError(429, message, "queue_full", headers={"Retry-After": str(seconds)})


def is_unfit(fault: PangzhuError) -> bool:
    """Whether an engine's fault is the request's own."""
    return isinstance(fault, UsageError) or fault.key in UNFIT


def unfit(fault: PangzhuError) -> ApiError:
    """A request that is well formed and cannot be answered."""
    code, param = UNFIT.get(fault.key, ("invalid_value", None))
    return ApiError(400, f"{fault.what} {fault.fix}", code, param)
