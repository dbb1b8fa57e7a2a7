"""Pure: the full answer in what a model said, as a document; to compare, not to pass on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from pool_monitor.grading.answers import NotCertain, decoded
from pool_monitor.grading.expanding import expand
from pool_monitor.grading.templates import Template


class Form(StrEnum):
    """Which prompt is asked."""

    ORIGINAL = "original"
    COMPACT = "compact"


Read = Callable[[Template, Form, str], Mapping[str, Any] | None]
"""The full answer in what a model said to that prompt; None where it is not certain."""


def read_answer(template: Template, form: Form, text: str) -> Mapping[str, Any] | None:
    """As the caller would have got it: the compact form expanded, the original one however faithful it is."""
    try:
        if form is Form.COMPACT:
            text = expand(template.shape, text).content
        document = decoded(text[text.find("{") : text.rfind("}") + 1])
    except (NotCertain, ValueError, RecursionError):
        return None
    questions = document.get(template.shape.rows.name) if isinstance(document, dict) else None
    return document if isinstance(questions, list) else None
