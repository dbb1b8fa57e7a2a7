"""Spans of what is asked of the grading upstream, where traces are on: how much was asked and said, never what."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from config.tracing import METHODS, here
from pool_monitor.grading.accounting import Usage
from pool_monitor.grading.bookkeeping import stated_in
from pool_monitor.grading.calls import Fields
from pool_monitor.grading.decoding import MOST_AT_ONCE_BYTES, Decoding, Seen
from pool_monitor.grading.observed import Found

if TYPE_CHECKING:
    from config.otel import Trace

CHAT = "/chat/completions"
MAX_MODEL = 100
MOST_HEARD_BYTES = 256 * 1024
"""Of an answer, what is looked at for the usage that it states."""
MAX_ASKED_BYTES = 256 * 1024
"""Of a request that is forwarded, to see which model it asks for."""


class AskingSpan:
    """A request to the grading upstream, told as a span.

    chat -- it is a chat completion, whose answer is listened to for the usage that it states.
    """

    def __init__(self, trace: Trace, *, chat: bool) -> None:
        self._trace = trace
        self._listens = chat and trace.sampled
        self._heard: Seen | None = None
        self._status = 0

    def carried(self, fields: Fields) -> Fields:
        """A request's fields, with this span as the parent of what the upstream does."""
        gone = {"traceparent"} if self._trace.continued else {"traceparent", "tracestate"}
        kept = tuple(pair for pair in fields if pair[0].lower() not in gone)
        return (*kept, ("traceparent", self._trace.traceparent))

    def begins(self, status: int, fields: Fields) -> None:
        """The head of the answer is there."""
        self._status = status
        self._trace.note({"http.response.status_code": status})
        if self._listens:
            self._heard = Seen(MOST_HEARD_BYTES, fields)

    def hears(self, piece: bytes) -> None:
        """A piece of its content."""
        if self._heard is not None:
            self._heard.add(piece)

    def end(self, error: str | None) -> None:
        """It is over. error -- how it failed, where it did."""
        if error is not None and self._status >= 400:
            error = str(self._status)
        model, usage, _ = stated_in(_said(self._heard), "") if self._heard is not None else ("", None, "")
        counted = Usage.of(usage)
        about: dict[str, str | int | None] = {"gen_ai.response.model": model[:MAX_MODEL] or None}
        if counted is not None:
            about |= {"gen_ai.usage.input_tokens": counted.input, "gen_ai.usage.output_tokens": counted.output}
        self._trace.end(about, error=error)


def asking_of(base: str, model: str, template: str | None = None) -> AskingSpan | None:
    """A chat completion that is now asked of the upstream at `base`; None where nobody traces it."""
    trace = here()
    if trace is None:
        return None
    model = model[:MAX_MODEL]
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model or None,
        "siding.template": template,
        "siding.found": Found.ASKED.value,
        **_place(base),
    }
    return AskingSpan(trace.child(f"chat {model}".strip(), about), chat=True)


def forwarding_of(base: str, method: str, path: str, content: object) -> AskingSpan | None:
    """What is now forwarded; None where nobody traces it. path -- below `base`, with its query."""
    trace = here()
    if trace is None:
        return None
    plain = path.partition("?")[0]
    if method == "POST" and plain == CHAT:
        small = isinstance(content, bytes) and len(content) <= MAX_ASKED_BYTES and trace.sampled
        return asking_of(base, _model_in(content) if small and isinstance(content, bytes) else "")
    known = method in METHODS
    about = {"http.request.method": method if known else "_OTHER", "url.full": f"{_origin(base)}{plain}"}
    return AskingSpan(trace.child(method if known else "HTTP", {**about, **_place(base)}), chat=False)


def _said(heard: Seen) -> bytes:
    """What was heard, decoded; nothing where it cannot be read, or would take long."""
    try:
        return Decoding(heard.coding, MOST_AT_ONCE_BYTES).feed(heard.content)
    except ValueError:
        return b""


def _model_in(content: bytes) -> str:
    try:
        model = orjson.loads(content)["model"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return model if isinstance(model, str) else ""


def _origin(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place(base: str) -> dict[str, str | int | None]:
    parts = urlsplit(base)
    return {
        "server.address": parts.hostname,
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
