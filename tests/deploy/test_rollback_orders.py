"""What `siding rollback` is ordered, and what it takes from answers: tables."""

from __future__ import annotations

import pytest

from config.flags import FlagName
from deploy.asking import Answer
from deploy.rollback.switches import BadOrder, Seen, expected, judged, order, undoing

# -- orders


@pytest.mark.parametrize(
    ("flags", "settings", "wanted"),
    [
        (["ENABLE_ETAG"], [], {"ENABLE_ETAG": False}),
        (["bypass"], [], {"BYPASS": True}),
        ([], ["ENABLE_ETAG=on", "BYPASS=off"], {"ENABLE_ETAG": True, "BYPASS": False}),
        (["ENABLE_ETAG"], ["ENABLE_ETAG=on"], {"ENABLE_ETAG": True}),
        ([], ["ENABLE_ETAG=setting", "BYPASS=Setting"], {"ENABLE_ETAG": None, "BYPASS": None}),
    ],
)
def test_orders(flags: list[str], settings: list[str], wanted: dict[str, bool | None]) -> None:
    assert order(flags, settings, everything=False) == wanted


def test_all_is_every_flag_to_its_safe_side() -> None:
    wanted = order([], [], everything=True)
    assert set(wanted) == set(FlagName)
    assert [name for name, on in wanted.items() if on] == ["BYPASS"]


@pytest.mark.parametrize(
    ("flags", "settings", "said"),
    [
        ([], [], "nothing to do"),
        (["ENABLE_ETAGS"], [], "did you mean ENABLE_ETAG"),
        ([], ["ENABLE_ETAG"], "is not NAME=on, NAME=off or NAME=setting"),
        ([], ["ENABLE_ETAG=perhaps"], "is not NAME=on, NAME=off or NAME=setting"),
        ([], ["NO=on"], "is no flag"),
    ],
)
def test_orders_that_cannot_be_followed(flags: list[str], settings: list[str], said: str) -> None:
    with pytest.raises(BadOrder, match=said):
        order(flags, settings, everything=False)


def test_only_what_changed_is_undone() -> None:
    before = {"ENABLE_ETAG": True, "ENABLE_DEDUP": False, "BYPASS": False}
    assert undoing(before, {"ENABLE_ETAG": False, "ENABLE_DEDUP": False, "OTHER": True}) == {"ENABLE_ETAG": True}
    # whatever its setting says, it may have been set so in all replicas
    assert undoing(before, {"ENABLE_DEDUP": None}) == {"ENABLE_DEDUP": False}


def test_under_bypass_nothing_comes_from_the_cache() -> None:
    assert expected({"BYPASS": True, "ENABLE_ETAG": True}) == {"ENABLE_QUERY_CACHE": False, "BYPASS": True}
    assert expected({"ENABLE_ETAG": False, "ENABLE_DEDUP": False}) == {FlagName.ENABLE_ETAG: False}
    assert expected({"ENABLE_ETAG": True}) == {FlagName.ENABLE_ETAG: True}
    assert expected({"ENABLE_ETAG": None, "BYPASS": None}) == {}


# -- what answers say


def answer(status: int = 200, via: str = "1.1 edge, 1.1 siding", **fields: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Answer(status, 0.0, {"Via": via, **named}, b"")


HIT, FORWARDED = answer(Cache_Status="siding; hit; ttl=5"), answer(Cache_Status="siding; fwd=uri-miss")
PASSED = answer(Cache_Status="siding; fwd=bypass; fwd-status=200")
STEPPED_AROUND = answer(Cache_Status="siding; fwd=bypass; detail=failed-open")


@pytest.mark.parametrize(
    ("name", "on", "answers", "verdict"),
    [
        ("ENABLE_QUERY_CACHE", False, [FORWARDED, FORWARDED], Seen.AS_WANTED),
        ("ENABLE_QUERY_CACHE", False, [FORWARDED, HIT], Seen.NOT),
        ("ENABLE_QUERY_CACHE", True, [FORWARDED, HIT], Seen.AS_WANTED),
        # it may not be storable
        ("ENABLE_QUERY_CACHE", True, [FORWARDED, FORWARDED], Seen.OPEN),
        ("BYPASS", True, [PASSED, PASSED], Seen.AS_WANTED),
        ("BYPASS", True, [PASSED, FORWARDED], Seen.NOT),
        ("BYPASS", True, [STEPPED_AROUND, STEPPED_AROUND], Seen.NOT),
        ("BYPASS", False, [FORWARDED, HIT], Seen.AS_WANTED),
        ("BYPASS", False, [FORWARDED, PASSED], Seen.NOT),
        ("ENABLE_ETAG", False, [answer(), answer()], Seen.AS_WANTED),
        # the origin's own is not to be taken away
        ("ENABLE_ETAG", False, [answer(ETag='"a"')] * 2, Seen.OPEN),
        # but one replica of two
        ("ENABLE_ETAG", False, [answer(ETag='"a"'), answer()], Seen.NOT),
        ("ENABLE_ETAG", True, [answer(ETag='"a"')] * 2, Seen.AS_WANTED),
        ("ENABLE_COMPRESSION", False, [answer(Content_Encoding="gzip")] * 2, Seen.OPEN),
        # another service says nothing of Siding, and one that fails is not well
        ("ENABLE_ETAG", False, [answer(via=""), answer()], Seen.NOT),
        ("BYPASS", False, [answer(via="1.1 other")] * 2, Seen.NOT),
        ("ENABLE_ETAG", False, [answer(status=502), answer()], Seen.NOT),
    ],
)
def test_what_answers_say_of_a_flag(name: str, on: bool, answers: list[Answer], verdict: Seen) -> None:
    assert judged(FlagName(name), on, answers)[0] is verdict
