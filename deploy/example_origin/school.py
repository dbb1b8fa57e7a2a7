"""What the example origin knows: homework by user, the reports made from it, and a worksheet it can grade.

No sockets, clocks or randomness in here: `now` is given, and a user's first homework follows from the name.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

MAX_USERS = 1000
MAX_HOMEWORK = 500
"""Per user. Beyond either limit the oldest is forgotten, so that memory does not grow with the requests."""

SUBJECTS = ("Mathematics", "Physics", "Chemistry", "Biology", "English", "History", "Geography", "Computer Science")
FIRST_DAY = date(2025, 9, 1)
FIRST_HOMEWORK = 12

Document = dict[str, Any]
"""A JSON object."""


class BadHomework(ValueError):
    """What a client sent is not homework."""


@dataclass(frozen=True, slots=True)
class Homework:
    """One archived piece. `day` is an ISO date; `correct` of `questions` were right."""

    id: str
    subject: str
    title: str
    day: str
    questions: int
    correct: int

    def document(self) -> Document:
        """As JSON."""
        return asdict(self)


def _checked(document: Mapping[str, object], homework_id: str, today: str) -> Homework:
    """Homework as a client described it; what is left out gets a plain default. Raises BadHomework."""
    subject, title = document.get("subject", "Other"), document.get("title", "Homework")
    day, questions = document.get("day", today), document.get("questions", 10)
    correct = document.get("correct", 0)
    if not (isinstance(subject, str) and isinstance(title, str) and len(subject) <= 100 and len(title) <= 200):
        raise BadHomework("subject and title must be short texts")
    if not (isinstance(questions, int) and isinstance(correct, int) and 0 <= correct <= questions <= 1000):
        raise BadHomework("questions and correct must be integers, 0 <= correct <= questions <= 1000")
    return Homework(homework_id, subject, title, iso_day(day).isoformat(), questions, correct)


def iso_day(value: object) -> date:
    """A date written as 2025-09-01. Raises BadHomework."""
    if isinstance(value, str) and len(value) == len("2025-09-01"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise BadHomework("a date must be a text such as 2025-09-01")


def _first_homework(user: str) -> list[Homework]:
    """September's work, so that a new user's report has something to tell. It depends on nothing but the name."""
    seed = hashlib.sha256(user.encode()).digest()
    return [
        Homework(
            id=f"hw-{number}",
            subject=SUBJECTS[seed[number] % len(SUBJECTS)],
            title=f"Worksheet {number}",
            day=(FIRST_DAY + timedelta(days=2 * number)).isoformat(),
            questions=10,
            correct=4 + seed[-number] % 7,
        )
        for number in range(1, FIRST_HOMEWORK + 1)
    ]


class School:
    """Every user's homework, and the number of reports made."""

    def __init__(self) -> None:
        self.reports_generated = 0
        self._users: OrderedDict[str, OrderedDict[str, Homework]] = OrderedDict()
        self._numbers = itertools.count(100)

    def homework(self, user: str) -> list[Homework]:
        """A user's own, oldest first."""
        return list(self._of(user).values())

    def find(self, user: str, homework_id: str) -> Homework | None:
        """One piece, if it is the user's."""
        return self._of(user).get(homework_id)

    def archive(self, user: str, document: Mapping[str, object], now: float) -> Homework:
        """Add homework for `user`. Raises BadHomework."""
        mine = self._of(user)
        added = _checked(document, f"hw-{next(self._numbers)}", _day_of(now))
        mine[added.id] = added
        while len(mine) > MAX_HOMEWORK:
            mine.popitem(last=False)
        return added

    def change(self, user: str, homework_id: str, document: Mapping[str, object], now: float) -> Homework | None:
        """Replace a piece; None if the user has none of that id. Raises BadHomework."""
        mine = self._of(user)
        if homework_id not in mine:
            return None
        mine[homework_id] = _checked(document, homework_id, _day_of(now))
        return mine[homework_id]

    def remove(self, user: str, homework_id: str) -> bool:
        """Whether there was such a piece."""
        return self._of(user).pop(homework_id, None) is not None

    def report(self, user: str, start: date, end: date, now: float) -> Document:
        """A report on what the user handed in from `start` to `end`, numbered."""
        self.reports_generated += 1
        chosen = [piece for piece in self.homework(user) if start.isoformat() <= piece.day <= end.isoformat()]
        return {
            "success": True,
            "generation": self.reports_generated,
            "generatedAt": timestamp(now),
            "userId": user,
            "period": {"startDate": start.isoformat(), "endDate": end.isoformat()},
            **_findings(chosen),
        }

    def _of(self, user: str) -> OrderedDict[str, Homework]:
        if user not in self._users:
            self._users[user] = OrderedDict((piece.id, piece) for piece in _first_homework(user))
            while len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        return self._users[user]


