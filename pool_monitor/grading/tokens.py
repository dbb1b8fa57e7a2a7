"""Tokens counted with the vendor's vocabulary, which comes in a wheel; to be called beside the event loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import toktok

from pool_monitor.grading import images
from pool_monitor.grading.models import Model

PER_MESSAGE = 3
PER_NAME = 1
PER_ANSWER = 3
"""Beside their text: https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken"""
DEFAULT_ENCODING = "o200k_base"


def count(text: str, model: Model | None) -> int:
    """Tokens of a text; with the vocabulary of newer models where the model is not known."""
    encoding = model.encoding if model is not None else DEFAULT_ENCODING
    # JSON may hold halves of surrogate pairs, which have no octets
    [tokens] = toktok.batch_count([text.encode("utf-8", "replace").decode()], encoding=encoding, threads=1)
    return int(tokens)


def warm() -> None:
    """Load the vocabulary, which takes a fifth of a second."""
    count("", None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Input tokens of a request. unknown_images -- those whose tokens cannot be told, and are in none of the counts."""

    text: int
    image: int
    unknown_images: int

    @property
    def input(self) -> int:
        return self.text + self.image


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a request. size -- in pixels; None where it cannot be told."""

    size: images.Size | None
    detail: str


def images_in(body: Mapping[str, Any]) -> Iterator[Image]:
    """The images of a request's messages."""
    for message in _messages(body):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            given = part.get("image_url") if isinstance(part, dict) else None
            if isinstance(given, dict) and isinstance(given.get("url"), str):
                yield Image(images.size_of(given["url"]), str(given.get("detail") or "auto"))


def estimate(body: Mapping[str, Any], model: Model | None) -> Estimate:
    """Input tokens of a chat completion's request."""
    text = PER_ANSWER
    for message in _messages(body):
        text += PER_MESSAGE + count(str(message.get("role", "")), model)
        text += sum(count(each, model) for each in _texts(message))
        name = message.get("name")
        text += PER_NAME + count(name, model) if isinstance(name, str) else 0
    found = list(images_in(body))
    counted = [images.tokens_of(one.size, one.detail, model) if model is not None else None for one in found]
    known = [tokens for tokens in counted if tokens is not None]
    return Estimate(text, sum(known), len(found) - len(known))


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    return [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]
