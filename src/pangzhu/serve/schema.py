"""What may be asked: OpenAI's requests, as far as they are served. Unknown fields are ignored, known ones that are not served
are refused by name where they would change the answer."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Schema

MOST_MESSAGES = 200
MOST_STOPS = 4
MOST_COMPARED = 8
DEFAULT_TOKENS = 512

STRICT = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
MOST_SCHEMA = 20_000  # characters

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]

NOT_SERVED: dict[str, tuple[object, ...]] = {  # and the values that ask for nothing
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}


class NotServedError(ValueError):
    """A field that asks for something that is not served.

    Args:
        name: of the field.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TextPart(BaseModel):
    """A piece of a message; text alone is read."""

    model_config = STRICT

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]

    @property
    def turn(self) -> Turn:
        """As every stage below knows it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Turn("system" if self.role == "developer" else self.role, content)


class SchemaFormat(BaseModel):
    """A schema and its name, which tells nothing here."""

    model_config = STRICT

    name: str = ""
    content: dict[str, Any] = Field(alias="schema")


class AnswerFormat(BaseModel):
    """The form of an answer: text, a JSON object, or JSON that fits a schema."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema")
        try:
            num_characters = len(json.dumps(self.json_schema.content)) if self.json_schema else 0
        except RecursionError as deep:
            raise ValueError("json_schema") from deep
        if num_characters > MOST_SCHEMA:
            raise ValueError(f"more than {MOST_SCHEMA} characters")
        return self

    @property
    def schema_to_fit(self) -> Schema | None:
        """For the engine."""
        if self.json_schema is not None:
            return self.json_schema.content
        return {"type": "object"} if self.type == "json_object" else None


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = STRICT

    include_usage: bool = False


class Drawing(BaseModel):
    """How an answer is drawn, greedily unless a temperature is given, and where it ends."""

    model_config = STRICT

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_served(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name, idle in NOT_SERVED.items():
                if not any(given.get(name) == value for value in idle):
                    raise NotServedError(name)
        return given

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def options(self) -> GenerationOptions:
        """For the engine; at temperature 0 nothing is drawn, and what would choose among tokens has no effect."""
        drawing = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k or 0),
            "min_p": self.min_p,
            "draw_seed": None if self.seed is None else self.seed % 2**31,
        }
        given = {**(drawing if self.temperature else {}), "repetition_penalty": self.repetition_penalty}
        kept = {name: value for name, value in given.items() if value is not None}
        return GenerationOptions.model_validate({"max_new_tokens": self.num_tokens or DEFAULT_TOKENS, **kept})

    @property
    def num_tokens(self) -> int | None:
        """Most tokens of the answer; None where that is left to us."""
        return self.max_tokens


class Conversational(Drawing):
    """A conversation to be answered."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: AnswerFormat | None = None

    @property
    def schema_to_fit(self) -> Schema | None:
        """Of the answer; None for text."""
        return self.response_format.schema_to_fit if self.response_format else None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation."""
        return tuple(message.turn for message in self.messages)

    @property
    def num_tokens(self) -> int | None:
        """Most tokens of the answer, by its newer name or its older one; None where that is left to us."""
        return self.max_completion_tokens or self.max_tokens


class ChatRequest(Conversational):
    """`POST /v1/chat/completions`."""

    model: Name


class CompareRequest(Conversational):
    """`POST /v1/compare`: the same conversation for several models."""

    models: Annotated[
        list[Name], Field(min_length=1, max_length=MOST_COMPARED, json_schema_extra={"uniqueItems": True})
    ]

    @model_validator(mode="after")
    def _refuse_one_twice(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError("models")
        return self


class CompletionRequest(Drawing):
    """`POST /v1/completions`: a text to be continued, with no template around it."""

    model: Name
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    @property
    def text(self) -> str:
        """What is continued."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
