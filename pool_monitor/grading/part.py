"""Composition of the grading wrapper: its parts are built, started and stopped here, and nowhere else."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable, Sequence
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from config.answers import answer_json
from config.flags import Flags
from config.settings import MonitorSettings
from config.tier import SharedTier
from pool_monitor.grading.batch_asking import Asking
from pool_monitor.grading.batch_files import Files
from pool_monitor.grading.batch_http import BatchCompletions
from pool_monitor.grading.batch_runs import Runs
from pool_monitor.grading.batches import Batches
from pool_monitor.grading.batches_http import BatchesApi
from pool_monitor.grading.bookkeeping import Bookkeeping
from pool_monitor.grading.calls import Answer, Call, Expansion
from pool_monitor.grading.care import RateLimits
from pool_monitor.grading.completions import Completions
from pool_monitor.grading.costs import price
from pool_monitor.grading.limits import Limits
from pool_monitor.grading.metrics import GradingMetrics, levels
from pool_monitor.grading.models import Models
from pool_monitor.grading.outcomes import Outcome, Said
from pool_monitor.grading.reading import read_answer, told_by
from pool_monitor.grading.serve import Grading
from pool_monitor.grading.shadow import Budget, Shadow, Shadowed
from pool_monitor.grading.stored import Stored
from pool_monitor.grading.templates import Recognised, Template
from pool_monitor.grading.to_caller import without_own_fields
from pool_monitor.grading.upstream import Upstream


class GradingPart:
    """One process's grading wrapper. tier -- None without REDIS_URL."""

    def __init__(
        self,
        settings: MonitorSettings,
        flags: Flags,
        tier: SharedTier | None,
        registry: CollectorRegistry,
        templates: Sequence[Template],
        models: Models,
    ) -> None:
        self._flags = flags
        self._metrics = GradingMetrics(registry)
        key, secret = settings.grading_api_key, settings.cache_secret
        seconds = settings.grading_timeout_ms / 1000
        limits = Limits(
            capacity=settings.grading_concurrency,
            connect_seconds=min(settings.grading_connect_timeout_ms / 1000, seconds),
            seconds=seconds,
            content_bytes=settings.grading_max_request_bytes,
        )
        key_secret = secret.get_secret_value().encode() if secret is not None else secrets.token_bytes(32)
        self.upstream = Upstream(
            settings.grading_upstream_url,
            key.get_secret_value() if key is not None else None,
            limits,
            clock=time.monotonic,
            observe=self._metrics,
            own_port=settings.port,
        )
        self.books = Bookkeeping(models, time.time, settings.grading_data_dir, self._metrics.counted)
        self.completions = Completions(self.upstream, time.monotonic, self._expanded)
        self.stored = Stored(
            settings.completion_cache_ttl_seconds,
            settings.completion_cache_max_bytes,
            time.monotonic,
            # without a secret that replicas share they could not find each other's answers
            tier if secret is not None else None,
            lambda: flags.redis_cache and not flags.bypass,
        )
        self.shadow = Shadow(
            # not by way of what is shared or made compact: the upstream itself is asked
            ask=self.upstream.complete,
            read=read_answer,
            price=partial(price, models),
            rate=settings.shadow_sample_rate,
            budget=Budget(settings.shadow_calls_a_day, settings.shadow_dollars_a_day),
            clock=time.monotonic,
            wall=time.time,
            chance=random.Random(),  # noqa: S311 - it draws samples
            seconds=seconds,
        )
        self.grading = Grading(
            flags=flags,
            upstream=self.upstream,
            completions=self.completions,
            stored=self.stored,
            templates=templates,
            observe=self._metrics.served,
            books=self.books,
            offer=self._original_answered if settings.shadow_sample_rate > 0 else None,
            clock=time.monotonic,
            secret=key_secret,
            limits=limits,
            detail=settings.grading_image_detail,
        )
        asking = Asking(
            self.grading.ask,
            RateLimits(),
            clock=time.monotonic,
            wall=time.time,
            secret=key_secret,
            item_seconds=seconds,
        )
        shares = self.grading.shares
        self.batch = BatchCompletions(asking, Runs(), self.grading.call_of, secret=key_secret, shares=shares)
        self._local_batches = settings.grading_batches
        self._files = Files(wall=time.time)
        self._batches = Batches(self._files, asking, wall=time.time, shares=shares)
        grading = self.grading
        self.batches = BatchesApi(
            self._batches,
            self._files,
            grading.call_of,
            grading.forward,
            grading.fetch,
            key_secret,
            self.upstream.has_key,
            grading.refuses,
        )

    def _expanded(self, outcome: Outcome) -> None:
        self._metrics.expanded(outcome)
        self.books.expanded(outcome)
        if outcome.expansion in {Expansion.EXPANDED, Expansion.REPAIRED}:
            self.shadow.offer_original(outcome.call, outcome.template, outcome.full)
        elif outcome.expansion is Expansion.REFUSED:
            self.shadow.offer_refused()

    def _original_answered(self, call: Call, recognised: Recognised, answer: Answer) -> None:
        def offer(said: Said | None) -> None:
            if said is not None and said.refused:
                self.shadow.tally[Shadowed.REFUSED] += 1
            elif said is not None and said.content is not None:
                self.shadow.offer_compact(call, recognised, said.content)
            else:
                self.shadow.tally[Shadowed.UNREADABLE] += 1

        def left() -> None:
            self.shadow.tally[Shadowed.TOO_MANY_WAITING] += 1

        if self.shadow.draws():
            self.grading.look_into(answer, partial(told_by, answer), offer, left)

    def levels(self) -> Iterable[Metric]:
        """What stands now, as gauges."""
        upstream = self.upstream
        yield from levels(
            upstream.waiting, upstream.in_use, upstream.breaker_state, self.completions.healths, self.stored.held.bytes
        )
        yield from self.shadow.levels()

    def mount(self, app: web.Application) -> None:
        """Add what is answered to `app`."""
        app.on_response_prepare.append(without_own_fields)
        app.router.add_get("/api/metrics/grading", self._grading)
        app.router.add_get("/api/metrics/grading-quality", self._quality)
        app.router.add_route("*", "/v1/batch/chat/completions", self.batch.handle)
        app.router.add_route("*", "/v1", self._v1)
        app.router.add_route("*", "/v1/{path:.*}", self._v1)

    async def _v1(self, request: web.Request) -> web.StreamResponse:
        taking = self._local_batches and not self._flags.bypass
        own = self.upstream.is_own(request.headers.getall("CDN-Loop", ()))  # grading refuses it
        if not own and self.batches.concerns(request, taking=taking):
            return await self.batches.handle(request)
        return await self.grading.handle(request)

    async def _grading(self, _: web.Request) -> web.Response:
        flags = self._flags
        state = {
            "enabled": flags.optimized_prompts and not flags.bypass,
            "templates": {
                name: {"state": health.state.value, "failures": health.failures, "answers": health.answers}
                for name, health in self.completions.healths.items()
            },
        }
        return answer_json(200, {**state, **self.books.document()})

    async def _quality(self, _: web.Request) -> web.Response:
        return answer_json(200, self.shadow.document())

    async def start(self) -> None:
        """Make ready."""
        await self.books.start()
        await self._files.start()
        self.shadow.start()
        await self.upstream.start()

    async def close(self) -> None:
        """End what is asked, and close every connection."""
        await self.batch.close()
        await self._batches.close()
        await self._files.close()
        await self.grading.close()
        await self.shadow.close()
        await self.upstream.close()
        await self.books.close()
