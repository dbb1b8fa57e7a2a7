"""Flags of all monitors at once."""

from __future__ import annotations

from tests.pool_monitor.support import running_monitor
from tests.redis_servers import Redis
from tests.support import holds


async def test_flags_are_flipped_in_every_monitor_now_and_later(shared: Redis) -> None:
    async with running_monitor(None, redis_url=shared.url) as one, running_monitor(None, redis_url=shared.url) as other:
        answer = await one.ask("PATCH", "/api/flags", {"USE_OPTIMIZED_PROMPTS": False, "everywhere": True})
        assert (answer.status, answer.document["everywhere"]) == (200, True)
        assert answer.document["USE_OPTIMIZED_PROMPTS"] is False
        await holds(lambda: not other.monitor._flags.optimized_prompts)
        async with running_monitor(None, redis_url=shared.url) as late:
            await holds(lambda: not late.monitor._flags.optimized_prompts)
        metrics = (await other.get("/metrics")).content.decode()
        assert 'siding_shared_tier{state="closed"} 1.0' in metrics
        assert "siding_replica_hears 1.0" in metrics
        assert 'siding_flag_pinned{flag="USE_OPTIMIZED_PROMPTS"} 1.0' in metrics
        assert (await other.get("/api/flags")).document["pinned"] == {"USE_OPTIMIZED_PROMPTS": False}


async def test_flags_are_handed_back_to_the_settings_of_each(shared: Redis) -> None:
    async with (
        running_monitor(None, redis_url=shared.url) as one,
        running_monitor(None, redis_url=shared.url, use_optimized_prompts="off") as other,
    ):
        await one.ask("PATCH", "/api/flags", {"USE_OPTIMIZED_PROMPTS": True, "everywhere": True})
        await holds(lambda: other.monitor._flags.optimized_prompts)
        answer = await one.ask("PATCH", "/api/flags", {"USE_OPTIMIZED_PROMPTS": None, "everywhere": True})
        assert (answer.status, answer.document["USE_OPTIMIZED_PROMPTS"]) == (200, True)
        await holds(lambda: not other.monitor._flags.optimized_prompts)


async def test_without_a_tier_there_is_nobody_to_tell() -> None:
    async with running_monitor(None) as one:
        answer = await one.ask("PATCH", "/api/flags", {"BYPASS": True, "everywhere": True})
        assert answer.status == 400
        assert "REDIS_URL" in answer.document["error"]["message"]
        assert not one.monitor._flags.bypass
        assert (await one.get("/api/flags")).document["pinned"] == {}