def timestamp(now: float) -> str:
    """Epoch seconds as JavaScript's toISOString writes them."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _day_of(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()


# -- reports


def _findings(homework: Sequence[Homework]) -> Document:
    asked, right = Counter[str](), Counter[str]()
    for piece in homework:
        asked[piece.subject] += piece.questions
        right[piece.subject] += piece.correct
    subjects = [_on_subject(name, asked[name], right[name]) for name in sorted(asked)]
    return {
        "summary": {
            "homeworkCount": len(homework),
            "questionsAnswered": asked.total(),
            "accuracy": _share(right.total(), asked.total()),
        },
        "subjects": subjects,
        "strengths": [subject["name"] for subject in subjects if subject["accuracy"] >= 0.8],
        "weaknesses": [subject["name"] for subject in subjects if subject["accuracy"] < 0.6],
        "homework": [{**piece.document(), "accuracy": _share(piece.correct, piece.questions)} for piece in homework],
        "narrative": " ".join(str(subject["comment"]) for subject in subjects) or "Nothing was handed in.",
    }


def _on_subject(name: str, asked: int, right: int) -> Document:
    accuracy = _share(right, asked)
    advice = "Keep it up" if accuracy >= 0.8 else "Practise a little each day" if accuracy >= 0.6 else "Please revise"
    comment = f"In {name} {right} of {asked} questions were answered correctly. {advice}."
    return {"name": name, "questions": asked, "correct": right, "accuracy": accuracy, "comment": comment}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


# -- grading

WORKSHEET = tuple((f"What is {a} times {b}?", str(a * b)) for a, b in zip(range(3, 13), range(12, 2, -1), strict=True))
"""Ten questions and what should be answered."""


def graded(answers: Sequence[object]) -> Document:
    """The worksheet with a student's answers, in order; a missing or empty one was left blank."""
    given = [str(answer).strip() for answer in answers[: len(WORKSHEET)]]
    given += [""] * (len(WORKSHEET) - len(given))
    questions = [
        _graded_question(number, question, expected, answer)
        for number, ((question, expected), answer) in enumerate(zip(WORKSHEET, given, strict=True), 1)
    ]
    grades = Counter(question["grade"] for question in questions)
    return {
        "subject": "Mathematics",
        "subject_confidence": 0.95,
        "total_questions_found": len(questions),
        "questions": questions,
        "performance_summary": {
            "total_correct": grades["CORRECT"],
            "total_incorrect": grades["INCORRECT"],
            "total_empty": grades["EMPTY"],
            "accuracy_rate": _share(grades["CORRECT"], len(questions)),
            "summary_text": f"{grades['CORRECT']} of {len(questions)} answers are correct.",
        },
        "processing_notes": "",
    }


def _graded_question(number: int, question: str, expected: str, answer: str) -> Document:
    grade = "CORRECT" if answer == expected else "INCORRECT" if answer else "EMPTY"
    points = 1.0 if grade == "CORRECT" else 0.0
    feedback = {"CORRECT": "Well done.", "INCORRECT": f"Check again: it is {expected}.", "EMPTY": "Not answered."}
    return {
        "question_number": number,
        "raw_question_text": f"{number}. {question}",
        "question_text": question,
        "student_answer": answer,
        "correct_answer": expected,
        "grade": grade,
        "points_earned": points,
        "points_possible": 1.0,
        "confidence": 0.9,
        "has_visuals": False,
        "feedback": feedback[grade],
        "sub_parts": [],
    }
