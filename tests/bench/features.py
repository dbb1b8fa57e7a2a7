"""The second table: what each feature costs, by processor time a request with it off and on, in alternating rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.bench import load
from tests.bench.ask import flip
from tests.bench.peers import Peer
from tests.bench.stage import WARM_SECONDS, Stage
from tests.bench.table import Cost, Spread
from tests.bench.works import FORWARD, GZIP, HIT, Work

ROUNDS = 3
"""At most, and of half the length: processor time is steadier than rates."""
UNTAGGED = replace(HIT, target="/untagged")
COMPRESSED = replace(FORWARD, accept_encoding="gzip", coding="gzip")


Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Feature:
    """What is switched.

    flag -- flipped while one Siding runs; without it there are two, with the settings `off` and `on`.
    works -- what is asked, by name. uncoded -- whether responses have no content coding when it is off.
    off_is -- the value of the flag that has the feature off.
    """

    name: str
    works: Mapping[str, Work]
    flag: str = ""
    off: Settings = ()
    on: Settings = ()
    uncoded: bool = False
    off_is: bool = False


BOTH = {"hit": HIT, "forward": FORWARD}


def features(redis: str, collector: str) -> list[Feature]:
    """Every feature that costs requests something. redis, collector -- URLs."""
    traced = (("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"))
    return [
        Feature("ENABLE_QUERY_CACHE", {"forward, not cacheable": FORWARD}, flag="ENABLE_QUERY_CACHE"),
        Feature("ENABLE_ETAG", {"hit without the origin's ETag": UNTAGGED, "forward": FORWARD}, flag="ENABLE_ETAG"),
        Feature("ENABLE_DEDUP", BOTH, flag="ENABLE_DEDUP"),
        Feature(
            "ENABLE_COMPRESSION", {"hit, gzip": GZIP, "forward, gzip": COMPRESSED}, "ENABLE_COMPRESSION", uncoded=True
        ),
        Feature("access log (info against warning)", BOTH, off=(("LOG_LEVEL", "warning"),)),
        Feature("Redis tier (REDIS_URL)", BOTH, on=(("REDIS_URL", redis),)),
        Feature("traces of 1 %", BOTH, on=(*traced, ("OTEL_TRACES_SAMPLER_ARG", "0.01"))),
        Feature("everything that BYPASS switches off", {"forward": FORWARD}, flag="BYPASS", off_is=True),
    ]


def costs(stage: Stage, siding: Peer) -> list[Cost]:
    """Of all features. siding -- where flags are flipped; they stand as before afterwards."""
    stage = replace(stage, rounds=min(stage.rounds, ROUNDS), seconds=max(1, stage.seconds // 2))
    redis = stage.peers.redis(stage.cores.client)
    found: list[Cost] = []
    for feature in features(f"redis://127.0.0.1:{redis.port}/0", f"http://127.0.0.1:{stage.origin.port}"):
        peers = {False: siding, True: siding}
        if not feature.flag:
            for on, settings in ((False, feature.off), (True, feature.on)):
                peers[on] = stage.peers.siding(stage.origin, f"siding-{'on' if on else 'off'}", settings=dict(settings))
        found += [_cost(stage, feature, name, work, peers) for name, work in feature.works.items()]
        for peer in {peer.pid: peer for peer in peers.values() if peer is not siding}.values():
            stage.peers.stop(peer)
    stage.peers.stop(redis)
    return found


def _cost(stage: Stage, feature: Feature, name: str, work: Work, peers: Mapping[bool, Peer]) -> Cost:
    works = {False: replace(work, coding="identity") if feature.uncoded else work, True: work}
    if not feature.flag:
        for peer in peers.values():
            load.run(peer.port, work, WARM_SECONDS, stage.folder, stage.cores.client)
    spent: dict[bool, list[float]] = {False: [], True: []}
    for number in range(stage.rounds):
        for on in (False, True) if number % 2 else (True, False):
            if feature.flag:
                flip(peers[on], feature.flag, on=on is not feature.off_is)
                if not number:
                    load.run(peers[on].port, work, WARM_SECONDS, stage.folder, stage.cores.client)
            spent[on].append(stage.sample(peers[on], works[on]).cpu)
    if feature.flag:
        flip(peers[True], feature.flag, on=not feature.off_is)
    cost = Cost(feature.name, name, Spread(tuple(spent[False])), Spread(tuple(spent[True])))
    stage.say(f"{feature.name}, {name}: {cost.off.median:.1f} µs off, {cost.on.median:.1f} on")
    return cost
