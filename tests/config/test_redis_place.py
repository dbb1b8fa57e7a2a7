from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.redis_place import Mode, Place, read_place


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://localhost", Place(Mode.SINGLE, False, (("localhost", 6379),))),
        ("redis://[::1]:7000/2", Place(Mode.SINGLE, False, (("::1", 7000),), number=2)),
        (
            "rediss://user:p%40ss@cache.internal:6380/0",
            Place(Mode.SINGLE, True, (("cache.internal", 6380),), username="user", password="p@ss"),
        ),
        ("REDIS://:secret@a", Place(Mode.SINGLE, False, (("a", 6379),), password="secret")),
        ("unix:///run/redis.sock", Place(Mode.SOCKET, path="/run/redis.sock")),
        ("unix://:pw@/run/redis.sock", Place(Mode.SOCKET, path="/run/redis.sock", password="pw")),
        (
            "redis+sentinel://a,b:1,[::1]/main/3",
            Place(Mode.SENTINEL, False, (("a", 26379), ("b", 1), ("::1", 26379)), "main", 3),
        ),
        ("rediss+sentinel://u:p@a/main", Place(Mode.SENTINEL, True, (("a", 26379),), "main", 0, "", "u", "p")),
        (
            "redis+sentinel://:p@a,b/main/1?sentinel_password=x%26y+z&sentinel_username=w%40tch",
            Place(
                *(Mode.SENTINEL, False, (("a", 26379), ("b", 26379)), "main", 1, "", None, "p"),
                sentinel_username="w@tch",
                sentinel_password="x&y+z",
            ),
        ),
        ("redis+sentinel://a/main?sentinel_password=", Place(Mode.SENTINEL, False, (("a", 26379),), "main")),
        ("redis+cluster://a:1,b:2", Place(Mode.CLUSTER, False, (("a", 1), ("b", 2)))),
        ("rediss+cluster://a/", Place(Mode.CLUSTER, True, (("a", 6379),))),
    ],
)
def test_places(url: str, place: Place) -> None:
    assert read_place(url) == place


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "does not begin with redis://"),
        ("http://a", "does not begin with redis://"),
        ("redis:a", "does not begin with redis://"),
        ("redis://", "names no host"),
        ("redis://a,b", "several hosts"),
        ("redis://a:x", "port is malformed"),
        ("redis://a:0", "port is malformed"),
        ("redis://a:70000", "port is malformed"),
        ("redis://[::1", "host is malformed"),
        ("redis://[::1]x", "host is malformed"),
        ("redis://a/x", "not the number of a database"),
        ("redis://a/1/2", "not the number of a database"),
        ("redis://a?db=1", "a query or a fragment"),
        ("unix://", "names no socket"),
        ("unix://host/path", "names no socket"),
        ("redis+sentinel://a", "names no service"),
        ("redis+sentinel://a,/main", "names no host"),
        ("redis+sentinel://a/main?password=x", "something else than sentinel_username and sentinel_password"),
        ("redis+sentinel://a/main?", "something else"),
        ("redis+sentinel://a/main?sentinel_password=x&sentinel_password=y", "one of them twice"),
        ("redis+sentinel://a/main?sentinel_username=x", "without a sentinel_password"),
        ("redis+sentinel://a/main?sentinel_password=x#y", "a query or a fragment"),
        ("redis+cluster://a?sentinel_password=x", "a query or a fragment"),
        ("redis+cluster://a/1", "only database 0"),
    ],
)
def test_what_is_no_place_and_why(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_place(url)


@given(st.text(max_size=60))
def test_whatever_it_is_it_is_a_place_or_a_value_error(text: str) -> None:
    for scheme in ("", "redis://", "redis+sentinel://", "redis+cluster://", "unix://"):
        with contextlib.suppress(ValueError):
            place = read_place(scheme + text)
            assert place.hosts or place.path


def test_a_place_is_shown_without_its_secrets() -> None:
    assert "s3cret" not in repr(read_place("redis://user:s3cret@a"))
    assert "s3cret" not in repr(read_place("redis+sentinel://a/main?sentinel_username=s3cret&sentinel_password=s3cret"))
