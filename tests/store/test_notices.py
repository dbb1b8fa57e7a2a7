"""What is invalid, by the numbers of the log: against a model that remembers everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.bulletin import Standing
from config.everywhere import FLAGS
from config.flags import Flags
from config.tier import SharedTier
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.notices import Notices
from proxy.store.telling import note

URI = "http://a/x"
TAGS = ("t",)


LOG = "a-log"


def notices(flags: Flags | None = None) -> Notices:
    """Of a replica that reads no log: it is told what is in it. flags -- None: a worker's, which its parent minds."""
    one = Notices(SharedTier("redis://127.0.0.1:1/0"), "name", "me", Invalidations(), flags)
    one.bulletin._generation = LOG
    return one


def at(number: int, log: str = LOG) -> Standing:
    return Standing(log, number)


CONCERN = [("uri", URI), ("uri", "/x"), ("tag", "t"), ("prefix", "http://a/"), ("prefix", "/"), ("all", "")]
DO_NOT = [("uri", "http://a/y"), ("tag", "u"), ("prefix", "/y")]
entries = st.lists(
    st.tuples(st.sampled_from(CONCERN + DO_NOT), st.booleans(), st.sampled_from(["me", "other"])), max_size=12
)


@given(entries, st.integers(0, 12), st.integers(0, 12))
def test_a_record_is_spoilt_by_every_later_invalidation_and_by_no_other(
    told: list[Any], begin: int, number: int
) -> None:
    """begin -- where this replica began to read. number -- what the record's origin knew of."""
    one = notices()
    one.began(begin, begin)
    for place, ((what, name), soft, by) in enumerate(told, begin + 1):
        one.took(place, by, [what, name, soft])
    later = [
        soft
        for place, ((what, name), soft, _) in enumerate(told, begin + 1)
        if place > number and (what, name) in CONCERN
    ]
    expected = Validity.VALID
    if later:
        expected = Validity.STALE if all(later) else Validity.GONE
    if number < begin:
        expected = Validity.GONE
    assert one.state(URI, TAGS, at(number)) is expected


def test_what_others_tell_is_invalid_here_and_ones_own_is_already() -> None:
    one = notices()
    here = one._here
    one.began(0, 0)
    one.took(1, "other", ["tag", "t", False])
    assert here.state(URI, TAGS, 0) is Validity.GONE
    epoch = here.epoch
    one.took(2, "me", ["tag", "t", False])
    assert here.epoch == epoch


@pytest.mark.parametrize("entry", [["all"], ["tag", "t", False, "more"], ["mystery", "x", False]])
def test_what_a_newer_replica_says_and_nobody_here_understands_is_everything(entry: list[Any]) -> None:
    one = notices()
    one.began(0, 0)
    one.took(1, "other", entry)
    assert one.state(URI, TAGS, at(0)) is Validity.GONE
    assert one._here.state(URI, TAGS, 0) is Validity.GONE


def test_flags_have_numbers_too() -> None:
    flags = Flags()
    one = notices(flags)
    one.began(4, 4)
    one.took(5, "other", ["flags", {"BYPASS": True, "NEWER": True, "ENABLE_ETAG": "off"}, False])
    assert flags.bypass
    assert not flags.etag
    one.took(6, "me", ["flags", {"BYPASS": False}, False])
    assert flags.bypass
    one.took(7, "other", ["tag", "t", False])
    assert one.state(URI, TAGS, at(6)) is Validity.GONE
    assert one.state(URI, TAGS, at(7)) is Validity.VALID


@pytest.mark.parametrize(("surely", "validity"), [(True, Validity.GONE), (False, Validity.STALE)])
def test_what_was_missed(surely: bool, validity: Validity) -> None:
    one = notices()
    one.began(0, 0)
    one.missed(surely=surely)
    assert one._here.state(URI, (), 0) is validity


@pytest.fixture
async def untold() -> AsyncIterator[Notices]:
    """Its tier cannot be reached."""
    one = notices(Flags())
    yield one
    await one.bulletin.close()
    await one.bulletin._tier.close()


