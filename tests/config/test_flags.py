"""Feature flags: a closed set, flipped all or none, observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.flags import FlagError, FlagName, Flags
from config.load import read
from config.settings import FlagSettings, ProxySettings


def test_the_set_is_that_of_the_settings() -> None:
    assert {name.lower() for name in FlagName} == set(FlagSettings.model_fields)
    assert all(name == name.value for name in FlagName.__members__.values())


def test_they_start_as_the_settings_say() -> None:
    environ = {"UPSTREAM_URL": "http://origin", "ENABLE_ETAG": "off", "ENABLE_COMPLETION_CACHE": "yes"}
    flags = Flags(read(ProxySettings, [], environ, "siding-proxy"))
    assert (flags.etag, flags.completion_cache, flags.dedup) == (False, True, True)


def test_defaults() -> None:
    off = {name for name, on in Flags().as_dict().items() if not on}
    assert off == {"ENABLE_COMPLETION_CACHE", "BYPASS"}


@pytest.mark.parametrize("name", FlagName)
def test_each_has_an_attribute_of_its_own(name: FlagName) -> None:
    flags, other = Flags(), Flags()
    value = not flags.on(name)
    assert flags.update({name.value: value})[name.value] is value
    assert flags.on(name) is value
    assert getattr(flags, name.attribute) is value
    assert {one for one in FlagName if flags.on(one) != other.on(one)} == {name}


def test_bypass_leaves_the_others_as_they_are() -> None:
    flags = Flags()
    flags.update({"BYPASS": "on"})
    assert flags.bypass
    assert (flags.query_cache, flags.etag, flags.compression) == (True, True, True)


@pytest.mark.parametrize(("value", "on"), [("TRUE", True), ("0", False), (1, True), (False, False), ("Off", False)])
def test_values(value: object, on: bool) -> None:
    flags = Flags()
    flags.update({"ENABLE_DEDUP": value})
    assert flags.dedup is on


def test_a_change_with_a_fault_changes_nothing_and_names_every_fault() -> None:
    flags = Flags()
    before = flags.as_dict()
    heard: list[tuple[str, bool]] = []
    flags.subscribe(lambda name, on: heard.append((name, on)))
    with pytest.raises(FlagError) as caught:
        flags.update({"ENABLE_ETAG": False, "ENABLE_ETAGS": True, "BYPASS": "maybe", "ENABLE_DEDUP": []})
    assert flags.as_dict() == before
    assert heard == []
    assert caught.value.faults == (
        "'ENABLE_ETAGS' is no flag; did you mean ENABLE_ETAG?",
        "BYPASS is 'maybe'; allowed: true or false (also 1/0, yes/no, on/off), or null: as its setting says",
        "ENABLE_DEDUP is []; allowed: true or false (also 1/0, yes/no, on/off), or null: as its setting says",
    )
    assert all(fault in str(caught.value) for fault in caught.value.faults)


@given(st.dictionaries(st.one_of(st.sampled_from(list(FlagName)), st.text()), st.one_of(st.booleans(), st.text())))
def test_all_or_nothing_for_any_change(changes: dict[str, object]) -> None:
    flags = Flags()
    before = flags.as_dict()
    try:
        after = flags.update(changes)
    except FlagError:
        assert flags.as_dict() == before
    else:
        assert flags.as_dict() == after
        assert set(changes) <= set(after)


def test_subscribers_hear_of_what_is_different_once_all_of_it_is() -> None:
    flags = Flags()
    heard: list[tuple[str, bool, dict[str, bool]]] = []
    flags.subscribe(lambda name, on: heard.append((name, on, flags.as_dict())))
    after = flags.update({"ENABLE_ETAG": False, "ENABLE_DEDUP": True, "BYPASS": True})
    assert heard == [("ENABLE_ETAG", False, after), ("BYPASS", True, after)]


def test_what_is_switched_is_logged_and_what_stands_so_is_not(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags()
    flags.update({"ENABLE_ETAG": False, "ENABLE_DEDUP": True, "BYPASS": True})
    assert [record.getMessage() for record in caplog.records] == [
        "ENABLE_ETAG was switched off",
        "BYPASS was switched on",
    ]


def test_null_is_what_the_setting_says_and_is_logged_even_where_it_stands_so(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags(FlagSettings(enable_etag=False, bypass=True))
    flags.update({"ENABLE_ETAG": True, "BYPASS": False, "ENABLE_DEDUP": False})
    caplog.clear()
    after = flags.update({"ENABLE_ETAG": None, "ENABLE_DEDUP": None, "ENABLE_COMPRESSION": None})
    assert after == {**Flags(FlagSettings(enable_etag=False)).as_dict(), "BYPASS": False}
    assert caplog.messages == [
        "ENABLE_ETAG was handed back to its setting, which is off",
        "ENABLE_DEDUP was handed back to its setting, which is on",
        "ENABLE_COMPRESSION was handed back to its setting, which is on",
        "ENABLE_ETAG was switched off",
        "ENABLE_DEDUP was switched on",
    ]


def test_what_is_like_no_flag_is_told_which_there_are() -> None:
    with pytest.raises(FlagError, match="'CACHE' is no flag; allowed: ENABLE_QUERY_CACHE, ENABLE_ETAG, "):
        Flags().update({"CACHE": True})


def test_lower_case_names_are_not_taken_but_guessed() -> None:
    with pytest.raises(FlagError, match="did you mean BYPASS"):
        Flags().update({"bypass": True})


def test_representation_lists_what_is_on() -> None:
    assert "ENABLE_ETAG" in repr(Flags())
    assert "BYPASS" not in repr(Flags())


def test_what_is_not_as_usual_is_named() -> None:
    flags = Flags()
    assert flags.unusual() == "all flags at their defaults"
    flags.update({"BYPASS": True, "ENABLE_ETAG": False, "ENABLE_DEDUP": True})
    assert flags.unusual() == "ENABLE_ETAG is off, BYPASS is on"
