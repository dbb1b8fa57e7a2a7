"""Flags of all replicas, where one of them was away, or comes late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from config.bulletin import RETRY_SECONDS
from config.everywhere import FLAGS, FlagsEverywhere, behind, set_flags
from config.flags import Flags
from config.listen import spare_port
from config.settings import FlagSettings
from config.tier import SharedTier
from tests.redis_servers import Redis, running_redis
from tests.relay import relayed
from tests.support import PATIENCE, holds

pytestmark = pytest.mark.usefixtures("soon")

Replica = tuple[Flags, FlagsEverywhere]


@contextlib.asynccontextmanager
async def replica(port: int, **settings: bool) -> AsyncIterator[Replica]:
    tier, flags = SharedTier(f"redis://127.0.0.1:{port}/0"), Flags(FlagSettings(**settings))
    everywhere = FlagsEverywhere(tier, "name", flags)
    everywhere.bulletin.start()
    try:
        yield flags, everywhere
    finally:
        await everywhere.bulletin.close()
        await tier.close()


async def test_who_missed_the_entries_takes_what_is_kept(server: Redis) -> None:
    async with (
        relayed(server.port) as relay,
        replica(server.port) as (_, one),
        replica(relay.port) as (flags, other),
        redis.asyncio.Redis(port=server.port) as client,
    ):
        assert await one.pins.tell({"ENABLE_ETAG": False, "ENABLE_DEDUP": False}, PATIENCE)
        await holds(lambda: not flags.dedup)
        flags.update({"ENABLE_DEDUP": True})
        relay.stop()
        assert await one.pins.tell({"BYPASS": True}, PATIENCE)
        one.bulletin.tell([[FLAGS, {}]] * 9)
        assert await one.bulletin.sent(PATIENCE)
        await client.xtrim(one.bulletin._entries, maxlen=3, approximate=False)
        relay.cut()
        relay.go()
        await holds(lambda: other.bulletin.position == one.bulletin.position)
        assert flags.bypass
        assert flags.dedup, "what was flipped there alone, after it had heard, stays so"


async def test_who_comes_late_does_not_go_through_what_is_past(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with replica(server.port) as (_, one):
        for on in (True, False, True, False, True):
            assert await one.pins.tell({"BYPASS": on}, PATIENCE)
        caplog.clear()
        async with replica(server.port) as (flags, late):
            await holds(lambda: late.bulletin.hears)
            assert flags.bypass
            assert [one.getMessage() for one in caplog.records if "switched" in one.getMessage()] == [
                "BYPASS was switched on"
            ]
            assert await one.pins.tell({"BYPASS": False}, PATIENCE)
            await holds(lambda: not flags.bypass)


async def test_who_comes_first_to_a_redis_that_lost_its_data_hears_of_flags_from_who_knows_them(server: Redis) -> None:
    """And what was flipped since in one of those replicas alone stays so."""
    async with (
        relayed(server.port) as relay,
        replica(relay.port) as (_, one),
        replica(relay.port) as (there, other),
        redis.asyncio.Redis(port=server.port) as client,
    ):
        assert await one.pins.tell({"BYPASS": True, "ENABLE_ETAG": False}, PATIENCE)
        await holds(lambda: there.bypass and not there.etag)
        there.update({"ENABLE_ETAG": True})
        relay.stop()
        await client.flushall()
        async with replica(server.port) as (flags, late):
            await holds(lambda: late.bulletin.hears)
            relay.cut()
            relay.go()
            await holds(lambda: late.pins.pinned == {"BYPASS": True, "ENABLE_ETAG": False})
            logs = [one.bulletin, other.bulletin, late.bulletin]
            await holds(lambda: len({log.read for log in logs}) == 1)
            assert (flags.bypass, flags.etag, there.bypass, there.etag) == (True, False, True, True)


async def test_a_redis_that_starts_anew_from_an_old_copy_undoes_no_flip(tmp_path: Path) -> None:
    changes: list[tuple[str, bool]] = []
    async with contextlib.AsyncExitStack() as lost:
        server = await lost.enter_async_context(running_redis(tmp_path))
        async with replica(server.port) as (flags, one), redis.asyncio.Redis(port=server.port) as client:
            await holds(lambda: one.bulletin.hears)
            assert await one.pins.tell({"BYPASS": False, "ENABLE_ETAG": False}, PATIENCE)
            await client.save()
            await set_flags(flags, {"BYPASS": True}, everywhere=True, tell=one.pins.tell)
            await holds(lambda: one.bulletin.settled)
            flags.subscribe(lambda name, on: changes.append((name, on)))
            await lost.aclose()
            async with running_redis(tmp_path, port=server.port), replica(server.port) as (late, _):
                await holds(lambda: late.bypass and not late.etag)
                await holds(lambda: one.bulletin.hears)
                assert (flags.bypass, changes) == (True, [])


async def test_what_is_still_to_be_told_is_newer_than_what_is_kept() -> None:
    """As where all is switched off while Redis is away, which comes back with what was on before."""
    async with replica(spare_port()) as (flags, one):
        flags.update({"BYPASS": True})
        assert not await one.pins.tell({"BYPASS": True}, 0.01)
        one.bulletin._told_kept({"BYPASS": b"false", "ENABLE_ETAG": b"false"}, 7)
        assert (flags.bypass, flags.etag) == (True, False)


async def test_who_ends_before_the_others_are_told_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async with replica(spare_port()) as (flags, one):
        changes = {"BYPASS": True, "ENABLE_ETAG": None}
        answer = await set_flags(flags, changes, everywhere=True, tell=lambda flags, _: one.pins.tell(flags, 0.01))
        assert (answer["everywhere"], answer["untold"]) == (False, changes)
        # nor does it know what others have set
        assert behind(flags, one.pins) == {"settings": Flags().as_dict(), "pinned": None, "untold": changes}
        assert "it is lost" not in caplog.text
    lost = "1 notice, BYPASS, ENABLE_ETAG"
    assert f"the other replicas may never have been told, and it is lost: {lost}" in caplog.messages


async def test_who_ends_tells_the_rest_though_the_first_call_fails(
    server: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("config.bulletin.RETRY_SECONDS", RETRY_SECONDS)
    async with relayed(server.port) as relay, replica(server.port) as (flags, _):
        async with replica(relay.port) as (_, ending):
            await holds(lambda: ending.bulletin.hears)
            relay.stop()
            assert not await ending.pins.tell({"BYPASS": True}, 0.01)
            await holds(lambda: ending.bulletin._tier.failed > 0)
            relay.cut()
            relay.go()
        await holds(lambda: flags.bypass)
    assert "it is lost" not in caplog.text


async def test_who_flips_last_has_the_last_word_there_too(server: Redis) -> None:
    """It hears of what was flipped before when it has flipped as well; the others end as it said, and so does it."""
    async with (
        relayed(server.port) as relay,
        replica(server.port) as (_, one),
        replica(relay.port) as (away, other),
    ):
        await holds(lambda: other.bulletin.hears)
        relay.stop()
        assert await one.pins.tell({"BYPASS": True, "ENABLE_ETAG": False}, PATIENCE)
        await set_flags(away, {"BYPASS": None}, everywhere=True, tell=lambda flags, _: other.pins.tell(flags, 0.01))
        relay.cut()
        relay.go()
        await holds(lambda: other.bulletin.settled and one.bulletin.position == other.bulletin.position)
        assert (away.bypass, away.etag) == (False, False)
        # and what comes later goes for it as for all
        assert await one.pins.tell({"BYPASS": True}, PATIENCE)
        await holds(lambda: away.bypass)


async def test_what_was_flipped_before_is_not_taken_from_who_has_told_and_not_yet_heard(server: Redis) -> None:
    async with replica(server.port) as (flags, one):
        await holds(lambda: one.bulletin.hears)
        for on in (False, True):
            assert await one.pins.tell({"BYPASS": on}, PATIENCE)
        await holds(lambda: one.bulletin.settled)
        last = one.bulletin.position
        flags.update({"BYPASS": True})
        one.took(last - 1, "another", [FLAGS, {"BYPASS": False, "ENABLE_DEDUP": False}])
        assert (flags.bypass, flags.dedup) == (True, False)
        one.took(last + 1, "another", [FLAGS, {"BYPASS": False}])
        assert not flags.bypass


async def test_what_another_tells_before_it_is_known_where_ones_own_stands_is_not_lost(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is read by another connection than the one by which it is told, and may be read further meanwhile."""
    async with replica(server.port) as (here, one), replica(server.port) as (there, other):
        await holds(lambda: one.bulletin.hears and other.bulletin.hears)
        answer = answers_held(one, monkeypatch)
        changes = {"BYPASS": True, "ENABLE_ETAG": False}
        one_tells = asyncio.create_task(set_flags(here, changes, everywhere=True, tell=one.pins.tell))
        await holds(lambda: there.bypass and not there.etag)
        await set_flags(there, {"BYPASS": False}, everywhere=True, tell=other.pins.tell)
        await holds(lambda: one.bulletin.position == other.bulletin.position == other.bulletin.published)
        answer.set()
        assert (await one_tells)["everywhere"]
        assert (here.bypass, here.etag, there.bypass, there.etag) == (False, False, False, False)
        assert one.pins.pinned == other.pins.pinned == {"BYPASS": False, "ENABLE_ETAG": False}


