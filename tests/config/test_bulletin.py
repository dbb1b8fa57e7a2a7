"""The log that replicas read: in order, once, whatever happens to connections and servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from config import bulletin as module
from config.bulletin import Bulletin
from config.listen import spare_port
from config.tasks import end
from config.tier import FAILURES, SharedTier, State
from tests.config.listeners import Listener
from tests.redis_servers import CLUSTERS_FORGET, Redis, running_cluster, running_redis, running_sentinel
from tests.relay import Relay, relayed
from tests.support import PATIENCE, holds

pytestmark = [pytest.mark.usefixtures("soon"), CLUSTERS_FORGET]


@contextlib.asynccontextmanager
async def reading(
    url: str, others: Collection[str] = (), call_seconds: float = 1.0
) -> AsyncIterator[tuple[Bulletin, Listener]]:
    """One replica. others -- see `Bulletin.start`. call_seconds -- longer than a busy machine takes: what is given up,
    and done all the same, is told twice.
    """
    tier, listener = SharedTier(url, seconds=call_seconds), Listener()
    bulletin = Bulletin(tier, "name", listener)
    bulletin.start(others)
    try:
        yield bulletin, listener
    finally:
        await bulletin.close()
        await tier.close()


Replica = tuple[Bulletin, Listener]


@contextlib.asynccontextmanager
async def two_reading(server: Redis) -> AsyncIterator[tuple[Relay, Replica, Replica]]:
    """Two replicas, and the relay between the second and the server."""
    async with (
        relayed(server.port) as relay,
        reading(server.url) as one,
        reading(f"redis://127.0.0.1:{relay.port}/0") as other,
    ):
        yield relay, one, other


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Why there were no news, each time that they were tried for."""
    found: list[BaseException] = []
    lose = Bulletin._lost

    def noted(bulletin: Bulletin, fault: BaseException) -> None:
        found.append(fault)
        lose(bulletin, fault)

    monkeypatch.setattr(Bulletin, "_lost", noted)
    return found


async def test_everybody_hears_everything_in_one_order(server: Redis) -> None:
    async with reading(server.url) as (one, first), reading(server.url) as (other, second):
        await holds(lambda: one.hears and other.hears)
        for number in range(300):
            (one, other)[number % 2].tell([[number, "x"]])
        await holds(lambda: len(first.entries) == len(second.entries) == 300)
        assert first.entries == second.entries
        assert sorted(first.entries) == list(range(300))
        assert [entry for entry in first.entries if entry % 2] == list(range(1, 300, 2))
        [began] = first.began_at
        assert first.numbers == list(range(began + 1, began + 301))
        # an entry may be heard before the answer that it was told
        await holds(lambda: one.settled and other.settled)


async def test_one_that_comes_late_hears_what_there_was(server: Redis) -> None:
    async with reading(server.url) as (one, early):
        one.tell([[number] for number in range(1200)])
        assert await one.sent(PATIENCE)
        async with reading(server.url) as (_, late):
            await holds(lambda: len(late.entries) == len(early.entries) == 1200)
        assert late.began_at == early.began_at
        assert late.missings == []


async def test_what_is_kept_is_told_to_those_who_come(server: Redis) -> None:
    async with reading(server.url) as (one, _):
        one.tell([["a"]], keep={"X": True, "Y": 1})
        assert await one.sent(PATIENCE)
        one.tell([], keep={"Y": 2})
        assert await one.sent(PATIENCE)
        async with reading(server.url) as (_, late):
            await holds(lambda: bool(late.stands))
    assert late.stands == {"X": True, "Y": 2}


async def test_what_is_kept_is_told_again_to_a_server_that_lost_it(server: Redis) -> None:
    async with reading(server.url) as (one, first):
        await holds(lambda: one.hears)
        first.stands = {"X": True, "Y": 1}
        async with redis.asyncio.Redis(port=server.port) as client, client.pipeline() as at_once:
            at_once.flushall()
            at_once.hset(one._state, mapping={"generation": "next", "last": 1})
            at_once.hset(one._state, mapping={"kept X": "false", "at X": one.position})
            at_once.hset(one._state, mapping={"kept Y": "2", "at Y": one.position + 1})
            await at_once.execute()
        await holds(lambda: first.missings == [False])
        # of what stands there already that counts which has not been heard
        await holds(lambda: first.stands == {"Y": 2})
        async with reading(server.url) as (_, late):
            await holds(lambda: late.stands == {"X": True, "Y": 2})


