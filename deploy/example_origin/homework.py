"""The plan's routes: reports, homework, grading. All but grading need a bearer token, and show only its user's data."""

from __future__ import annotations

import time

from aiohttp import web

from deploy.example_origin.answers import STATE, Refused, conditional, etag_of, json_answer, json_object, user_of, work
from deploy.example_origin.school import BadHomework, graded, iso_day


async def generate_report(request: web.Request) -> web.StreamResponse:
    """A parent report, slowly made: no Cache-Control, no ETag. JSON: userId, startDate, endDate."""
    user, wanted = user_of(request), await json_object(request)
    if not isinstance(wanted.get("userId"), str | int):
        raise Refused(400, "the JSON must have userId, startDate and endDate")
    if str(wanted["userId"]) != user:
        raise Refused(403, "a report is only made for the user whose token is sent")
    try:
        start, end = iso_day(wanted.get("startDate")), iso_day(wanted.get("endDate"))
    except BadHomework as fault:
        raise Refused(400, f"startDate, endDate: {fault}") from fault
    state = request.app[STATE]
    await work(request, state.report_seconds)
    return json_answer(state.school.report(user, start, end, time.time()))


async def archive_homework(request: web.Request) -> web.StreamResponse:
    """Archives homework. JSON: subject, title, day, questions, correct."""
    user, described = user_of(request), await json_object(request)
    try:
        added = request.app[STATE].school.archive(user, described, time.time())
    except BadHomework as fault:
        raise Refused(400, str(fault)) from fault
    return json_answer(added.document(), status=201, fields={"Location": f"/api/homework/{added.id}"})


async def list_homework(request: web.Request) -> web.StreamResponse:
    """The user's homework: private, with a weak ETag."""
    pieces = [piece.document() for piece in request.app[STATE].school.homework(user_of(request))]
    answer = json_answer({"homework": pieces, "total": len(pieces)}, fields={"Cache-Control": "private"})
    return conditional(request, answer, etag_of(pieces, weak=True))


async def show_homework(request: web.Request) -> web.StreamResponse:
    """One piece of the user's homework: private, with a weak ETag."""
    piece = request.app[STATE].school.find(user_of(request), request.match_info["id"])
    if piece is None:
        raise _not_found()
    answer = json_answer(piece.document(), fields={"Cache-Control": "private"})
    return conditional(request, answer, etag_of(piece.document(), weak=True))


async def change_homework(request: web.Request) -> web.StreamResponse:
    """Replaces one piece."""
    user, described = user_of(request), await json_object(request)
    try:
        piece = request.app[STATE].school.change(user, request.match_info["id"], described, time.time())
    except BadHomework as fault:
        raise Refused(400, str(fault)) from fault
    if piece is None:
        raise _not_found()
    return json_answer(piece.document())


async def remove_homework(request: web.Request) -> web.StreamResponse:
    """Removes one piece."""
    if not request.app[STATE].school.remove(user_of(request), request.match_info["id"]):
        raise _not_found()
    return web.Response(status=204)


async def grade_homework(request: web.Request) -> web.StreamResponse:
    """Grades a worksheet of ten questions. JSON: answers, a list of texts."""
    answers = (await json_object(request)).get("answers", [])
    if not isinstance(answers, list):
        raise Refused(400, "answers must be a list")
    return json_answer(graded(answers))


def _not_found() -> Refused:
    return Refused(404, "the user has no homework of that id")
