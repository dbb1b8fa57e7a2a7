"""Invalidations: what they catch, what they leave alone, and that forgetting can only catch too much."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.invalidations import MAX_PREFIXES, Invalidations, Validity

URI = "https://example.org/reports/7?week=40"
TAGS = ("reports", "class-3")


def state(invalidations: Invalidations, epoch: int = 0) -> Validity:
    return invalidations.state(URI, TAGS, epoch)


def test_nothing_is_invalid_at_first() -> None:
    invalidations = Invalidations()
    assert invalidations.epoch == 0
    assert state(invalidations) is Validity.VALID


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("tag", "reports"),
        ("tag", "class-3"),
        ("uri", URI),
        ("uri", "/reports/7?week=40"),
        ("prefix", "https://example.org/reports/"),
        ("prefix", "https://"),
        ("prefix", "/reports"),
        ("prefix", URI),
    ],
)
@pytest.mark.parametrize(("soft", "expected"), [(False, Validity.GONE), (True, Validity.STALE)])
def test_what_an_invalidation_catches(what: str, name: str, soft: bool, expected: Validity) -> None:
    invalidations = Invalidations()
    getattr(invalidations, f"purge_{what}")(name, soft)
    assert invalidations.epoch == 1
    assert state(invalidations, 0) is expected
    assert state(invalidations, 1) is Validity.VALID


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("tag", "report"),
        ("tag", URI),
        ("tag", "/reports/7?week=40"),
        ("uri", "reports"),
        ("uri", "https://example.org/reports/7"),
        ("uri", "/reports/7"),
        ("prefix", "http://"),
        ("prefix", "/report/"),
        ("prefix", "reports"),
        ("prefix", URI + "1"),
    ],
)
def test_what_an_invalidation_leaves_alone(what: str, name: str) -> None:
    invalidations = Invalidations()
    getattr(invalidations, f"purge_{what}")(name)
    assert state(invalidations) is Validity.VALID


@pytest.mark.parametrize(("soft", "expected"), [(False, Validity.GONE), (True, Validity.STALE)])
def test_everything_can_be_purged(soft: bool, expected: Validity) -> None:
    invalidations = Invalidations()
    invalidations.purge_all(soft)
    assert state(invalidations) is expected
    assert state(invalidations, 1) is Validity.VALID


def test_a_uri_without_a_path_has_the_root_path() -> None:
    invalidations = Invalidations()
    invalidations.purge_uri("/")
    assert invalidations.state("http://example.org", (), 0) is Validity.GONE


def test_for_good_outweighs_softly_and_softly_does_not_undo_for_good() -> None:
    invalidations = Invalidations()
    invalidations.purge_tag("reports")
    between = invalidations.epoch
    invalidations.purge_tag("reports", soft=True)
    assert state(invalidations, 0) is Validity.GONE
    assert state(invalidations, between) is Validity.STALE
    assert state(invalidations, invalidations.epoch) is Validity.VALID


def test_the_worst_of_several_counts() -> None:
    invalidations = Invalidations()
    invalidations.purge_uri(URI, soft=True)
    invalidations.purge_prefix("/reports")
    invalidations.purge_tag("class-3", soft=True)
    assert state(invalidations) is Validity.GONE


def test_an_older_prefix_does_not_hide_behind_a_newer_one() -> None:
    invalidations = Invalidations()
    invalidations.purge_prefix("/reports")
    invalidations.purge_prefix("/other")
    assert state(invalidations) is Validity.GONE
    assert state(invalidations, 1) is Validity.VALID


def test_a_prefix_purged_again_counts_as_the_latest() -> None:
    invalidations = Invalidations()
    invalidations.purge_prefix("/reports")
    invalidations.purge_prefix("/other")
    before = invalidations.epoch
    invalidations.purge_prefix("/reports", soft=True)
    assert state(invalidations, before) is Validity.STALE


@pytest.mark.parametrize(("soft", "expected"), [(False, Validity.GONE), (True, Validity.STALE)])
def test_the_forgotten_widen_to_everything_older(soft: bool, expected: Validity) -> None:
    invalidations = Invalidations(limit=10)
    invalidations.purge_uri("/forgotten", soft)
    for number in range(10):
        invalidations.purge_uri(f"/later/{number}")
    assert invalidations.state("http://example.org/unrelated", (), 0) is expected
    assert invalidations.state("http://example.org/unrelated", (), 1) is Validity.VALID
    assert invalidations.state("http://example.org/later/3", (), 4) is Validity.GONE


def test_forgotten_prefixes_widen_too() -> None:
    invalidations = Invalidations()
    for number in range(MAX_PREFIXES + 1):
        invalidations.purge_prefix(f"/{number}/")
    assert invalidations.state("http://example.org/unrelated", (), 0) is Validity.GONE
    assert invalidations.state("http://example.org/unrelated", (), 1) is Validity.VALID
    assert invalidations.state(f"http://example.org/{MAX_PREFIXES}/", (), 1) is Validity.GONE


def test_records_are_bounded() -> None:
    invalidations = Invalidations(limit=5)
    for number in range(50):
        invalidations.purge_tag(f"tag-{number}")
        invalidations.purge_uri(f"/uri-{number}")
        invalidations.purge_prefix(f"/prefix-{number}")
    assert "names=5 prefixes=5" in repr(invalidations)


def test_purging_everything_frees_the_records() -> None:
    invalidations = Invalidations()
    invalidations.purge_tag("reports")
    invalidations.purge_prefix("/reports")
    invalidations.purge_all(soft=True)
    assert "names=1 prefixes=1" in repr(invalidations)
    invalidations.purge_all()
    assert "names=0 prefixes=0" in repr(invalidations)
    assert state(invalidations, 1) is Validity.GONE


# -- against a list of everything that ever happened


@dataclass(frozen=True)
class Purge:
    what: str
    name: str
    soft: bool

    def catches(self, uri: str, tags: tuple[str, ...]) -> bool:
        path = "/" + uri.split("/", 3)[3]
        match self.what:
            case "tag":
                return self.name in tags
            case "uri":
                return self.name in (uri, path)
            case "prefix":
                return uri.startswith(self.name) or path.startswith(self.name)
        return True


URIS = ("http://a/x", "http://a/x/y", "http://b/x")
NAMES = {
    "tag": ("red", "blue"),
    "uri": (*URIS, "/x", "/x/y"),
    "prefix": ("http://a/", "http://a/x/", "/x", "/x/y"),
    "all": ("",),
}
purges = st.sampled_from(sorted(NAMES)).flatmap(
    lambda what: st.builds(Purge, st.just(what), st.sampled_from(NAMES[what]), st.booleans())
)
SEVERITY = [Validity.VALID, Validity.STALE, Validity.GONE]


def apply(invalidations: Invalidations, history: list[Purge]) -> None:
    for purge in history:
        if purge.what == "all":
            invalidations.purge_all(purge.soft)
        else:
            getattr(invalidations, f"purge_{purge.what}")(purge.name, purge.soft)


def by_the_book(history: list[Purge], uri: str, tags: tuple[str, ...], epoch: int) -> Validity:
    caught = [purge for purge in history[epoch:] if purge.catches(uri, tags)]
    if any(not purge.soft for purge in caught):
        return Validity.GONE
    return Validity.STALE if caught else Validity.VALID


@given(
    history=st.lists(purges, max_size=12),
    uri=st.sampled_from(URIS),
    tags=st.sampled_from([(), ("red",), ("red", "blue")]),
    epoch=st.integers(0, 12),
)
def test_the_state_is_what_the_history_says(history: list[Purge], uri: str, tags: tuple[str, ...], epoch: int) -> None:
    invalidations, forgetful = Invalidations(), Invalidations(limit=2)
    apply(invalidations, history)
    apply(forgetful, history)
    expected = by_the_book(history, uri, tags, epoch)
    assert invalidations.state(uri, tags, epoch) is expected
    assert SEVERITY.index(forgetful.state(uri, tags, epoch)) >= SEVERITY.index(expected)
