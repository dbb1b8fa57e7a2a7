"""What the benchmark says of its figures."""

from __future__ import annotations

import re

import orjson
import pytest

from tests.bench.load import Load
from tests.bench.peers import CONTENT
from tests.bench.stage import Sample, fault_of, row_of
from tests.bench.table import (
    Cost,
    Goal,
    Row,
    Spread,
    Verdict,
    costs_table,
    differences,
    document,
    markdown,
    ratios,
    rows_table,
)
from tests.bench.works import FORWARD, HIT, NOT_MODIFIED, Work

MORE = Goal(1.2, 1.5)
LESS = Goal(1.5, 0.7, "KB", more=False)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (MORE, 1.5, Verdict.AIM),
        (MORE, 1.49, Verdict.LEAST),
        (MORE, 1.2, Verdict.LEAST),
        (MORE, 1.19, Verdict.MISSED),
        (LESS, 0.69, Verdict.AIM),
        (LESS, 0.7, Verdict.LEAST),
        (LESS, 1.5, Verdict.MISSED),
        (LESS, -0.1, Verdict.AIM),
        (Goal(1.5), 9.0, Verdict.LEAST),
    ],
)
def test_a_goal_is_reached_or_not(goal: Goal, value: float, verdict: Verdict) -> None:
    assert goal.verdict(value) is verdict


@pytest.mark.parametrize(
    ("rate", "time", "verdict", "by_time"),
    [
        (1.0, 1.6, Verdict.UNKNOWN, Verdict.AIM),
        (1.0, 1.3, Verdict.UNKNOWN, Verdict.LEAST),
        (1.0, 1.0, Verdict.MISSED, Verdict.MISSED),
        (1.6, 1.0, Verdict.AIM, Verdict.MISSED),
        (1.3, 1.6, Verdict.LEAST, Verdict.AIM),
    ],
)
def test_missed_for_want_of_a_client_is_not_known_to_be_missed(
    rate: float, time: float, verdict: Verdict, by_time: Verdict
) -> None:
    row = Row("hit", Spread((rate,)), MORE, "nginx", saved=Spread((time,)), limited=True)
    assert (row.verdict, row.by_time) == (verdict, by_time)


def test_what_limits_does_not_matter_where_nothing_is() -> None:
    assert Row("hit", Spread((1.0,)), MORE, "nginx", saved=Spread((1.6,))).verdict is Verdict.MISSED


def test_ratios_are_of_the_same_round() -> None:
    spread = ratios([10, 40, 90], [10, 20, 30])
    assert list(spread.values) == [1, 2, 3]
    assert spread.shown("x nginx") == "2.00 x nginx (1.00 - 3.00)"
    assert differences([3.0, 2.0], [1.0, 1.5]) == Spread((2.0, 0.5))
    assert Spread((1234.567,)).shown("", 1) == "1,234.6"


def _samples(*figures: tuple[float, float, float]) -> list[Sample]:
    return [Sample(*each) for each in figures]


SAMPLES = {
    "Siding": _samples((60, 10, 1.0), (66, 10, 0.95), (54, 12, 1.0)),
    "nginx": _samples((40, 20, 1.0), (44, 20, 1.0), (40, 18, 1.0)),
    "Varnish": _samples((30, 30, 1.0), (22, 40, 1.0), (27, 30, 1.0)),
}
ROW = row_of("hit", MORE, SAMPLES, "Siding", "nginx")


def test_a_row_is_made_of_what_was_measured() -> None:
    assert ROW.measured.values == (1.5, 1.5, 1.35)
    assert ROW.saved == Spread((2.0, 2.0, 1.5))
    assert ROW.beside == {"Varnish": Spread((2.0, 3.0, 2.0))}
    assert ROW.rates == {"Siding": 60, "nginx": 40, "Varnish": 27}
    assert ROW.cpu == {"Siding": 10, "nginx": 20, "Varnish": 30}
    assert not ROW.limited
    assert ROW.verdict is Verdict.AIM


def test_a_proxy_with_time_to_spare_was_not_the_limit() -> None:
    row = row_of("hit", MORE, SAMPLES | {"Siding": _samples(*[(44, 10, 0.6)] * 3)}, "Siding", "nginx")
    assert row.limited
    assert "Siding 60% and nginx 100% of a core" in row.note
    assert row.verdict is Verdict.UNKNOWN


def test_a_peer_with_time_to_spare_does_not_make_siding_fast() -> None:
    slow = {"Siding": _samples((60, 16, 1.0)), "nginx": _samples((40, 16, 0.6))}
    row = row_of("hit", MORE, slow, "Siding", "nginx")
    assert row.measured.median == 1.5
    assert row.limited
    assert row.by_time is Verdict.MISSED


COSTS = [Cost("ENABLE_ETAG", "hit", Spread((10.0, 11.0)), Spread((12.0, 12.0)))]


def test_the_tables_are_markdown() -> None:
    tables = rows_table([ROW, Row("memory", Spread((0.5,)), LESS, note="measured once")]), costs_table(COSTS)
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        assert re.fullmatch(r"\|( --- \|)+", lines[1])
    assert "| hit | 1.50 x nginx (1.35 - 1.50) | 1.2 x | 1.5 x | aim reached | 2.00 x Varnish |" in tables[0]
    assert "| memory | 0.50 KB | under 1.5 KB | under 0.7 KB | aim reached (1) |" in tables[0]
    assert tables[0].endswith("\n(1) memory: measured once")
    assert "| ENABLE_ETAG | hit | 10.5 | 12.0 | 1.5 µs (1.0 - 2.0) |" in tables[1]


def test_both_tables_and_the_machine_are_written() -> None:
    machine = {"machine": "two cores"}
    whole = markdown(machine, [ROW], COSTS)
    assert whole.startswith("- machine: two cores\n")
    assert rows_table([ROW]) in whole
    assert costs_table(COSTS) in whole
    assert "feature" not in markdown(machine, [ROW], [])


def test_the_document_has_every_round() -> None:
    read = orjson.loads(orjson.dumps(document({"machine": "two cores"}, [ROW], COSTS)))
    [row], [cost] = read["rows"], read["features"]
    assert row["rounds"] == [1.5, 1.5, 1.35]
    assert (row["verdict"], row["verdictByCpu"], row["least"], row["aim"]) == ("aim", "aim", 1.2, 1.5)
    assert cost == {"feature": "ENABLE_ETAG", "work": "hit", "off": [10.0, 11.0], "on": [12.0, 12.0]}


OCTETS = len(CONTENT) + 300


@pytest.mark.parametrize(
    ("work", "each", "reached", "fault"),
    [
        (HIT, OCTETS, 0, ""),
        (HIT, OCTETS + 20, 1, ""),
        (FORWARD, OCTETS, 1000, ""),
        (FORWARD, OCTETS, 1064, ""),
        (NOT_MODIFIED, 300, 0, "300 bytes a response"),
        (HIT, OCTETS, 1000, "should have been hits"),
        (FORWARD, OCTETS, 900, "only 900 of 1000"),
    ],
)
def test_a_measurement_of_something_else_does_not_count(work: Work, each: int, reached: int, fault: str) -> None:
    found = fault_of(Load(1000, 1.0, 1000 * each), work, reached=reached, octets=OCTETS)
    assert fault in found
    assert bool(found) is bool(fault)