async def test_what_is_not_told_yet_spoils_what_the_tier_has(untold: Notices) -> None:
    untold.began(5, 5)
    note(untold._here, ("tag", "t", False))
    untold.tell([("tag", "t", False)])
    assert untold.state(URI, TAGS, at(5)) is Validity.GONE
    assert untold.state(URI, ("other",), at(5)) is Validity.VALID
    # it got the number 6, and this replica has not read that far
    untold.bulletin._pending.clear()
    untold.bulletin.position, untold.bulletin.published = 5, 6
    untold.bulletin._published_in = LOG
    untold.logged(0, at(6))
    assert untold.state(URI, TAGS, at(5)) is Validity.GONE
    assert untold.state(URI, TAGS, at(6)) is Validity.VALID
    assert untold.standing == at(6)
    untold.took(6, "me", ["tag", "t", False])
    untold.bulletin.position = 6
    assert untold.state(URI, TAGS, at(5)) is Validity.GONE
    assert untold.state(URI, TAGS, at(6)) is Validity.VALID


async def test_what_a_sibling_tells_spoils_what_the_tier_has_until_the_log_has_it(untold: Notices) -> None:
    untold.began(5, 5)
    untold.sibling_told(1, 8, [("tag", "t", False)])
    untold.sibling_told(2, 3, [("tag", "u", False)])
    assert untold.state(URI, TAGS, at(5)) is Validity.GONE
    assert untold.state(URI, TAGS, at(9)) is Validity.GONE, "its number is not known"
    assert untold.state(URI, ("other",), at(5)) is Validity.VALID
    untold.sibling_logged(2, 3, at(6))
    untold.sibling_logged(1, 8, at(7))
    assert untold.state(URI, TAGS, at(6)) is Validity.GONE
    assert untold.state(URI, TAGS, at(7)) is Validity.VALID
    untold.took(6, "me", ["tag", "u", False])
    untold.took(7, "me", ["tag", "t", False])
    untold.bulletin.position = 7
    assert untold.state(URI, TAGS, at(6)) is Validity.GONE
    assert untold.state(URI, TAGS, at(7)) is Validity.VALID


async def test_what_a_sibling_cannot_tell_any_more_is_told_in_its_place(untold: Notices) -> None:
    untold.began(5, 5)
    untold.sibling_told(1, 1, [("tag", "t", False)])
    untold.sibling_logged(1, 1, at(6))
    untold.bulletin.position = 6
    untold.sibling_told(1, 3, [("uri", "/x", False), ("uri", "/y", False)])
    untold.sibling_gone(1)
    untold.sibling_gone(2)
    assert [orjson.loads(entry) for entry in untold.bulletin._pending] == [["uri", "/x", False], ["uri", "/y", False]]
    assert untold.state(URI, TAGS, at(9)) is Validity.GONE


async def test_gone_is_gone_whoever_says_that_it_is_only_stale(untold: Notices) -> None:
    untold.began(0, 0)
    untold.took(1, "other", ["tag", "t", True])
    assert untold.state(URI, TAGS, at(0)) is Validity.STALE
    untold.sibling_told(1, 1, [("tag", "t", False)])
    assert untold.state(URI, TAGS, at(0)) is Validity.GONE


async def test_what_has_its_number_already_waits_for_the_log_to_be_read_that_far(untold: Notices) -> None:
    """It was told to a log that had just begun anew, before that was known here."""
    untold.tell([("tag", "t", False)])
    untold.logged(0, at(105))
    untold.sibling_told(1, 1, [("tag", "u", False)])
    untold.sibling_logged(1, 1, at(106))
    untold.bulletin.position = 104
    untold.began(104, 104)
    assert untold.state(URI, TAGS, at(104)) is Validity.GONE
    assert untold.state(URI, ("u",), at(105)) is Validity.GONE
    assert untold.state(URI, ("other",), at(104)) is Validity.VALID


async def test_places_in_another_log_cannot_be_compared(untold: Notices) -> None:
    """As while two servers believe to be the master: one is read, another is told, and both have records."""
    untold.bulletin.position = 5
    untold.began(5, 5)
    assert untold.state(URI, TAGS, at(5)) is Validity.VALID
    assert untold.state(URI, TAGS, at(900, "other")) is Validity.GONE
    untold.tell([("tag", "t", False)])
    untold.bulletin._pending.clear()
    untold.bulletin.published, untold.bulletin._published_in = 3, "other"
    untold.logged(0, at(3, "other"))
    assert untold.standing == at(5)
    assert untold.state(URI, TAGS, at(5)) is Validity.GONE, "in the log that is read it has no number"
    assert untold.state(URI, ("other",), at(5)) is Validity.VALID


async def test_what_was_asked_before_the_log_was_known_here_is_not_used(untold: Notices) -> None:
    """It may be older than what was told to another, and is not in this one."""
    untold.bulletin.position = 5
    untold.began(5, 8)
    assert untold.state(URI, TAGS, at(7)) is Validity.GONE
    assert untold.state(URI, TAGS, at(8)) is Validity.VALID


