"""What `siding rollback` is ordered, and what it takes from answers: tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.flags import Changes, FlagName
from deploy.asking import Answer, Stand, stand_in
from deploy.rollback.switches import BadOrder, Seen, Undo, expected, in_order, judged, order, undo_line, undoing

BACK: dict[str, bool | None] = dict.fromkeys([name.value for name in FlagName])

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
    assert order(flags, settings) == wanted


def test_all_is_every_flag_to_its_safe_side() -> None:
    wanted = order([], [], everything=True)
    assert set(wanted) == set(FlagName)
    assert [name for name, on in wanted.items() if on] == ["BYPASS"]


def test_all_is_handed_back_but_what_is_named() -> None:
    assert order([], [], back=True) == BACK
    assert order(["BYPASS"], ["ENABLE_ETAG=off"], back=True) == BACK | {"BYPASS": True, "ENABLE_ETAG": False}


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
        order(flags, settings)


ETAG, DEDUP = {"ENABLE_ETAG": True}, {"ENABLE_DEDUP": False}


@pytest.mark.parametrize(
    ("pinned", "wanted", "here", "everywhere", "alone"),
    [
        ({}, {"ENABLE_ETAG": False, "OTHER": True}, False, {"ENABLE_ETAG": None}, {}),
        # it stood so, and is pinned now
        ({}, ETAG, False, {"ENABLE_ETAG": None}, {}),
        (ETAG, ETAG, False, {}, {}),
        (ETAG, {"ENABLE_ETAG": None}, False, ETAG, {}),
        # what had been flipped here alone comes after
        ({}, {"ENABLE_DEDUP": True}, False, {"ENABLE_DEDUP": None}, DEDUP),
        ({"ENABLE_DEDUP": True}, {"ENABLE_DEDUP": None}, False, {"ENABLE_DEDUP": True}, DEDUP),
        ({}, {"ENABLE_DEDUP": None}, True, {}, DEDUP),
        ({}, DEDUP, True, {}, {}),
    ],
)
def test_what_undoes_an_order(
    pinned: dict[str, bool], wanted: Changes, here: bool, everywhere: Changes, alone: Changes
) -> None:
    flags, settings = ETAG | DEDUP, {"ENABLE_ETAG": True, "ENABLE_DEDUP": True}
    before = Stand(flags, settings, pinned, known=True, untold={})
    assert undoing(before, wanted, here=here) == Undo(everywhere, alone)


SOME = st.dictionaries(st.sampled_from([name.value for name in FlagName]), st.booleans())
EVERY = st.fixed_dictionaries({name.value: st.booleans() for name in FlagName})


WANTED = st.dictionaries(st.sampled_from([name.value for name in FlagName]), st.none() | st.booleans())
TWO = st.fixed_dictionaries({"a": EVERY, "b": EVERY})


@given(TWO, TWO, SOME, WANTED, st.booleans())
def test_undone_all_stands_as_it_did_pins_included(
    flags: dict[str, dict[str, bool]],
    settings: dict[str, dict[str, bool]],
    pinned: dict[str, bool],
    wanted: Changes,
    here: bool,
) -> None:
    """Of two replicas, both named."""
    stands, pins = {admin: dict(stand) for admin, stand in flags.items()}, dict(pinned)

    def done(admin: str, changes: Changes, here: bool) -> None:
        for name, on in changes.items():
            for one in [admin] if here else stands:
                stands[one][name] = settings[one][name] if on is None else on
            if here:
                continue
            pins.pop(name, None)
            pins.update({} if on is None else {name: on})

    for admin in flags:
        done(admin, wanted, here)
    before = {admin: Stand(flags[admin], settings[admin], pinned, known=True, untold={}) for admin in flags}
    for step in in_order({admin: undoing(stand, wanted, here=here) for admin, stand in before.items()}):
        done(*step)
    assert (stands, pins) == (flags, pinned)


@pytest.mark.parametrize(
    ("wanted", "untold", "known", "here", "guessed"),
    [
        ({"ENABLE_ETAG": False}, {}, False, False, True),
        ({"ENABLE_ETAG": False}, {}, True, False, False),
        # these are exact
        ({"ENABLE_ETAG": False}, {}, False, True, False),
        ({"ENABLE_ETAG": None}, {}, False, False, False),
        ({"ENABLE_ETAG": False}, ETAG, False, False, False),
    ],
)
def test_what_may_have_been_set_in_all_replicas_is_guessed(
    wanted: Changes, untold: Changes, known: bool, here: bool, guessed: bool
) -> None:
    before = Stand(ETAG, ETAG, {}, known=known, untold=untold)
    assert undoing(before, wanted, here=here).guessed is guessed


def test_what_all_replicas_are_yet_to_hear_of_is_led_back_to_as_well() -> None:
    told = {"pinned": {"BYPASS": False, "ENABLE_ETAG": False}, "untold": {"BYPASS": True, "ENABLE_ETAG": None}}
    before = stand_in({"BYPASS": True, "ENABLE_ETAG": True, "settings": {"BYPASS": False, "ENABLE_ETAG": True}, **told})
    assert undoing(before, {"BYPASS": False, "ENABLE_ETAG": False}, here=False) == Undo(
        {"BYPASS": True, "ENABLE_ETAG": None},
        {},
    )


def test_the_command_that_undoes_all_is_short() -> None:
    def words(changes: Changes, *, here: bool = False) -> str:
        undo = Undo({}, changes) if here else Undo(changes, {})
        first, *others = undo_line(["siding"], {"http://a": undo}).split(" --admin http://a ")
        assert first == "siding rollback"
        return " ".join(others)

    assert words(BACK) == "--settings"
    assert words({**BACK, "BYPASS": False}) == "--settings --set BYPASS=off"
    assert words({"BYPASS": None, "ENABLE_ETAG": True}) == "--set BYPASS=setting --set ENABLE_ETAG=on"
    assert "--settings" not in words(dict.fromkeys(BACK, True))
    assert words({"BYPASS": False}, here=True) == "--set BYPASS=off --here"
    assert undo_line(["siding"], {"http://a": Undo({}, {})}) == ""


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


def test_what_is_guessed_at_one_does_not_take_what_is_known_at_another() -> None:
    known, guessed = Undo({"ENABLE_ETAG": True}, {}), Undo({"ENABLE_ETAG": None}, {"BYPASS": True}, guessed=True)
    assert in_order({"a": known, "b": guessed}) == [
        ("b", {"ENABLE_ETAG": None}, False),
        ("a", {"ENABLE_ETAG": True}, False),
        ("b", {"BYPASS": True}, True),
    ]
