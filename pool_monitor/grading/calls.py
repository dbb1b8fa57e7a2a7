"""A chat completion as it is asked and answered, and why one is left as it is."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from pool_monitor.grading.jsons import encoded, rewritten

CHAT = "/v1/chat/completions"
JSON = "application/json"

Fields = tuple[tuple[str, str], ...]
"""Field lines in their order."""


def value_of(fields: Fields, name: str) -> str | None:
    """The first value of a field. name -- in lower case."""
    return next((value for given, value in fields if given.lower() == name), None)


def coding_of(fields: Fields) -> str:
    """The Content-Encoding; "" without one."""
    return value_of(fields, "content-encoding") or ""


def is_events(fields: Fields) -> bool:
    """Whether content is server-sent events."""
    return any(
        name.lower() == "content-type" and value.partition(";")[0].strip().lower() == "text/event-stream"
        for name, value in fields
    )


_WHO = ("authorization", "openai-organization", "openai-project", "api-key", "x-api-key")
"""Compatible APIs know a caller by other fields than OpenAI's. Cookies are set anew by what stands before them."""
_KEYS = frozenset({"authorization", "api-key", "x-api-key"})
KEY = "idempotency-key"
"""An upstream that knows it gives the answer to the first request with a key to the others that have it."""


class Lane(StrEnum):
    """Who waits for a turn: those who wait in person go before those who do not."""

    CALLER = "caller"
    BATCH = "batch"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Call:
    """A chat completion that is asked of the upstream.

    body -- the decoded JSON. content -- it as the caller wrote it; empty where it is of our own making.
    fields -- the request's own fields without hop-by-hop ones, Host, Content-Length, Content-Type and Accept-Encoding;
    Authorization is among them where the caller sent it.
    deadline -- monotonic seconds. template -- the name of the one whose prompt it has; only told.
    """

    body: Mapping[str, Any]
    fields: Fields
    deadline: float
    lane: Lane = Lane.CALLER
    template: str | None = None
    content: bytes = b""

    @property
    def octets(self) -> bytes:
        """The body as it is sent."""
        return self.content or encoded(self.body)

    @property
    def credential(self) -> str:
        """Who asks: the values of the fields that say so. Never to be logged or kept."""
        named = {name.lower(): value for name, value in self.fields}
        return "\n".join(named.get(name, "") for name in _WHO)

    def keyed(self, secret: bytes, *more: str) -> str:
        """The same for the same credential, and what else is given, which it does not give away."""
        text = "\n".join((self.credential, *more))
        return hmac.new(secret, text.encode("utf-8", "surrogateescape"), "sha256").hexdigest()

    @property
    def has_key(self) -> bool:
        """Whether a key comes with it, be it a wrong one."""
        return any(value for name, value in self.fields if name.lower() in _KEYS)

    @property
    def model(self) -> str:
        """The model that is asked for; "" where the body does not tell."""
        model = self.body.get("model")
        return model if isinstance(model, str) else ""

    def asking(self, body: Mapping[str, Any], content: bytes = b"") -> Call:
        """The same with another body."""
        return replace(self, body=body, content=content)

    def _changed_to(self, body: Mapping[str, Any]) -> Call:
        """With a body made of its own, of which stays as it came what is not changed."""
        return self.asking(body, rewritten(self.content, self.body, body) if self.content else b"")

    def asking_apart(self, body: Mapping[str, Any], what: str) -> Call:
        """The same with another body of its own: under the caller's Idempotency-Key stands the answer to the caller's
        own body, whenever that is asked; one is made of it for `what`."""
        fields = [(name, f"{value}-{what}" if name.lower() == KEY else value) for name, value in self.fields]
        return replace(self._changed_to(body), fields=tuple(fields))

    def asking_again(self, body: Mapping[str, Any]) -> Call:
        """The same with another body, whatever was answered before."""
        return replace(self._changed_to(body), fields=tuple(pair for pair in self.fields if pair[0].lower() != KEY))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. fields -- without hop-by-hop ones and Content-Length."""

    status: int
    fields: Fields
    content: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


Ask = Callable[[Call], Awaitable[Answer]]
"""Raises UpstreamFault where there is no answer. An answer with an error's status is an answer."""


class UpstreamFault(Exception):
    """There is no answer of the upstream's own, and this is ours, in the form OpenAI's errors have.

    kind -- OpenAI's `type`. retry_after -- seconds, whole ones are told.
    """

    def __init__(
        self, status: int, code: str, message: str, kind: str = "api_error", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.retry_after = retry_after

    @property
    def fields(self) -> Fields:
        """What goes with the answer."""
        told: list[tuple[str, str]] = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if self.retry_after is not None:
            told.append(("Retry-After", str(max(1, round(self.retry_after)))))
        return tuple(told)

    @property
    def document(self) -> dict[str, Any]:
        """As the vendor's SDKs read it."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}

    @property
    def answer(self) -> Answer:
        return Answer(self.status, self.fields, orjson.dumps(self.document))


class CallersFault(UpstreamFault):
    """The caller asks for what cannot be done: an invalid request in OpenAI's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message, "invalid_request_error")


class OwnFault(UpstreamFault):
    """What went wrong is of Siding's own."""

    def __init__(self) -> None:
        super().__init__(500, "internal_error", "a fault of Siding's own; its log has the details")


class Left(StrEnum):
    """Why a chat completion is forwarded as it came."""

    OFF = "off"
    UNRECOGNISED = "unrecognised"
    TEMPLATE_OFF = "template-off"
    NOT_JSON = "not-json"
    TOO_LARGE = "too-large"
    STRUCTURED_OUTPUT = "structured-output"
    SEVERAL_CHOICES = "several-choices"
    TOOLS = "tools"
    CONVERSATION = "conversation"
    SEVERAL_PROMPTS = "several-prompts"
    SAMPLING = "sampling"
    """logprobs, logit_bias, stop and prediction speak of the tokens or the text of the full answer"""
    NOT_TEXT = "not-text"
    """audio and other modalities"""
    SIDE_EFFECTS = "side-effects"
    """the vendor keeps what it says, or searches the web"""
    ODD_STREAM = "odd-stream"
    """`stream` is neither true nor false: what is made of it is the upstream's to say"""
    FIELDS = "fields"
    """beyond ASCII, which the vendor's SDK cannot send"""


class Expansion(StrEnum):
    """What became of a compact request's answer."""

    EXPANDED = "expanded"
    REPAIRED = "repaired"
    """fenced, chatty, or without its last brackets, but certain"""
    ALREADY_FULL = "already-full"
    ASKED_AGAIN = "asked-again"
    """with the original prompt, whose answer the caller got"""
    CUT = "cut"
    """at the caller's own max_tokens: what was complete is expanded, finish_reason stays `length`"""
    REFUSED = "refused"
    """the model refused, or a filter did: passed on as it is"""
    FAILED = "failed"
    """the upstream's own error, or none at all"""
