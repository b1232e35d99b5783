"""What the body of a request may say, in OpenAI's words and ours."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from fa_lightning.steering.serving.refusals import RequestError

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
"""Fields of OpenAI's that say nothing about the answer."""
IDLE: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
    "reasoning_effort": ("none",),
}
"""Fields that have to say nothing, beside null, since there is no such thing here."""


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(BaseModel):
    """What both kinds of request may say; `strength`, `dose` and `interventions` are ours."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    strength: float | list[float] | None = None
    dose: float | list[float] | None = None
    interventions: str | list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @property
    def names(self) -> list[str] | None:
        """Of the interventions; None leaves them to the model's name."""
        return [self.interventions] if isinstance(self.interventions, str) else self.interventions

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """A part of a message; there are no other kinds than texts here."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def words(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatAsked(Asked):
    """A request to `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionAsked(Asked):
    """A request to `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None


def read_body(kind: type[ChatAsked] | type[CompletionAsked], body: bytes) -> Any:
    """A request's body.

    Raises:
        RequestError: it is no JSON, or a field is unknown, missing or not what it must be; the field is named.
    """
    try:
        fields = from_json(body)
    except ValueError as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RequestError(400, 'the body must be a JSON object, such as {"model": ...}')
    for name, values in IDLE.items():
        value = fields.pop(name, None)
        if value is not None and value not in values:
            raise RequestError(400, f"{name} is not offered here: leave it out", name, "unsupported_parameter")
    for name in IGNORED:
        fields.pop(name, None)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _told(kind, error) from error


def _told(kind: type[BaseModel], error: ValidationError) -> RequestError:
    """The first thing that is wrong, in words."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0]) if problem["loc"] else None
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        close = difflib.get_close_matches(place, list(kind.model_fields), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return RequestError(400, f"there is no field {place!r}{hint}", field, "unknown_parameter")
    if problem["type"] == "missing":
        return RequestError(400, f"{place} is missing", field, "missing_required_parameter")
    return RequestError(400, f"{place}: {problem['msg']}", field)