def test_who_comes_from_another_log_makes_everything_stale_for_those_who_read_this_one() -> None:
    """What he had told there, and read there, they have not heard of."""
    one, other = notices(), notices()
    one.began(0, 0)
    for number, entry in enumerate(other.moved(())[0], 1):
        one.took(number, "other", entry)
    assert one._here.state(URI, (), 0) is Validity.STALE
    assert one.state(URI, (), at(0)) is Validity.STALE


async def test_what_was_told_to_a_log_that_is_read_no_more_is_told_again(untold: Notices) -> None:
    untold.bulletin.position = 5
    untold.began(5, 5)
    untold.tell([("tag", "read", False), ("tag", "t", False), ("tag", "there", False), ("tag", "pending", False)])
    untold.sibling_told(1, 1, [("tag", "u", False)])
    untold.sibling_logged(1, 1, at(9))
    untold._own.logged(1, at(6))
    untold._own.logged(2, at(7))
    untold._own.logged(3, at(101, "next"))
    untold.bulletin.position = 6
    assert untold.state(URI, ("read",), at(5)) is Validity.VALID
    untold.bulletin._pending.clear()
    untold.bulletin._generation, untold.bulletin.position = "next", 100
    untold.moved(())
    untold.sibling_told(1, 2, [("tag", "later", False)])
    untold.began(99, 100)
    assert [orjson.loads(entry) for entry in untold.bulletin._pending] == [["tag", "t", False]]
    assert untold.state(URI, ("t",), at(100, "next")) is Validity.GONE
    assert untold.state(URI, ("there",), at(100, "next")) is Validity.GONE
    assert untold.state(URI, ("u",), at(100, "next")) is Validity.VALID, "it was told before the log was known"
    assert untold.state(URI, ("later",), at(100, "next")) is Validity.GONE, "that is for its sibling to tell again"
    untold.logged(0, at(103, "next"))
    untold.bulletin.position = 103
    assert untold.state(URI, ("t",), at(103, "next")) is Validity.VALID


async def test_who_joins_is_told_what_cannot_be_read_yet(untold: Notices) -> None:
    untold.bulletin.position = 5
    untold.began(5, 5)
    untold.tell([("tag", "read", False), ("tag", "t", True)])
    untold._own.logged(1, at(6))
    untold._own.logged(2, at(7))
    untold.bulletin.position = 6
    name = untold.bulletin.read.log
    assert untold.sibling_joined() == (name, [("tag", "t", True)])
    assert untold.state(URI, ("t",), at(6)) is Validity.STALE
    assert untold.sibling_joined() == (name, [])


async def test_flags_set_everywhere_are_kept_again_by_who_comes_to_another_log(untold: Notices) -> None:
    assert untold.pins is not None
    untold.kept({"BYPASS": True}, 0)
    untold.took(1, "other", [FLAGS, {"ENABLE_ETAG": False}, False])
    await untold.tell_flags({"BYPASS": False}, 0.0)
    assert untold.moved(())[1] == {"BYPASS": False, "ENABLE_ETAG": False}
    # the log has it not yet, and so nobody else
    assert untold.pins.pinned == {"BYPASS": True, "ENABLE_ETAG": False}
    # handed back to their settings
    untold.took(2, "other", [FLAGS, {"ENABLE_ETAG": None}, False])
    assert untold.moved({"BYPASS"})[1] == {"ENABLE_ETAG": None}
    assert untold.pins.pinned == {"BYPASS": True}


def test_flags_of_entries_that_are_in_what_is_kept_are_past() -> None:
    flags = Flags()
    one = notices(flags)
    one.kept({"BYPASS": True}, 2)
    for number, on, stands in ((1, True, True), (2, False, True), (3, False, False)):
        one.took(number, "other", [FLAGS, {"BYPASS": on}, False])
        assert flags.bypass is stands
    # flipped here alone, and nothing new since
    flags.update({"BYPASS": True})
    one.kept({"BYPASS": False}, 4)
    assert flags.bypass


def test_flags_are_nothing_to_a_worker_whose_parent_minds_them() -> None:
    one = notices()
    one.began(4, 4)
    one.kept({"BYPASS": True}, 4)
    one.took(5, "other", [FLAGS, {"BYPASS": True}, False])
    one.took(6, "other", ["tag", "t", False])
    assert one.state(URI, TAGS, at(5)) is Validity.GONE
    assert one.state(URI, TAGS, at(6)) is Validity.VALID
    assert one.moved(())[1] == {}
