"""Small routes, each a different case for a cache: public, polled, varying, uncacheable, private, failing."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from aiohttp import web

from deploy.example_origin.answers import (
    STATE,
    Refused,
    conditional,
    etag_of,
    json_answer,
    json_object,
    number_in_query,
    user_of,
    work,
)
from deploy.example_origin.school import SUBJECTS, timestamp

SUBJECTS_CHANGED = datetime(2025, 9, 1, 8, 0, tzinfo=UTC)
MAX_ANNOUNCEMENTS = 100
MAX_WAIT_SECONDS = 600

TITLES = {"en": "Leaderboard", "de": "Bestenliste"}
PLAYERS = (("Ada", 990), ("Grace", 970), ("Alan", 940), ("Emmy", 910), ("Kurt", 880))


async def subjects(request: web.Request) -> web.StreamResponse:
    """Fresh for a minute, with ETag and Last-Modified."""
    listed = [{"id": number, "name": name} for number, name in enumerate(SUBJECTS, 1)]
    answer = json_answer({"subjects": listed}, fields={"Cache-Control": "public, max-age=60"})
    return conditional(request, answer, etag_of(listed, weak=False), SUBJECTS_CHANGED)


async def announcements(request: web.Request) -> web.StreamResponse:
    """What clients poll: neither validators nor Cache-Control; changes only when posted to."""
    return json_answer({"announcements": request.app[STATE].announcements})


async def announce(request: web.Request) -> web.StreamResponse:
    """Adds an announcement. JSON: text."""
    text = (await json_object(request)).get("text")
    if not isinstance(text, str) or not text or len(text) > 1000:
        raise Refused(400, "text must be a text of 1 to 1000 characters")
    listed = request.app[STATE].announcements
    listed.append({"id": listed[-1]["id"] + 1 if listed else 1, "text": text, "postedAt": timestamp(time.time())})
    del listed[:-MAX_ANNOUNCEMENTS]
    return json_answer(listed[-1], status=201)


async def leaderboard(request: web.Request) -> web.StreamResponse:
    """For shared caches: s-maxage=5, stale-while-revalidate=30, in English or German by Accept-Language."""
    state = request.app[STATE]
    state.leaderboards += 1
    language = _language(request.headers.get("Accept-Language", ""))
    document = {
        "title": TITLES[language],
        "language": language,
        "made": state.leaderboards,
        "players": [{"rank": rank, "name": name, "points": points} for rank, (name, points) in enumerate(PLAYERS, 1)],
    }
    fields = {
        "Cache-Control": "s-maxage=5, stale-while-revalidate=30",
        "Content-Language": language,
        "Vary": "Accept-Language",
    }
    return json_answer(document, fields=fields)


def _language(accepted: str) -> str:
    """The one of ours that is named first, as small frameworks do it; English otherwise."""
    for item in accepted.split(","):
        language = item.partition(";")[0].strip().lower().partition("-")[0]
        if language in TITLES:
            return language
    return "en"


async def time_of_day(_: web.Request) -> web.StreamResponse:
    """The time; Cache-Control: no-store."""
    now = time.time()
    return json_answer({"now": timestamp(now), "epoch": now}, fields={"Cache-Control": "no-store"})


async def slow(request: web.Request) -> web.StreamResponse:
    """Answers after ?seconds= (1 when left out)."""
    seconds = number_in_query(request, "seconds", 1, most=MAX_WAIT_SECONDS)
    await work(request, seconds)
    return json_answer({"waited": seconds})


async def me(request: web.Request) -> web.StreamResponse:
    """Whose token it is: private, fresh for a minute."""
    user = user_of(request)
    return json_answer({"userId": user, "name": user.title()}, fields={"Cache-Control": "private, max-age=60"})


async def status(request: web.Request) -> web.StreamResponse:
    """Answers any method with that status, from 200 to 599."""
    code = int(request.match_info["code"])
    if not 200 <= code <= 599:
        raise Refused(400, "the status must be from 200 to 599")
    if code in {204, 205, 304}:
        return web.Response(status=code)
    return json_answer({"status": code}, status=code)


async def redirect(request: web.Request) -> web.StreamResponse:
    """302 to ?to=, a path of this origin (/api/subjects when left out)."""
    target = request.query.get("to", "/api/subjects")
    if not target.startswith("/") or target.startswith(("//", "/\\")):
        raise Refused(400, "to must be a path")
    return web.Response(status=302, headers={"Location": target})


async def set_cookie(_: web.Request) -> web.StreamResponse:
    """Two cookies on an answer that calls itself public, a mistake that leaks sessions from careless caches."""
    answer = json_answer({"cookies": ["session", "theme"]}, fields={"Cache-Control": "public, max-age=60"})
    answer.headers.add("Set-Cookie", f"session={time.time_ns():x}; Path=/; HttpOnly; SameSite=Lax")
    answer.headers.add("Set-Cookie", "theme=dark; Path=/; Max-Age=3600")
    return answer


async def healthz(_: web.Request) -> web.StreamResponse:
    """Whether the origin is up."""
    return json_answer({"status": "ok"}, fields={"Cache-Control": "no-store"})