async def test_a_cut_connection_loses_and_repeats_nothing(server: Redis) -> None:
    async with two_reading(server) as (relay, (teller, _), (_, heard)):
        for number in range(60):
            teller.tell([[number]])
            if number % 10 == 5:
                relay.cut()
            await asyncio.sleep(0.002)
        await holds(lambda: len(heard.entries) >= 60)
        assert heard.entries == list(range(60))
        assert heard.missings == []


async def test_what_cannot_be_told_is_told_later(server: Redis) -> None:
    async with reading(server.url, call_seconds=0.02) as (one, heard):
        await holds(lambda: one.hears)
        os.kill(server.process.pid, signal.SIGSTOP)
        one.tell([["a"]])
        one.tell([["b"]])
        assert not await one.sent(0.1)
        assert one.pending
        os.kill(server.process.pid, signal.SIGCONT)
        await holds(lambda: len(heard.entries) >= 2)
        # a call that was given up may have been done
        assert list(dict.fromkeys(heard.entries)) == ["a", "b"]


async def test_what_was_told_is_there_whatever_is_told_behind_it(server: Redis) -> None:
    async def go_on(one: Bulletin) -> None:
        while True:
            one.tell([["b"]])
            await asyncio.sleep(0)

    async with reading(server.url) as (one, heard):
        more = asyncio.create_task(go_on(one))
        await holds(lambda: "b" in heard.entries)
        one.tell([["a"]], keep={"name": True})
        assert await one.sent(PATIENCE, ["name"])
        assert one.pending
        await end([more])


