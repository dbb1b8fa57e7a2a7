"""Flips flags at admin listeners, and sees that it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
import orjson

from config.flags import Changes, FlagName
from deploy.asking import FLAGS, Ask, Stand, Way, stand_in, why
from deploy.rollback.switches import PROBES, Seen, expected, judged

ANSWERS = 8


class Failed(Exception):
    """What was ordered did not come about. Its text says where, why, and what did.

    before -- how those of a listener stood that may have changed some all the same; None where none was changed.
    """

    def __init__(self, text: str, before: Stand | None = None) -> None:
        super().__init__(text)
        self.before = before


class _NoAnswer(Failed):
    """What was asked may have been done."""


class Told(StrEnum):
    """Who knows of a flip by now."""

    EVERYWHERE = "in all replicas"
    HERE = "here"
    NOT_YET = "here ALONE so far"
    """It has a shared tier, which does not answer: the others hear of it once that does."""


@dataclass(frozen=True, slots=True)
class Flipped:
    """before, after -- how all flags of one listener stood.

    done_by -- how many of its workers have said that they do it, in words; empty where all have.
    """

    before: Stand
    after: Stand
    told: Told
    done_by: str


async def standing(client: aiohttp.ClientSession, admin: str) -> Stand:
    """How the flags of one listener stand. Raises Failed."""
    return stand_in(await _json(client, "GET", admin))


async def flip(
    client: aiohttp.ClientSession, admin: str, before: Stand, wanted: Changes, token: str | None, *, here: bool
) -> Flipped:
    """Set flags at one listener: in all its replicas where it has a shared tier, unless `here`. Raises Failed.

    before -- how they stand.
    """
    changes = {name: on for name, on in wanted.items() if name in before.flags}
    if not changes:
        raise Failed(f"{admin} has none of these flags: {', '.join(wanted)}")
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        told, answer = await _order(client, admin, changes, fields, here=here)
    except _NoAnswer as fault:
        raise Failed(str(fault), before) from fault
    try:
        after = await standing(client, admin)
    except Failed as fault:
        raise Failed(f"it is ordered, and not seen: {fault}", before) from fault
    wrong = [name for name, on in changes.items() if on is not None and after.flags[name] != on]
    if wrong:
        raise Failed(f"{admin} has not changed {', '.join(wrong)}", before)
    done_by = f"{answer.get('workers')} of {answer['workersExpected']} workers" if "workersExpected" in answer else ""
    return Flipped(before, after, told, done_by)


async def _order(
    client: aiohttp.ClientSession, admin: str, changes: Changes, fields: Mapping[str, str], *, here: bool
) -> tuple[Told, Mapping[str, Any]]:
    """Who knows of it, and the answer."""
    if not here:
        try:
            answer = await _json(client, "PATCH", admin, {**changes, "everywhere": True}, fields)
            return (Told.EVERYWHERE if answer.get("everywhere") is True else Told.NOT_YET), answer
        except _NobodyToTell:
            pass
    return Told.HERE, await _json(client, "PATCH", admin, changes, fields)


class _NobodyToTell(Exception):
    """There is one replica, as far as it knows."""


async def _json(
    client: aiohttp.ClientSession,
    method: str,
    admin: str,
    document: Changes | None = None,
    fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    url = admin.rstrip("/") + FLAGS
    try:
        async with client.request(
            method, url, json=document, headers=fields, skip_auto_headers=() if document else ("Content-Type",)
        ) as answer:
            text, status = await answer.read(), answer.status
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        raise _NoAnswer(f"{admin} does not answer: {why(fault)}") from fault
    try:
        given = orjson.loads(text)
    except ValueError as fault:
        raise Failed(f"{admin} is no admin listener: it answers {method} {FLAGS} without JSON") from fault
    content: dict[str, Any] = given if isinstance(given, dict) else {}
    if status == 200 and FlagName.BYPASS in content:
        return content
    error = content["error"] if isinstance(content.get("error"), dict) else {}
    if document is not None and "everywhere" in document and error.get("code") == "bad-flags":
        raise _NobodyToTell
    sent = fields is not None and "Authorization" in fields
    advice = "the environment's ADMIN_TOKEN is not its token" if sent else "put the token into ADMIN_TOKEN"
    advice = f"; {advice}" if status == 401 else ""
    message = error.get("message", "is it an admin listener?")
    raise Failed(f"{admin} does not do it ({status}): {message}{advice}")


async def shown(way: Way, path: str, wanted: Changes) -> Sequence[tuple[str, Seen, str]]:
    """For each flag that an answer shows: its name, how it stands, and in words. Raises what `send` does."""
    found = []
    for name, on in expected(wanted).items():
        ask = Ask(name, "GET", path, PROBES[name].fields, None)
        await way.send(ask)
        # over several connections, so that several replicas may answer
        answers = await asyncio.gather(*(way.send(ask) for _ in range(ANSWERS)))
        found.append((name.value, *judged(name, on, answers)))
    return found
