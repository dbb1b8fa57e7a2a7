"""What the grading simulator makes of a request in place of a model: what is asked, and what is said to it."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import toktok

from deploy.grading_sheets import NAMED, Question, Sheet, drawn, in_full, in_rows, printed

FULL_PROMPT = re.compile(r"Grade\s+this\s+completed\s+homework\.\s+Return\s+ONLY\s+valid\s+JSON")
ROWS_PROMPT = re.compile(r'"q"\s*:\s*\[\[')
_SHEET = re.compile(r"\bsheet: ([a-z-]+)")
PAGE_TOKENS = 25_501
"""Of an image of a page at high detail, whatever it shows."""


class Form(StrEnum):
    """What a request wants."""

    FULL = "original"
    ROWS = "compact"
    TALK = "other"


class Way(StrEnum):
    """How a completion is answered."""

    OK = "ok"
    TOO_MANY = "429"
    QUOTA = "quota"
    ERROR = "500"
    UNAVAILABLE = "503"
    SLOW = "slow"
    HANG = "hang"
    RESET = "reset"
    CUT = "cut"
    CUT_JSON = "cut-json"
    FENCED = "fenced"
    CHATTY = "chatty"
    WRONG = "wrong"
    ARITY = "arity"
    GRADE = "grade"
    GARBAGE = "garbage"
    EMPTY = "empty"
    MISSING_ROWS = "missing-rows"
    REFUSAL = "refusal"
    FILTER = "content-filter"
    STREAM_ERROR = "stream-error"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def tokens(text: str) -> int:
    [count] = toktok.batch_count([text], encoding="o200k_base", threads=1)
    return int(count)


# -- reading a request


@dataclass(frozen=True, slots=True)
class Asked:
    """What stands in a chat completion's request."""

    body: Mapping[str, Any]
    texts: str
    images: tuple[str, ...]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Asked:
        texts, images = [], []
        for message in body["messages"]:
            content = message["content"]
            parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                elif part["type"] == "image_url":
                    images.append(part["image_url"]["url"])
        return cls(body, "\n".join(texts), tuple(images))

    @property
    def form(self) -> Form:
        if ROWS_PROMPT.search(self.texts):
            return Form.ROWS
        return Form.FULL if FULL_PROMPT.search(self.texts) else Form.TALK

    @property
    def sheet(self) -> Sheet:
        """The same for the same image, whatever the prompt."""
        named = _SHEET.search(self.texts)
        if named is not None and named[1] in NAMED:
            return NAMED[named[1]]
        return drawn(digest_of("".join(self.images).encode()))


def _disagreeing(sheet: Sheet, percent: float) -> Sheet:
    """The sheet graded otherwise here and there."""
    dice = random.Random(repr(sheet))  # noqa: S311 - repeatable on purpose

    def other(one: Question) -> Question:
        if dice.random() * 100 >= percent:
            return one
        if one.grade == "CORRECT":
            return replace(one, grade="INCORRECT", correct=f"not {one.student}")
        return replace(one, grade="CORRECT", correct=one.student)

    return replace(sheet, questions=tuple(map(other, sheet.questions)))


def text_of(asked: Asked, way: Way, disagree: float = 0.0) -> str:
    """What the model says."""
    form = asked.form
    if form is Form.TALK:
        return f"You said: {asked.texts[-200:]}"
    sheet = asked.sheet
    if form is Form.FULL or way is Way.WRONG:
        return _spoilt(printed(in_full(sheet), compact=False), way)
    rows = in_rows(_disagreeing(sheet, disagree) if disagree else sheet)
    match way:
        case Way.ARITY if rows["q"]:
            del rows["q"][-1][3]
        case Way.GRADE if rows["q"]:
            rows["q"][-1][5] = "Z"
        case Way.MISSING_ROWS if rows["q"]:
            del rows["q"][-1]
    return _spoilt(printed(rows, compact=True), way)


def _spoilt(text: str, way: Way) -> str:
    match way:
        case Way.FENCED:
            return f"```json\n{text}\n```"
        case Way.CHATTY:
            return f"Sure, here is the grading:\n\n{text}\n\nLet me know if you need anything else."
        case Way.CUT_JSON:
            return text[: len(text) * 2 // 3]
        case Way.GARBAGE:
            return "I looked at the homework; it seems fine overall."
        case Way.EMPTY:
            return ""
    return text


def cut_at(text: str, most: int | None) -> tuple[str, str]:
    """The text within so many tokens, and how it ended."""
    if most is None or tokens(text) <= most:
        return text, "stop"
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(text[:middle]) <= most else (low, middle - 1)
    return text[:low], "length"


def most_tokens(body: Mapping[str, Any]) -> int | None:
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    return int(most) if most is not None else None


def usage_of(asked: Asked, text: str) -> dict[str, Any]:
    given = tokens(asked.texts) + 3 * len(asked.body["messages"]) + 3 + PAGE_TOKENS * len(asked.images)
    said = tokens(text)
    return {
        "prompt_tokens": given,
        "completion_tokens": said,
        "total_tokens": given + said,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
