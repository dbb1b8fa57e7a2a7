"""Flags of a proxy with several workers: its parent alone tells other replicas of them, and hears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from config.flags import Flags
from proxy.app import build_routes
from proxy.fleet import Fleet
from proxy.observe.events import PurgeKind
from proxy.server.admin import UNTOLD, PurgeOrder
from tests.redis_servers import Redis, client_of
from tests.server.family import Parent, family
from tests.support import PATIENCE, holds, settings_for

ORIGIN = "http://127.0.0.1:1"


@contextlib.asynccontextmanager
async def fleet_of_two(shared: Redis) -> AsyncIterator[tuple[Fleet, list[Parent]]]:
    """It hears of others. And what its workers are told."""
    settings = settings_for(ORIGIN, workers=2, redis_url=shared.url)
    fleet = Fleet(settings, build_routes(settings), 0)
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for member in fleet._members:
            worker, to_it = await stack.enter_async_context(family())
            worker.says = ""
            member.channel, member.listening = to_it._channel, True
            workers.append(worker)
        everywhere, tier = fleet._everywhere, fleet._tier
        assert everywhere is not None
        assert tier is not None
        everywhere.bulletin.start()
        try:
            await holds(lambda: everywhere.bulletin.hears)
            yield fleet, workers
        finally:
            await everywhere.bulletin.close()
            await tier.close()


def told(workers: Iterable[Parent]) -> list[Any]:
    """How BYPASS stands in each worker, by what it was told last."""
    return [worker.told[-1][1]["BYPASS"] if worker.told else False for worker in workers]  # type: ignore[index]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_fleets_that_flip_a_flag_at_the_same_moment_end_alike(
    shared: Redis, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither knows whose flip is the last one, when it has flipped its own workers and reads the other's."""
    async with fleet_of_two(shared) as one, fleet_of_two(shared) as other, client_of(shared) as client:
        fleets = [one[0], other[0]]
        logs = [fleet._everywhere.bulletin for fleet in fleets if fleet._everywhere is not None]
        begin = logs[0].position
        turns, answer = [asyncio.Event(), asyncio.Event()], asyncio.Event()
        for turn, log in zip(turns, logs, strict=True):
            monkeypatch.setattr(log._tier, "script", _held(log._tier.script, turn, answer))
        flips = [
            asyncio.create_task(fleet.set_flags({"BYPASS": on}, everywhere=True))
            for fleet, on in zip(fleets, (True, False), strict=True)
        ]
        for number, place in enumerate((first, 1 - first), 1):
            turns[place].set()
            await holds(lambda: all(log.position == begin + number for log in logs))  # noqa: B023
        answer.set()
        assert [state["everywhere"] for state in await asyncio.gather(*flips)] == [True, True]
        on = first == 1
        await holds(lambda: told((*one[1], *other[1])) == [on] * 4)
        assert [fleet._flags.bypass for fleet in fleets] == [on, on]
        # one entry for each flip, however many workers there are
        assert await client.xlen(logs[0]._entries) == 2


async def test_what_others_flip_all_workers_are_told_and_what_is_flipped_here_alone_stays_so(shared: Redis) -> None:
    async with fleet_of_two(shared) as (one, _), fleet_of_two(shared) as (other, workers):
        await one.set_flags({"BYPASS": True, "ENABLE_ETAG": False}, everywhere=True)
        await holds(lambda: told(workers) == [True, True])
        assert (await other.behind_flags())["pinned"] == {"BYPASS": True, "ENABLE_ETAG": False}
        metrics = (await other.metrics(""))[0].decode()
        assert 'siding_flag_pinned{flag="BYPASS",worker="parent"} 1.0\n' in metrics
        assert 'siding_replica_hears{worker="parent"} 1.0\n' in metrics
        # what it hears its workers hear as well, and count
        assert 'siding_replica_messages_total{direction="told",worker="parent"}' in metrics
        assert 'siding_replica_messages_total{direction="heard",worker="parent"}' not in metrics
        await other.set_flags({"BYPASS": False})
        assert other._everywhere is not None
        # as where something was missed
        other._everywhere.kept({"BYPASS": True, "ENABLE_ETAG": None}, other._everywhere.bulletin.position)
        await holds(lambda: all(worker.told[-1] == ("set_flags", Flags().as_dict()) for worker in workers))
        await one.set_flags({"BYPASS": True}, everywhere=True)
        await holds(lambda: told(workers) == [True, True])


async def test_a_worker_that_hangs_is_said_not_to_have_answered(shared: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.channel.CALL_SECONDS", PATIENCE)
    async with fleet_of_two(shared) as (fleet, workers):
        assert "workersExpected" not in await fleet.set_flags({"BYPASS": True})
        workers[0].knows.clear()
        assert fleet._members[0].channel is not None
        fleet._members[0].channel.seconds = 0.05
        answer = await fleet.set_flags({"BYPASS": False})
        assert (answer["BYPASS"], answer["workers"], answer["workersExpected"]) == (False, 1, 2)
        # one that starts hears of it before it serves
        fleet._members[0].listening = False
        assert "workersExpected" not in await fleet.set_flags({"BYPASS": True})
        workers[0].knows.set()


@pytest.mark.parametrize("told", [(True, True), (True, False)])
async def test_a_purge_says_whether_every_worker_has_told_the_replicas(shared: Redis, told: tuple[bool, bool]) -> None:
    async with fleet_of_two(shared) as (fleet, workers):
        for worker, one in zip(workers, told, strict=True):
            worker.says = {"purged": "all", "everywhere": one}
        answer = await fleet.purge(PurgeOrder(PurgeKind.ALL))
        assert (answer["everywhere"], answer.get("note")) == (all(told), None if all(told) else UNTOLD)


def _held(script: Any, turn: asyncio.Event, answer: asyncio.Event) -> Any:
    async def held(*arguments: Any) -> Any:
        await turn.wait()
        answered = await script(*arguments)
        await answer.wait()
        return answered

    return held
