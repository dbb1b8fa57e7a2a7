"""Kinds of values: what is read from text, and what is refused with which reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import kinds
from config.kinds import GIB, KIB, MIB, TIB

READERS: list[Callable[[object], object]] = [
    kinds.read_switch,
    kinds.read_whole,
    kinds.read_number,
    kinds.read_size,
    kinds.read_host,
    kinds.read_http_url,
    kinds.read_api_url,
    kinds.read_redis_url,
    kinds.read_secret,
    kinds.read_path,
    kinds.read_word,
]
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
)


def refusal(read: Callable[[object], object], raw: object) -> str | None:
    """The reason for which `raw` is refused; None if it is not."""
    try:
        read(raw)
    except ValueError as fault:
        return str(fault)
    return None


@pytest.mark.parametrize("read", READERS)
@given(ANYTHING)
def test_a_reader_raises_nothing_but_value_error(read: Callable[[object], object], raw: object) -> None:
    with contextlib.suppress(ValueError):
        read(raw)


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", "Yes", " on ", True, 1])
def test_words_that_switch_on(word: object) -> None:
    assert kinds.read_switch(word) is True


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False", "OFF", "\tno\n", False, 0])
def test_words_that_switch_off(word: object) -> None:
    assert kinds.read_switch(word) is False


@pytest.mark.parametrize("word", ["", "t", "y", "enabled", "2", "-1", "1.0", "none", 2, -1, 1.0, 0.0, None, [], [True]])
def test_nothing_else_is_a_switch(word: object) -> None:
    assert refusal(kinds.read_switch, word) is not None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        (4096, 4096),
        ("1B", 1),
        ("8 MB", 8_000_000),
        ("8MB", 8_000_000),
        ("256MiB", 256 * MIB),
        ("256 mib", 256 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5 kb", 500),
        ("2 TiB", 2 * TIB),
        (" 64KiB ", 64 * KIB),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert kinds.read_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "8M", "8 Mbit", "1,5GiB", "0x10", "8  MB", "1e6", "8MB!", True, 1.5, None])
def test_what_is_no_size(text: object) -> None:
    assert refusal(kinds.read_size, text) is not None


@given(st.integers(0, 16 * TIB))
def test_a_shown_size_reads_as_the_same(size: int) -> None:
    assert kinds.read_size(kinds.show_size(size).removesuffix(" bytes").removesuffix(" byte")) == size


@pytest.mark.parametrize("text", ["", "1.5", "8_080", "0x1F90", "٨٠", "1e3", "--1", "8080.0", True, False, 80.0, None])
def test_what_is_no_whole_number(text: object) -> None:
    assert refusal(kinds.read_whole, text) is not None


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "1_0", ".5", "5.", "", True, 10**400, None])
def test_what_is_no_number(text: object) -> None:
    assert refusal(kinds.read_number, text) is not None


@pytest.mark.parametrize(("text", "number"), [("300", 300.0), ("0.5", 0.5), (2, 2.0), (2.5, 2.5), (" 7 ", 7.0)])
def test_numbers(text: object, number: float) -> None:
    assert kinds.read_number(text) == number


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTPS://App.Example", "https://app.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://my_service.railway.internal:80", "http://my_service.railway.internal:80"),
        ("  http://a\n", "http://a"),
    ],
)
def test_http_urls(text: str, url: str) -> None:
    assert kinds.read_http_url(text) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("localhost:3000", "does not begin with http:// or https://"),
        ("ftp://a", "does not begin with"),
        ("http:a", "does not begin with"),
        ("http:/a", "does not begin with"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://a/api", "has a path"),
        ("http://a?x=1", "a query or a fragment"),
        ("http://a/?", "a query or a fragment"),
        ("http://a#", "a query or a fragment"),
        ("http://user@a", "a user name or a password"),
        ("http://user:secret@a", "a user name or a password"),
        ("http://@a", "a user name or a password"),
        ("http://a:0", "port is malformed"),
        ("http://a:99999", "port is malformed"),
        ("http://a:x", "port is malformed"),
        ("http://a:", "port is malformed"),
        ("http://[::1", "malformed"),
        ("http://[x]", "malformed"),
        ("http://a b", "must escape"),
        ("http://a\\b", "must escape"),
        ("http://bücher.example", "must escape"),
        ("http://-a", "host is malformed"),
        ("http://a..b", "host is malformed"),
        (f"http://{'a' * 64}.example", "its host has more than 63 characters without a dot"),
        ("http://" + "a." * 128, "its host is longer than the 253 characters"),
        ("http://[fe80::1%25eth0]:80", "its host has a zone"),
        ("http://[fe80::1%eth0]:80", "its host has a zone"),
        (3000, "not text"),
    ],
)
def test_what_is_no_http_url_and_why(text: object, reason: str) -> None:
    assert reason in str(refusal(kinds.read_http_url, text))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://API.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("http://[::1]:8081/Some/Path", "http://[::1]:8081/Some/Path"),
        ("http://a", "http://a"),
    ],
)
def test_api_urls(text: str, url: str) -> None:
    assert kinds.read_api_url(text) == url


@pytest.mark.parametrize(
    "text", ["api.openai.com/v1", "https://key@a/v1", "https://a/v1?x", "https://a/v1#", "https:///v1"]
)
def test_what_is_no_api_url(text: str) -> None:
    assert refusal(kinds.read_api_url, text)


@pytest.mark.parametrize(
    "text",
    [
        "redis://localhost",
        "redis://localhost:6379/2",
        "rediss://user:p%40ss@cache.internal:6380/0",
        "redis://:secret@[::1]:6379",
        "redis+sentinel://:secret@a,b:1/main?sentinel_password=other",
        "unix:///run/redis.sock",
    ],
)
def test_redis_urls(text: str) -> None:
    assert kinds.read_redis_url(text) == text


@pytest.mark.parametrize("text", ["http://a", "redis://", "redis://a/b", "unix://", "redis://a:x", "a:6379", ""])
def test_what_is_no_redis_url(text: str) -> None:
    assert refusal(kinds.read_redis_url, text)


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "127.0.0.1", "localhost", "a-b.example.", "fe80::1%eth0", "x_y"])  # noqa: S104 - read, not bound
def test_hosts(host: str) -> None:
    assert kinds.read_host(host) == host


@pytest.mark.parametrize(
    "host", ["", "[::]", "localhost:80", "a b", "http://a", "-a", "a" * 254, "a" * 64, "a." * 128, "1:2"]
)
def test_what_is_no_host(host: str) -> None:
    assert refusal(kinds.read_host, host)


@pytest.mark.parametrize("host", ["a" * 63, f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}."])
def test_the_longest_hosts(host: str) -> None:
    assert kinds.read_host(host) == host
    assert kinds.read_http_url(f"http://{host}:1") == f"http://{host}:1"


LONG = "a" * 64


@pytest.mark.parametrize(
    "url", [f"postgresql://{LONG}/db", f"postgresql:///db?host={LONG}", f"postgresql:///db?host=/tmp,b.{LONG}:5432"]
)
def test_what_is_no_database_url(url: str) -> None:
    assert "its host has more than 63 characters" in str(refusal(kinds.read_database_url, url))
    assert "its host has more" in str(refusal(kinds.read_redis_url, f"redis://{LONG}/0"))


@pytest.mark.parametrize("url", ["postgresql://a/db", f"postgresql:///db?host=/{LONG}", "postgresql:///db?host=a,b"])
def test_database_urls(url: str) -> None:
    assert kinds.read_database_url(url) == url


@pytest.mark.parametrize("secret", ["", "   ", "a b", "line\nbreak", "pässword", 7])
def test_what_is_no_secret(secret: object) -> None:
    assert refusal(kinds.read_secret, secret)


@pytest.mark.parametrize("path", ["", " ", "a\0b", None])
def test_what_is_no_path(path: object) -> None:
    assert refusal(kinds.read_path, path)