@pytest.mark.parametrize("later", [True, False])
async def test_what_is_kept_may_be_of_before_or_after_what_was_told(
    server: Redis, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(server.port) as (flags, one):
        await holds(lambda: one.bulletin.hears)
        answer, before = answers_held(one, monkeypatch), one.bulletin.position
        tells = asyncio.create_task(set_flags(flags, {"BYPASS": True}, everywhere=True, tell=one.pins.tell))
        await holds(lambda: one.bulletin.position == before + 1)
        one.pins.kept({"BYPASS": False}, before + 2 * later)
        answer.set()
        await tells
        assert flags.bypass is not later
        assert one.pins.pinned == {"BYPASS": not later}


@pytest.mark.parametrize("told", [[True], [True, False, True]], ids=["behind-much-else", "several-times"])
async def test_who_tells_in_several_steps_and_has_the_last_word_has_it_everywhere(
    server: Redis, told: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another flips the flag between the first step and the second."""
    monkeypatch.setattr("config.bulletin.MOST_AT_ONCE", 2)
    async with replica(server.port) as (here, one), replica(server.port) as (there, other):
        await holds(lambda: one.bulletin.hears and other.bulletin.hears)
        answer, begin = answers_held(one, monkeypatch), one.bulletin.position
        here.update({"BYPASS": True})
        if told == [True]:
            one.bulletin.tell([["tag", "t", False]] * 2)
        for on in told:
            await one.pins.tell({"BYPASS": on}, 0.0)
            await holds(lambda: one.bulletin.position > begin)
        steps = one.bulletin.position
        await set_flags(there, {"BYPASS": False}, everywhere=True, tell=other.pins.tell)
        await holds(lambda: one.bulletin.position == steps + 1)
        answer.set()
        await holds(lambda: one.bulletin.settled and one.bulletin.position == other.bulletin.position > steps + 1)
        async with replica(server.port) as (flags, late):
            await holds(lambda: late.bulletin.hears)
            assert (here.bypass, there.bypass, flags.bypass) == (True, True, True)


def answers_held(one: FlagsEverywhere, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What it tells is in the log; that it is so it learns once the event is set."""
    answer, script = asyncio.Event(), one.bulletin._tier.script

    async def held(*arguments: Any) -> Any:
        answered = await script(*arguments)
        await answer.wait()
        return answered

    monkeypatch.setattr(one.bulletin._tier, "script", held)
    return answer


async def test_a_flag_that_is_handed_back_is_in_each_replica_what_its_settings_say(
    server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """In those that are away, that come later, and that had flipped it for themselves."""
    async with (
        relayed(server.port) as relay,
        replica(server.port) as (here, one),
        replica(server.port, enable_etag=False) as (there, _),
        replica(relay.port, bypass=True) as (away, other),
        redis.asyncio.Redis(port=server.port) as client,
    ):
        await holds(lambda: other.bulletin.hears)
        assert await one.pins.tell({"ENABLE_ETAG": True, "BYPASS": False}, PATIENCE)
        await holds(lambda: there.etag and not away.bypass)
        here.update({"ENABLE_ETAG": False})
        relay.stop()
        answer = await set_flags(here, {"ENABLE_ETAG": None, "BYPASS": None}, everywhere=True, tell=one.pins.tell)
        assert (answer["everywhere"], answer["ENABLE_ETAG"], answer["BYPASS"]) == (True, True, False)
        await holds(lambda: not there.etag)
        # it finds no more of it than what is kept
        one.bulletin.tell([[FLAGS, {}]] * 9)
        assert await one.bulletin.sent(PATIENCE)
        await client.xtrim(one.bulletin._entries, maxlen=3, approximate=False)
        relay.cut()
        relay.go()
        await holds(lambda: away.bypass)
        caplog.clear()
        async with replica(server.port, enable_etag=False, bypass=True) as (flags, late):
            await holds(lambda: late.bulletin.hears)
            assert (flags.etag, flags.bypass) == (False, True)
        assert not [message for message in caplog.messages if "set everywhere" in message or "switched" in message]