async def test_what_takes_the_place_of_too_much_is_waited_for(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PENDING", 2)
    async with reading(server.url) as (one, heard):
        await holds(lambda: one.hears)
        os.kill(server.process.pid, signal.SIGSTOP)
        for entry in ("a", "b", "c"):
            one.tell([[entry]], instead=[["all"]])
        assert not await one.sent(0.01)
        os.kill(server.process.pid, signal.SIGCONT)
        assert await one.sent(PATIENCE)
        await holds(lambda: heard.entries[-1:] == ["all"])


async def test_who_ends_tells_what_is_still_to_be_told(server: Redis) -> None:
    async with reading(server.url) as (_, heard):
        async with reading(server.url) as (other, _):
            other.tell([["a"]])
        await holds(lambda: heard.entries == ["a"])


async def test_a_log_that_nobody_reads_here_is_told_once(
    server: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While two servers believe to be the master, however long: what is told is told again where it is read."""
    (tmp_path / "b").mkdir()
    async with (
        running_redis(tmp_path / "b") as server_b,
        reading(server.url) as (one, heard),
        reading(server_b.url) as (_, there),
    ):
        await holds(lambda: one.hears)
        other, right = SharedTier(server_b.url), one._tier.script
        calls = list[Any]()

        async def script(*given: Any) -> Any:
            calls.append(given)
            return await other.script(*given)

        monkeypatch.setattr(one._tier, "script", script)
        for number, entry in enumerate("ab", 1):
            one.tell([[entry]])
            calls.clear()
            await holds(lambda: len(calls) > 5)
            assert (one.untold, heard.entries) == (number, [])
        monkeypatch.setattr(one._tier, "script", right)
        await holds(lambda: heard.entries == ["a", "b"] and not one.pending)
        monkeypatch.setattr(one._tier, "script", script)
        one.tell([["c"]])
        await holds(lambda: len(there.entries) > 2)
        assert there.entries == ["a", "b", "c"]
        await other.close()


async def test_too_much_that_waits_becomes_one(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PENDING", 5)
    async with reading(server.url) as (one, heard):
        await holds(lambda: one.hears)
        os.kill(server.process.pid, signal.SIGSTOP)
        for number in range(9):
            one.tell([[number]], instead=[["all"]])
        assert len(one._pending) <= 6
        os.kill(server.process.pid, signal.SIGCONT)
        await holds(lambda: "all" in heard.entries)


async def test_entries_that_are_no_more_there_were_missed(server: Redis) -> None:
    async with two_reading(server) as (relay, (teller, _), (away, heard)):
        await holds(lambda: away.hears)
        relay.stop()
        teller.tell([[number] for number in range(10)])
        assert await teller.sent(PATIENCE)
        async with redis.asyncio.Redis(port=server.port) as client:
            await client.xtrim(teller._entries, maxlen=3, approximate=False)
        relay.cut()
        relay.go()
        [began] = heard.began_at
        await holds(lambda: away.position == began + 10)
        assert heard.missings == [True]
        assert (heard.began_at, heard.entries) == ([began, began + 7], [7, 8, 9])


async def test_who_hears_from_readers_of_another_log_begins_behind_all_that_is_in_this_one(server: Redis) -> None:
    """They told it of what they told there, where it may have been before; who reads this log is told so."""
    async with reading(server.url) as (one, told):
        await holds(lambda: one.hears)
        one.tell([[1], [2]])
        assert await one.sent(PATIENCE)
        async with reading(server.url, [one.read.log]) as (like, heard):
            await holds(lambda: like.hears)
            assert (heard.known_since, heard.missings) == (heard.began_at, [])
        async with reading(server.url, [one.read.log, "another"]) as (unlike, heard):
            await holds(lambda: unlike.hears)
            assert heard.known_since == [one.published + 1]
        await holds(lambda: one.position == one.published + 1)
    assert told.entries == [1, 2]


async def test_a_log_that_was_dropped_altogether_was_missed(server: Redis) -> None:
    """As a server does that evicts keys."""
    async with two_reading(server) as (relay, (teller, _), (away, heard)):
        await holds(lambda: away.hears)
        relay.stop()
        teller.tell([[0], [1]])
        assert await teller.sent(PATIENCE)
        async with redis.asyncio.Redis(port=server.port) as client:
            await client.delete(teller._entries)
        relay.cut()
        relay.go()
        [began] = heard.began_at
        await holds(lambda: away.position == began + 2)
        assert (heard.missings, heard.began_at) == ([True], [began, began + 2])
        teller.tell([[2]])
        await holds(lambda: heard.entries == [2])


@pytest.mark.parametrize("how", ["flushed", "flushed and told of at once", "restarted", "end lost"])
async def test_a_server_that_lost_its_data_is_noticed(tmp_path: Path, how: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_redis(tmp_path))
        one, heard = await stack.enter_async_context(reading(server.url))
        one.tell([[number] for number in range(5)])
        await holds(lambda: len(heard.entries) == 5)
        last = heard.numbers[-1]
        if how.startswith("flushed"):
            async with redis.asyncio.Redis(port=server.port) as client:
                await client.flushall()
        elif how == "end lost":
            # a replica that became the master, and had not heard the last of it
            async with redis.asyncio.Redis(port=server.port) as client:
                await client.xdel(one._entries, f"{last}-0", f"{last - 1}-0")
                await client.hincrby(one._state, "last", -2)
        else:
            server.process.kill()
            await server.process.wait()
            await stack.enter_async_context(running_redis(tmp_path, port=server.port))
        if how != "flushed and told of at once":
            await holds(lambda: heard.missings == [False])
        one.tell([["again"]])
        await holds(lambda: heard.entries[-1] == "again")
        assert heard.missings == [False]
        # no number means two things
        assert heard.began_at[-1] > last
        assert heard.numbers[-1] > heard.began_at[-1]


async def test_a_number_that_was_given_twice_is_noticed(server: Redis) -> None:
    """By a replica that became the master without the last entry, and one who had not heard of that either."""
    async with (
        two_reading(server) as (relay, (one, first), (other, second)),
        redis.asyncio.Redis(port=server.port) as client,
    ):
        one.tell([["before"]])
        await holds(lambda: first.entries == second.entries == ["before"])
        keys = (one._state, one._entries)
        dumped = [await client.dump(key) for key in keys]
        relay.stop()
        one.tell([["lost"]])
        await holds(lambda: first.entries == ["before", "lost"])
        # at once: nobody is to see the one without the other
        async with client.pipeline() as both:
            for key, value in zip(keys, dumped, strict=True):
                assert value is not None
                both.restore(key, 0, value, replace=True)
            await both.execute()
        other.tell([["instead"]])
        relay.go()
        await holds(lambda: first.missings == [False])
        await holds(lambda: other.hears and other.settled and one.settled)
        one.tell([["after"]])
        await holds(lambda: first.entries[-1] == second.entries[-1] == "after")
        assert first.numbers[-1] == second.numbers[-1] > first.began_at[-1]


async def test_that_what_was_told_here_was_lost_and_its_number_given_to_another_is_noticed(server: Redis) -> None:
    async with reading(server.url) as (one, first), reading(server.url) as (other, second):
        one.tell([["before"]])
        await holds(lambda: first.entries == second.entries == ["before"])
        # as if it had been told, and lost before it came back
        one.published, one._own_mark = one.position + 1, "1"
        other.tell([["instead"]])
        await holds(lambda: first.missings == second.missings == [False])


async def take_over(client: Any) -> None:
    """What becomes of a replica when its master is lost: the history of its data has another name from then on."""
    await client.execute_command("REPLICAOF", "127.0.0.1", spare_port())
    await client.execute_command("REPLICAOF", "NO", "ONE")


async def test_in_anothers_place_a_server_begins_the_log_anew(server: Redis) -> None:
    """Even where nobody misses anything: what is still to be stored may be of what was lost."""
    async with (
        reading(server.url) as (one, first),
        reading(server.url) as (_, second),
        redis.asyncio.Redis(port=server.port) as client,
    ):
        one.tell([["before"]])
        await holds(lambda: first.entries == second.entries == ["before"])
        ahead = one.position + 1_000
        await take_over(client)
        await holds(lambda: first.missings == second.missings == [False])
        one.tell([["after"]])
        await holds(lambda: first.entries == second.entries == ["before", "after"])
        assert first.numbers[-1] > ahead


async def test_a_server_that_does_not_say_which_it_is(server: Redis) -> None:
    async with reading(server.url) as (one, first), redis.asyncio.Redis(port=server.port) as client:
        await client.acl_setuser("default", enabled=True, commands=["-info"])
        one.tell([["before"]])
        await holds(lambda: first.entries == ["before"])
        await take_over(client)
        one.tell([["after"]])
        await holds(lambda: first.entries == ["before", "after"])
        assert first.missings == []


async def test_what_is_kept_alone_makes_no_new_log(server: Redis) -> None:
    async with reading(server.url) as (one, first), reading(server.url) as (other, _):
        one.tell([["a"]])
        await holds(lambda: first.entries == ["a"])
        other.tell([["b"]])
        await holds(lambda: first.entries == ["a", "b"])
        one.tell([], keep={"X": 1})
        assert await one.sent(PATIENCE)
        one.tell([["c"]])
        await holds(lambda: first.entries == ["a", "b", "c"])
        assert first.missings == []


async def test_an_entry_that_cannot_be_read_is_a_missed_one(server: Redis) -> None:
    async with reading(server.url) as (one, heard):
        await holds(lambda: one.hears)
        async with redis.asyncio.Redis(port=server.port) as client:
            number = await client.hincrby(one._state, "last", 1)
            await client.xadd(one._entries, {"by": "x", "entry": "\x00"}, id=f"{number}-0")
        await holds(lambda: heard.missings == [True])
        one.tell([["after"]])
        await holds(lambda: heard.entries == ["after"])


async def test_an_entry_of_another_log_is_a_missed_one(server: Redis) -> None:
    """Whoever has put it there: nobody reads it again and again."""
    async with reading(server.url) as (one, heard), redis.asyncio.Redis(port=server.port) as client:
        one.tell([["before"]])
        await holds(lambda: heard.entries == ["before"])
        number = await client.hincrby(one._state, "last", 1)
        entry: dict[Any, Any] = {"log": "another", "by": "x", "entry": '["foreign"]'}
        await client.xadd(one._entries, entry, id=f"{number}-1")
        await holds(lambda: heard.missings == [True])
        one.tell([["after"]])
        await holds(lambda: heard.entries == ["before", "after"])
        assert (heard.missings, heard.began_at[-1]) == ([True], number)


async def test_whispers_wake_those_who_listen(server: Redis) -> None:
    async with reading(server.url) as (one, _), reading(server.url) as (other, _):
        await holds(lambda: one.hears and other.hears)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with one.listen_for("word") as whispered, one.listen_for("another") as unheard:
            await other.whisper("word")
            await whispered(PATIENCE)
            await unheard(0.01)
        assert loop.time() - began < PATIENCE / 2
        assert not one._waiting


async def test_who_hears_nothing_knows_it(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEAF_SECONDS", 0.2)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    async with reading(server.url) as (one, _):
        await holds(lambda: one.hears)
        os.kill(server.process.pid, signal.SIGSTOP)
        await holds(lambda: not one.hears)
        os.kill(server.process.pid, signal.SIGCONT)
        await holds(lambda: one.hears)


async def test_why_nothing_is_heard_is_said_once(
    server: Redis, caplog: pytest.LogCaptureFixture, lost: list[BaseException]
) -> None:
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.config_set("requirepass", "secret")
        with caplog.at_level("INFO", "siding.bulletin"):
            async with reading(server.url) as (one, _):
                await holds(lambda: len(lost) > 2)
                assert not one.hears
                await client.config_set("requirepass", "")
                await holds(lambda: one.hears)
    said = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "siding.bulletin"]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "Authentication required" in said[0][1]


async def test_who_may_not_read_hears_nothing(
    server: Redis, caplog: pytest.LogCaptureFixture, lost: list[BaseException]
) -> None:
    async with redis.asyncio.Redis(port=server.port) as client:
        rights = "ACL SETUSER replica on >secret ~* +@all"
        await client.execute_command(*rights.split(), "-xread")  # type: ignore[no-untyped-call]
        async with reading(server.url.replace("//", "//replica:secret@")) as (one, _):
            await holds(lambda: len(lost) > 2)
            assert not one.hears
            assert caplog.text.count("cannot be read: this user has no permissions") == 1
            await client.execute_command(*rights.split(), "+xread")  # type: ignore[no-untyped-call]
            await holds(lambda: one.hears)
    assert "secret" not in caplog.text


async def test_the_breaker_knows_of_a_server_that_nobody_asks(server: Redis, lost: list[BaseException]) -> None:
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.config_set("requirepass", "secret")
        tier = SharedTier(server.url)
        bulletin = Bulletin(tier, "name", Listener())
        bulletin.start()
        await holds(lambda: tier.state is State.OPEN)
        await client.config_set("requirepass", "")
        await holds(lambda: tier.available and bulletin.hears)
        # it answers, and may not be read: that is not the breaker's
        await client.execute_command("ACL SETUSER", "default", "-xread")  # type: ignore[no-untyped-call]
        before = len(lost)
        await holds(lambda: len(lost) > before + FAILURES)
        assert tier.available
        await bulletin.close()
        await tier.close()


async def test_sentinels_that_refuse_are_told_of_in_words(
    server: Redis, caplog: pytest.LogCaptureFixture, lost: list[BaseException]
) -> None:
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.config_set("requirepass", "secret")
        async with reading(f"redis+sentinel://127.0.0.1:{server.port}/main/0"):
            await holds(lambda: len(lost) > 1)
    [said] = [record.getMessage() for record in caplog.records if record.name == "siding.bulletin"]
    assert said.endswith("cannot be read: No master found for 'main' : auth:AuthenticationError")


@pytest.mark.parametrize("there", [True, False])
async def test_a_cluster_that_is_none(
    server: Redis, caplog: pytest.LogCaptureFixture, lost: list[BaseException], there: bool
) -> None:
    port = server.port if there else spare_port()
    async with reading(f"redis+cluster://127.0.0.1:{port}") as (one, _):
        await holds(lambda: len(lost) > 2)
        assert not one.hears
    assert [record.levelname for record in caplog.records if record.name == "siding.bulletin"] == ["WARNING"]


async def test_a_cluster(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path) as cluster,
        reading(cluster.url) as (one, first),
        reading(cluster.url) as (other, second),
    ):
        await holds(lambda: one.hears and other.hears)
        one.tell([["a"]], keep={"X": True})
        other.tell([["b"]])
        await holds(lambda: sorted(first.entries) == sorted(second.entries) == ["a", "b"])
        with one.listen_for("word") as whispered:
            await other.whisper("word")
            await whispered(PATIENCE)
        assert one._tier.evictions == 0


async def test_a_new_master_goes_on(tmp_path: Path) -> None:
    async with (
        running_sentinel(tmp_path) as watched,
        reading(watched.url) as (one, first),
        reading(watched.url) as (other, second),
    ):
        await holds(lambda: one.hears and other.hears)
        one.tell([["before"]])
        await holds(lambda: first.entries == second.entries == ["before"])
        watched.master.process.kill()
        await watched.master.process.wait()
        one.tell([["after"]])
        await holds(lambda: first.entries[-1] == second.entries[-1] == "after")
        await holds(lambda: one.settled)
