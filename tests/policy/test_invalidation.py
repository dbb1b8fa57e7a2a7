"""What a change makes unusable, and what a response can be purged by."""

from __future__ import annotations

import pytest

from proxy.policy.invalidation import (
    MAX_TAG_CHARACTERS,
    MAX_TAGS,
    groups,
    invalidated_groups,
    invalidated_uris,
    invalidates,
    is_safe,
    response_tags,
)
from proxy.policy.messages import Fields, RequestHead, ResponseHead

TARGET = "http://app.example/a/b?c=1"


def request(method: str = "POST", authority: str = "app.example") -> RequestHead:
    return RequestHead(method, "/a/b?c=1", Fields(), authority=authority)


def response(*lines: tuple[str, str], status: int = 200) -> ResponseHead:
    return ResponseHead(status, "", Fields(lines))


@pytest.mark.parametrize(
    ("method", "safe"),
    [
        ("GET", True),
        ("HEAD", True),
        ("OPTIONS", True),
        ("PROPFIND", True),
        ("POST", False),
        ("get", False),
        ("X", False),
    ],
)
def test_unknown_methods_are_not_safe(method: str, safe: bool) -> None:
    assert is_safe(method) is safe


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("POST", 200, True),
        ("DELETE", 204, True),
        ("POST", 303, True),
        ("FOO", 200, True),
        ("POST", 400, False),
        ("PUT", 500, False),
        ("POST", 101, False),
        ("GET", 200, False),
    ],
)
def test_only_what_succeeds_invalidates(method: str, status: int, expected: bool) -> None:
    assert invalidates(request(method), status) is expected


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("Location", "/x", "http://app.example/x"),
        ("Content-Location", "/x", "http://app.example/x"),
        ("Location", "x?y", "http://app.example/a/x?y"),
        ("Location", "http://app.example/x", "http://app.example/x"),
        ("Location", "http://APP.example:80/x#part", "http://app.example/x"),
        ("Location", "http://app.example:080/x", "http://app.example/x"),
        ("Location", "http://app.example:/x", "http://app.example/x"),
        ("Location", "//app.example", "http://app.example/"),
        ("Location", "", TARGET),
        ("Location", "http://other.example/x", None),
        ("Location", "https://app.example/x", None),
        ("Location", "http://app.example:8080/x", None),
        ("Location", "//other.example/x", None),
        ("Location", "http://[::1/x", None),
        ("Location", "mailto:a@b", None),
        ("Link", "/x", None),
    ],
)
def test_uris_of_the_same_origin(name: str, value: str, more: str | None) -> None:
    expected = dict.fromkeys([TARGET, more] if more is not None else [TARGET])
    assert invalidated_uris(request(), response((name, value))) == tuple(expected)


def test_both_fields_are_followed() -> None:
    head = response(("Location", "/x"), ("Content-Location", "/y"), status=201)
    assert invalidated_uris(request(), head) == (TARGET, "http://app.example/x", "http://app.example/y")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ()),
        ([("Cache-Tag", "a, b,,c")], ("a", "b", "c")),
        ([("Surrogate-Key", "a  b")], ("a", "b")),
        ([("Cache-Tag", "a,b"), ("Cache-Tag", "b,c"), ("Surrogate-Key", "c d")], ("a", "b", "c", "d")),
        ([("Cache-Tag", "x" * (MAX_TAG_CHARACTERS + 1) + ",a")], ("a",)),
    ],
)
def test_tags(lines: list[tuple[str, str]], expected: tuple[str, ...]) -> None:
    assert response_tags(Fields(lines)) == expected


def test_tags_are_bounded() -> None:
    many = " ".join(str(number) for number in range(10 * MAX_TAGS))
    assert len(response_tags(Fields([("Surrogate-Key", many)]))) == MAX_TAGS


# -- cache groups (RFC 9875)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        (['"a", "b"'], ("a", "b")),
        (['"a"', '"a"'], ("a",)),
        (["a, b"], ()),
        (['"a'], ()),
        ([f'"{"x" * (MAX_TAG_CHARACTERS + 1)}", "b"'], ("b",)),
    ],
)
def test_groups_are_of_the_origin(values: list[str], expected: tuple[str, ...]) -> None:
    fields = Fields(("Cache-Groups", value) for value in values)
    assert groups(request(), fields) == tuple(f"group\nhttp://app.example\n{name}" for name in expected)
    assert not set(groups(request(authority="other.example"), fields)) & set(groups(request(), fields))


@pytest.mark.parametrize(
    ("method", "status", "invalidated"),
    [("POST", 200, True), ("FOO", 302, True), ("POST", 500, False), ("GET", 200, False)],
)
def test_only_a_successful_change_invalidates_groups(method: str, status: int, invalidated: bool) -> None:
    head = response(("Cache-Group-Invalidation", '"a"'), status=status)
    expected = ("group\nhttp://app.example\na",) if invalidated else ()
    assert invalidated_groups(request(method), head) == expected
