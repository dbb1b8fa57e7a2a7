"""Pure: which prompt is known, and the request with its compact form instead; `template_files` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pool_monitor.grading.calls import Left
from pool_monitor.grading.jsons import holds
from pool_monitor.grading.shapes import Shape

_ROLES = ("system", "developer", "user")
MOST_PARTS = 10_000
MOST_TEXT = 1_000_000
"""Messages with their parts, and characters: more are not looked through, which would hold everybody up."""
_ESCAPED = b"\\u00"
"""JSON may write any letter so."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt that is known. original -- its text. compact -- what stands in its place. shape -- of its answers."""

    name: str
    original: str
    compact: str
    shape: Shape
    pattern: re.Pattern[str] = field(repr=False, compare=False)
    anchor: str = field(repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Of its two texts: another version of them has other answers."""
        return sha256(f"{self.original}\0{self.compact}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Recognised:
    """A request whose prompt is known, and its content with the compact prompt instead."""

    template: Template
    body: Mapping[str, Any]


# -- recognising

AS_ASKED = "as-asked"


def words_pattern(original: str) -> re.Pattern[str]:
    """Finds a text whatever white space its words have between them, where it does not go on on the same line."""
    words = r"\s+".join(map(re.escape, original.split()))
    return re.compile(rf"(?<!\S){words}(?=[^\w\s]*(?:\s|$))")


def may_hold(content: bytes, templates: Sequence[Template]) -> bool:
    """Whether a request's content is worth decoding: False where no template can be in it."""
    return any(holds(content, template.anchor.encode()) for template in templates) or (
        bool(templates) and holds(content, _ESCAPED)
    )


def recognise(body: Mapping[str, Any], templates: Sequence[Template]) -> Recognised | Left:
    """The request in its compact form, or why it is left as it is."""
    messages = body.get("messages")
    if not isinstance(messages, list) or _parts_in(messages) > MOST_PARTS:
        return Left.UNRECOGNISED
    texts = list(_texts_of(messages))
    if sum(len(text) for *_, text in texts) > MOST_TEXT:
        return Left.UNRECOGNISED
    found = list(_occurrences(texts, templates))
    if not found:
        return Left.UNRECOGNISED
    if len(found) > 1:
        return Left.SEVERAL_PROMPTS
    reason = _reason_to_leave(body, messages)
    if reason is not None:
        return reason
    template, at, part, span = found[0]
    message = _with_text(messages[at], part, span, template.compact)
    changed = [*messages[:at], message, *messages[at + 1 :]]
    return Recognised(template, {name: changed if name == "messages" else value for name, value in body.items()})


def _parts_in(messages: list[Any]) -> int:
    """How many messages and parts of them there are; of more messages than may be, only these."""
    contents = [one.get("content") for one in messages[:MOST_PARTS] if isinstance(one, dict)]
    return len(messages) + sum(len(content) for content in contents if isinstance(content, list))


_Text = tuple[int, int | None, str]
"""Of which message, and which part of it."""
_Place = tuple[Template, int, int | None, tuple[int, int]]


def _texts_of(messages: list[Any]) -> Iterator[_Text]:
    for at, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") in _ROLES:
            for part, text in _texts(message.get("content")):
                yield at, part, text


def _occurrences(texts: list[_Text], templates: Sequence[Template]) -> Iterator[_Place]:
    for at, part, text in texts:
        for template in templates:
            if template.anchor in text:
                for match in template.pattern.finditer(text):
                    yield template, at, part, match.span()


def _texts(content: object) -> Iterator[tuple[int | None, str]]:
    if isinstance(content, str):
        yield None, content
    elif isinstance(content, list):
        for index, part in enumerate(content):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                yield index, part["text"]


def with_detail(body: Mapping[str, Any], detail: str) -> Mapping[str, Any]:
    """The request with this `detail` for all of its images, or as it was for `AS_ASKED`."""
    if detail == AS_ASKED:
        return body

    def part_with(part: Any) -> Any:
        given = part.get("image_url") if isinstance(part, dict) else None
        return {**part, "image_url": {**given, "detail": detail}} if isinstance(given, dict) else part

    def message_with(message: Any) -> Any:
        parts = message.get("content") if isinstance(message, dict) else None
        return {**message, "content": [*map(part_with, parts)]} if isinstance(parts, list) else message

    return {name: [*map(message_with, value)] if name == "messages" else value for name, value in body.items()}


def _with_text(message: Mapping[str, Any], part: int | None, span: tuple[int, int], compact: str) -> dict[str, Any]:
    def put(text: str) -> str:
        return text[: span[0]] + compact + text[span[1] :]

    content = message["content"]
    if part is None:
        return {**message, "content": put(content)}
    changed = {**content[part], "text": put(content[part]["text"])}
    return {**message, "content": [*content[:part], changed, *content[part + 1 :]]}


def _reason_to_leave(body: Mapping[str, Any], messages: list[Any]) -> Left | None:
    form = body.get("response_format")
    if form is not None and not (isinstance(form, dict) and form.get("type") in ("text", "json_object")):
        return Left.STRUCTURED_OUTPUT
    if body.get("store") or body.get("web_search_options") is not None:
        return Left.SIDE_EFFECTS
    if not isinstance(body.get("stream"), bool | None):
        return Left.ODD_STREAM
    if body.get("n") not in (None, 1):
        return Left.SEVERAL_CHOICES
    if any(body.get(name) for name in ("tools", "functions", "tool_choice", "function_call")):
        return Left.TOOLS
    if any(not isinstance(message, dict) or message.get("role") not in _ROLES for message in messages):
        return Left.CONVERSATION
    if any(body.get(name) for name in ("logprobs", "top_logprobs", "logit_bias", "stop", "prediction")):
        return Left.SAMPLING
    if body.get("audio") or body.get("modalities") not in (None, ["text"]):
        return Left.NOT_TEXT
    return None
