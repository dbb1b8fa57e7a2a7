"""Labelled homework in a folder: read and checked as a whole before anything is asked.

Each DIR/*.json is one homework:

{"image": "page1.png", "prompt_before": "", "prompt_after": "Grade 5",
 "questions": [{"question_number": 1, "grade": "CORRECT", "points_earned": 1.0, "student_answer": "x = 4"}]}

image -- a file beside it, or a list of them. Of a question, only its number and its grade must be there; its
`question_text` helps to find it again, and `sub_parts` are questions of their own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagesize

from config.words import counted, did_you_mean, quoted
from pool_monitor.grading.quality import QualityFields, questions_of

MOST_FAULTS = 50
MOST_IMAGE_BYTES = 20 * 1024 * 1024
_KEYS = ("image", "prompt_before", "prompt_after", "questions")
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


class DatasetError(Exception):
    """A dataset that cannot be used. Its text lists every fault."""

    def __init__(self, folder: Path, faults: Sequence[str]) -> None:
        told = list(faults[:MOST_FAULTS])
        if len(faults) > MOST_FAULTS:
            told.append(f"and {len(faults) - MOST_FAULTS} more")
        super().__init__("\n  ".join([f"{folder}: {counted(len(faults), 'fault')}:", *told]))


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of homework. width, height -- pixels."""

    path: Path
    width: int
    height: int

    def url(self) -> str:
        """As a data URL; reads the file."""
        kind = _TYPES[self.path.suffix.lower().removeprefix(".")]
        return f"data:{kind};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True, slots=True)
class Homework:
    """What is asked, and what is true. questions -- the labels, in the form of a full answer's questions."""

    name: str
    images: tuple[Image, ...]
    before: str
    after: str
    questions: tuple[Mapping[str, Any], ...]

    def count(self, named: QualityFields) -> int:
        """How many questions there are to grade."""
        return len(questions_of(self.questions, named))


def load_dataset(folder: Path, named: QualityFields, grades: Collection[str]) -> list[Homework]:
    """Every homework of a folder, by name. Raises DatasetError."""
    if not folder.is_dir():
        raise DatasetError(folder, ["it is no folder"])
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    if not files:
        raise DatasetError(folder, ["there is no *.json in it: one for each homework"])
    homeworks, faults = [], []
    for file in files:
        homework, found = _read(file, named, grades)
        faults += [f"{file.name}: {fault}" for fault in found]
        if homework is not None:
            homeworks.append(homework)
    if faults:
        raise DatasetError(folder, faults)
    return homeworks


def _read(file: Path, named: QualityFields, grades: Collection[str]) -> tuple[Homework | None, list[str]]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as fault:
        return None, [f"it cannot be read: {fault.strerror or fault}"]
    except UnicodeDecodeError:
        return None, ["it is not JSON: it is not UTF-8 text"]
    except (ValueError, RecursionError) as fault:
        return None, [f"it is not JSON: {fault}"]
    if not isinstance(document, dict):
        return None, ["it is no JSON object"]
    faults = [f"{name}: this key is not known{did_you_mean(name, _KEYS)}" for name in document.keys() - set(_KEYS)]
    texts = []
    for name in ("prompt_before", "prompt_after"):
        text = document.get(name, "")
        texts.append(text)
        if not isinstance(text, str):
            faults.append(f"{name}: it is {quoted(text)}; allowed: a text")
    images, wrong = _images(file.parent, document.get("image"))
    faults += wrong
    questions = document.get("questions")
    if not isinstance(questions, list) or not questions:
        return None, [*faults, "questions: it must be a list of at least one question"]
    faults += _label_faults(questions, "questions", named, grades)
    if faults:
        return None, sorted(faults)
    return Homework(file.stem, tuple(images), texts[0], texts[1], tuple(questions)), []


def _images(folder: Path, given: object) -> tuple[list[Image], list[str]]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        return [], ["image: it must be the name of a file beside it, or a list of such names"]
    images, faults = [], []
    for name in names:
        try:
            images.append(_image(folder, name))
        except ValueError as fault:
            faults.append(f"image {quoted(name)}: {fault}")
        except OSError as fault:
            faults.append(f"image {quoted(name)}: it cannot be read: {fault.strerror or fault}")
    return images, faults


def _image(folder: Path, name: str) -> Image:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError("it is not in the folder")
    if path.suffix.lower().removeprefix(".") not in _TYPES:
        raise ValueError(f"allowed: {', '.join(_TYPES)}")
    size = path.stat().st_size
    if size > MOST_IMAGE_BYTES:
        raise ValueError(f"it has {size} bytes; allowed: at most {MOST_IMAGE_BYTES}")
    width, height = imagesize.get(str(path))
    if width <= 0 or height <= 0:
        raise ValueError("it is no picture, as far as can be seen")
    return Image(path, int(width), int(height))


def _label_faults(labels: Sequence[object], where: str, named: QualityFields, grades: Collection[str]) -> Iterator[str]:
    for place, label in enumerate(labels):
        here = f"{where}[{place}]"
        if not isinstance(label, dict):
            yield f"{here}: it is no JSON object"
            continue
        number, grade, points = label.get(named.number), label.get(named.grade), label.get(named.points, 0.0)
        if isinstance(number, bool) or not isinstance(number, int | str) or number == "":
            yield f"{here}.{named.number}: it is {quoted(number)}; allowed: a number, or a text such as 1a"
        parts = label.get(named.parts, [])
        if not isinstance(parts, list):
            yield f"{here}.{named.parts}: it is {quoted(parts)}; allowed: a list of questions"
        elif parts:
            yield from _label_faults(parts, f"{here}.{named.parts}", named, grades)
            continue
        if grade not in grades:
            yield f"{here}.{named.grade}: it is {quoted(grade)}; allowed: {', '.join(grades)}"
        if isinstance(points, bool) or not isinstance(points, int | float):
            yield f"{here}.{named.points}: it is {quoted(points)}; allowed: a number"
        if not isinstance(label.get(named.answer, ""), str):
            yield f"{here}.{named.answer}: it is {quoted(label[named.answer])}; allowed: a text"
