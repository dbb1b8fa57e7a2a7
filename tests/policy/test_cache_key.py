"""Which requests are the same, and which never may be."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import random
import re
import sys
from typing import Any
from urllib.parse import unquote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.patterns import has_dot_segment
from config.rule import Rule
from proxy.policy.cache_key import (
    MAX_VARY_NAMES,
    REWRITING_FIELDS,
    cache_key,
    credential_fields,
    portable,
    rule_applies,
    secondary_key,
    selects,
    target_uri,
    vary_names,
)
from proxy.policy.json_content import Document, canonical, parse_json
from proxy.policy.messages import Fields, RequestHead

JSON = ("Content-Type", "application/json")


def digest(value: bytes) -> str:
    return hashlib.sha256(b"secret" + value).hexdigest()


def head(target: str = "/a", *lines: tuple[str, str], method: str = "GET", **more: Any) -> RequestHead:
    return RequestHead(method, target, Fields(lines), authority=more.pop("authority", "app.example"), **more)


def key(request: RequestHead, rule: Rule | None = None, content: bytes | None = None) -> str | None:
    return cache_key(request, rule, content, digest)


def rule(*parts: str, public: bool = False) -> Rule:
    pairs = tuple((kind, name) for kind, _, name in (part.partition(":") for part in parts))
    private = any(kind in {"authorization", "cookie"} for kind, _ in pairs)
    return Rule("/a", frozenset({"GET", "POST"}), 60.0, pairs, private=private, public=public)


# -- the target


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (head(), head(method="HEAD")),
        (head("/a", ("User-Agent", "x"), ("X-Request-Id", "1"), ("Cookie", "a=b")), head()),
        (head("/a", ("X-Forwarded-For", "1.2.3.4")), head()),
        (head("/a", ("device_id", "1"), ("X_Lang", "de")), head()),
        (head("/a", ("X-Forwarded", "for=1.2.3.4")), head()),
        *[(head("/a", (name, "/a?t=1")), head()) for name in ("X-Original-URI", "X-Forwarded-URI")],
        (head("/a", ("X-Envoy-Original-Path", "/a?t=1")), head()),
        (head("/a", ("Forwarded", "for=1.2.3.4;by=5.6.7.8")), head()),
        (head("/a", ("Forwarded", 'for="[2001:db8::1]:4711", for=unknown;')), head()),
        (head("/a", ("Forwarded", 'for="a, b"')), head()),
        (
            head("/a", ("Forwarded", "for=1.2.3.4;proto=https;host=a")),
            head("/a", ("Forwarded", 'proto=https ; For="[::1]:80";host=a')),
        ),
        (
            head("/a", ("Forwarded", 'for=1.2.3.4, for=_x;host="a:443"')),
            head("/a", ("Forwarded", 'for="[::1]" , by=2;host="a:443";for=3')),
        ),
    ],
)
def test_the_same(one: RequestHead, other: RequestHead) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    "other",
    [
        head("/A"),
        head("/a/"),
        head("/a?"),
        head("/a?b"),
        head("/%61"),
        head("//a"),
        head(authority="other.example"),
        head(authority="app.example:8080"),
        head(authority="app.example:443"),
        head(authority="App.Example"),
        head(authority="app.example:80"),
        head(scheme="https"),
        head(method="POST"),
        *[head("/a", (name, "host=evil.example")) for name in REWRITING_FIELDS],
        head("/a", ("X_Forwarded_Host", "evil")),
        head("/a", ("x.forwarded-proto", "evil")),
        head("/a", ("api_key", "evil")),
        head("/a", ("accept_encoding", "evil")),
        head("/a", ("Forwarded", 'for="x, host=evil.example')),
        head("/a", ("Forwarded", 'for="x, host=evil.example"')),
        head("/a", ("Forwarded", 'for="x;proto=evil"')),
        head("/a", ("Forwarded", 'for="x\\", host=evil.example"')),
        head("/a", ("Forwarded", "for=1;host =evil")),
        head("/a", ("Forwarded", 'for=1;\tPROTO\t= "evil"')),
        head("/a", ("Forwarded", "for=1"), ("Forwarded", "host = evil")),
    ],
)
def test_not_the_same(other: RequestHead) -> None:
    assert key(other) != key(head())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["host=a"], ["for=1, host=a"]),
        (["host=a"], ["host=a, for=1"]),
        (["host=a, host=b"], ["host=a;host=b"]),
        (["host=a"], ["for=1", "host=a"]),
        (["host=a"], ['host="a"']),
        (["host=a"], ['host=a;for="x;host=b"']),
        (["host=a"], ["host=a;host =b"]),
        (['for="x, host=a"'], ['for="x, host=b"']),
    ],
)
def test_forwarded_is_keyed_by_all_that_a_parser_may_read(one: list[str], other: list[str]) -> None:
    first, second = (head("/a", *[("Forwarded", line) for line in lines]) for lines in (one, other))
    assert key(first) != key(second)


def test_query_arguments_are_not_sorted() -> None:
    assert key(head("/a?x=1&y=2")) != key(head("/a?y=2&x=1"))


def test_the_target_uri_keeps_path_and_query_octet_for_octet() -> None:
    assert target_uri(head("/a%2f../b?x=%20+", authority="App.Example:80")) == "http://app.example/a%2f../b?x=%20+"


@pytest.mark.parametrize(
    ("scheme", "authority", "expected"),
    [
        ("http", "App.Example", "app.example"),
        ("http", "app.example:", "app.example"),
        ("http", "app.example:80", "app.example"),
        ("http", "app.example:080", "app.example"),
        ("http", "app.example:443", "app.example:443"),
        ("https", "app.example:00443", "app.example"),
        ("https", "app.example:80", "app.example:80"),
        ("http", "app.example:08080", "app.example:8080"),
        ("http", "app.example:000", "app.example:0"),
        ("http", "[::1]", "[::1]"),
        ("http", "[::80]:", "[::80]"),
        ("ws", "app.example:80", "app.example:80"),
        ("http", "", ""),
    ],
)
def test_what_purges_know_an_authority_by(scheme: str, authority: str, expected: str) -> None:
    assert target_uri(head(authority=authority, scheme=scheme)) == f"{scheme}://{expected}/a"


PART = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=6)


@given(PART, PART, PART, PART)
def test_no_two_targets_share_a_key(a: str, b: str, c: str, d: str) -> None:
    one, other = head("/" + a, authority=b.lower()), head("/" + c, authority=d.lower())
    assert (key(one) == key(other)) == (target_uri(one) == target_uri(other) and one.authority == other.authority)


# -- rules


def test_a_rule_has_keys_of_its_own() -> None:
    assert key(head(), rule()) != key(head())


@pytest.mark.parametrize(
    ("parts", "one", "other", "same"),
    [
        (["query:x"], head("/a?x=1&t=5"), head("/a?t=6&x=1"), True),
        (["query:x"], head("/a?x=1"), head("/a?x=2"), False),
        (["query:x"], head("/a"), head("/a?x"), False),
        (["query:x"], head("/a?x"), head("/a?x="), False),
        (["query:x"], head("/a?x=1&x=2"), head("/a?x=2&x=1"), False),
        (["query:x", "query:y"], head("/a?x=1"), head("/a?y=1"), False),
        (["query:x"], head("/a?x=1&y%5B%5D=5&z=%26"), head("/a?x=1"), True),
        (["query:x"], head("/a?x=1&r=https%3A%2F%2Fs%2F%3Fa%3D1%26u%3Dhttp%253A"), head("/a?x=1"), True),
        (["query:x"], head("/a?x=1;y=2"), head("/a?x=1"), False),
        (["query:x", "query:y[a]"], head("/a?x=1&y[a]=2&t=1"), head("/a?t=2&x=1&y[a]=2"), True),
        (["query"], head("/a?x=1"), head("/a?x=1&t=5"), False),
        (["header:x-tenant"], head("/a", ("X-Tenant", "1")), head("/a", ("X-Tenant", "2")), False),
        (["header:x-tenant"], head("/a", ("X-Tenant", "")), head("/a"), False),
        (["header:x-tenant"], head("/a", ("X-Tenant", "1")), head("/a", ("x-tenant", "1"), ("Accept", "b")), True),
        (["header:x-tenant"], head("/a", ("X_Tenant", "1")), head("/a"), False),
        (["header:x-tenant"], head("/a", ("X_Tenant", "1")), head("/a", ("X-Tenant", "1")), False),
        (["header:x-tenant"], head("/a", ("X_Tenant", "1")), head("/a", ("X.Tenant", "1")), False),
        (["header:x_tenant"], head("/a", ("X-Tenant", "1")), head("/a"), False),
        (["header:tenant"], head("/a", ("Ten_ant", "1")), head("/a"), True),
        (["header:x"], head("/a", ("X", "1"), ("X", "2")), head("/a", ("X", "1\n1:2")), False),
        (["cookie:sid"], head("/a", ("Cookie", "a=1; sid=x")), head("/a", ("Cookie", "sid=x; a=2")), True),
        (["cookie:sid"], head("/a", ("Cookie", "sid=x")), head("/a", ("Cookie", "sid=y")), False),
        (["cookie:sid"], head("/a", ("Cookie", "sid=x; sid=y")), head("/a", ("Cookie", "sid=x")), False),
        (["cookie:sid"], head("/a", ("Cookie", "xsid=x")), head("/a"), True),
        (
            ["authorization"],
            head("/a", ("Authorization", "Bearer a")),
            head("/a", ("Authorization", "Bearer b")),
            False,
        ),
        (["authorization"], head("/a", ("Authorization", "")), head("/a"), False),
    ],
)
def test_parts_of_the_key(parts: list[str], one: RequestHead, other: RequestHead, same: bool) -> None:
    assert (key(one, rule(*parts)) == key(other, rule(*parts))) is same


@pytest.mark.parametrize(
    "query",
    [
        "%71=evil",
        "%71%20=evil",
        "q%20=evil",
        "q+=evil",
        "+q=evil",
        "x=1;q=evil",
        "x=1;%71=evil",
        "x;q",
        "q;x=evil",
        "q[]=evil",
        "q[a][b]=evil",
        "q%5B%5D=evil",
        "Q=evil",
        "%51",
        "q%00x=evil",
        "%2571=evil",
        "%u0071=evil",
        "%C1%B1=evil",
        "x=1%26q=evil",
        "x=1%3Bq=evil",
        "x%3b%71=evil",
        "x=1%26q%3Devil",
        "x=1%3bQ%3d",
        "q%3Devil",
    ],
)
def test_an_argument_that_an_origin_may_read_under_a_keyed_name_is_in_the_key(query: str) -> None:
    for rest in ("", "&q=good", "&t=1"):
        plain, odd = head("/a?" + rest[1:]), head(f"/a?{query}{rest}")
        assert key(odd, rule("query:q")) != key(plain, rule("query:q"))
        assert key(odd, rule("query:q")) != key(head(f"/a?{query}{rest}2"), rule("query:q"))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("größe", "gr%C3%B6%C3%9Fe=1"),
        ("größe", "gr%F6%DFe=1"),
        ("user_id", "user.id=1"),
        ("user_id", "user[id=1"),
        ("user_id", "user%5Bid=1"),
        ("a%5Bb%5D", "a[b]=1"),
        ("a%3Db", "A%3Db=1"),
    ],
)
def test_a_keyed_name_that_is_written_in_another_way(name: str, query: str) -> None:
    assert key(head(f"/a?{query}"), rule(f"query:{name}")) != key(head("/a?"), rule(f"query:{name}"))


def _read_by(query: str, separators: str, *, folded: bool, decoded: bool) -> list[str]:
    """The values of q, as one kind of origin reads them. decoded -- before it is taken apart."""
    if decoded:
        query = unquote(query)
    pairs = [pair.partition("=") for pair in re.split(f"[{separators}]", query)]
    names = [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]
    return [value for name, value in names if (name.lower() if folded else name) == "q"]


QUERY = st.lists(
    st.sampled_from(["q", "Q", "%71", "x", "%", "=", "=", "&", "&", ";", "%26", "%3D", "%3b", "1", "2", "+"]),
    max_size=9,
).map("".join)


@given(QUERY, QUERY)
def test_queries_with_one_key_are_read_alike_by_every_origin(one: str, other: str) -> None:
    if key(head(f"/a?{one}"), rule("query:q")) == key(head(f"/a?{other}"), rule("query:q")):
        for separators in ("&", "&;"):
            for folded, decoded in itertools.product((False, True), repeat=2):
                read = _read_by(one, separators, folded=folded, decoded=decoded)
                assert read == _read_by(other, separators, folded=folded, decoded=decoded)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a": 1, "b": [1, 2]}', b'{"b":[1,2],"a":1}', True),
        (b'{"a": "\\u00e9"}', '{"a":"é"}'.encode(), True),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}', False),
        (b'{"a": 1}', b'{"a": "1"}', False),
        (b'{"a": 1}', b'{"a": 1.0}', False),
        (b'{"a": 1.0}', b'{"a": 1.00}', False),
        (b'{"a": -0}', b'{"a": 0}', False),
        (b'{"a": null}', b"{}", False),
        (b'{"a": true}', b'{"a": 1}', False),
        (b'{"a": 1, "a": 2}', b'{"a": 2}', False),
        (b'{"a": 9007199254740993}', b'{"a": 9007199254740992}', False),
        (b'{"a": NaN}', b'{"a":NaN}', False),
        (b"not json", b"not  json", False),
        (b"", b"{}", False),
        (b"[" * 100_000, b"[" * 99_999, False),
        (b'{"a": 1e400}', b'{"a": 1e500}', False),
    ],
)
def test_json_content_is_compared_by_what_it_says(one: bytes, other: bytes, same: bool) -> None:
    request = head("/a", JSON, method="POST")
    assert (key(request, rule("body"), one) == key(request, rule("body"), other)) is same


@pytest.mark.parametrize("lines", [[("Content-Type", "text/plain")], [JSON, ("Content-Encoding", "gzip")], []])
def test_other_content_is_compared_octet_for_octet(lines: list[tuple[str, str]]) -> None:
    request = head("/a", *lines, method="POST")
    assert key(request, rule("body"), b'{"a": 1}') != key(request, rule("body"), b'{"a":1}')


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("application/json", "Application/JSON; charset=UTF-8", True),
        ("application/json", 'application/json;charset="utf-8"', True),
        ("application/json", "application/json; charset=utf-16", False),
        ("application/json", "application/json; charset=utf-8; v=2", False),
        ("application/json; v=1", "application/json; v=2", False),
        ("application/vnd.app.v1+json", "application/vnd.app.v2+json", False),
        ("application/vnd.app.v1+json", "application/json", False),
    ],
)
@pytest.mark.parametrize("part", ["body", "body:id", "body:none"])
def test_the_type_of_json_counts(one: str, other: str, same: bool, part: str) -> None:
    """An origin may read the same octets as something else by it."""
    keys = [key(head("/a", ("Content-Type", of), method="POST"), rule(part), b'{"id": 1}') for of in (one, other)]
    assert (keys[0] == keys[1]) is same


def test_the_type_of_raw_content_counts() -> None:
    one, other = head("/a", ("Content-Type", "a/b")), head("/a", ("Content-Type", "a/c"))
    assert key(one, rule("body"), b"x") != key(other, rule("body"), b"x")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"id": 1, "t": 5}', b'{"t": 6, "id": 1}', True),
        (b'{"id": {"b": 1, "a": 2}}', b'{"id": {"a": 2, "b": 1}}', True),
        (b'{"id": 1}', b'{"id": 2}', False),
        (b'{"id": null}', b"{}", False),
        (b'{"t": 1}', b'{"t": 2}', True),
        (b'{"id": 1, "ID": 2}', b'{"id": 1}', False),
        (b'{"ID": 2}', b"{}", False),
        (b'{"id": 1, "id\\u0000": 2}', b'{"id": 1}', False),
        (b'{"id": 1, "i\\ud800d": 2}', b'{"id": 1}', False),
        (b'{"id": 1, "_id": 2}', b'{"id": 1}', False),
        (b'{"id": 1, "i\\nd": 2}', b'{"id": 1}', False),
        (b'{"id": 1, "%bi%bd": 2}' % (b"-" * 1000, b"-" * 1000), b'{"id": 1}', False),
        (b'{"id": 1, "id2": 2}', b'{"id": 1}', True),
        (b'{"id": 1, "a_id_b": 2, "i": 3, "d": 4}', b'{"id": 1}', True),
        (b"[1]", b"[2]", False),
        (b"nonsense", b"other", False),
    ],
)
def test_one_member_of_the_content(one: bytes, other: bytes, same: bool) -> None:
    request = head("/a", JSON, method="POST")
    assert (key(request, rule("body:id"), one) == key(request, rule("body:id"), other)) is same


NAME = st.text(st.sampled_from("iIdD_- \n\ud8001\u0131\u00df"), max_size=5)


@given(st.lists(NAME, max_size=4, unique=True), NAME.filter(bool))
def test_a_member_is_told_apart_unless_another_may_be_read_under_its_name(names: list[str], meant: str) -> None:
    def read(name: str) -> str:
        return "".join(filter(str.isalnum, name.casefold()))

    request = head("/a", JSON, method="POST")
    one, other = (json.dumps({**dict.fromkeys(names, 1), "other": value}).encode() for value in (1, 2))
    clear = all(name == meant or read(name) != read(meant) for name in names)
    assert (key(request, rule(f"body:{meant}"), one) == key(request, rule(f"body:{meant}"), other)) is clear


def test_the_names_of_many_members_are_read_once_for_all_fields_of_the_key() -> None:
    document = Document(Fields([JSON]), json.dumps(dict.fromkeys(map(str, range(10_000)), 1)).encode())
    calls: list[str] = []
    document.member("id")
    sys.setprofile(lambda _, event, __: calls.append(event))
    try:
        document.member("user")
    finally:
        sys.setprofile(None)
    assert len(calls) < 10_000


def test_content_that_was_not_read_cannot_be_keyed() -> None:
    assert key(head(method="POST"), rule("body"), None) is None
    assert key(head(), rule("query"), None) is not None


def test_json_nested_too_deep_to_be_written_is_compared_octet_for_octet() -> None:
    """`json` reads a little deeper than it writes."""
    depth = bisect.bisect_left(range(100_000), True, key=lambda depth: canonical(_nested(depth)) is None)
    while canonical(_nested(depth)) is not None:  # a call or two less deep than where it was searched
        depth += 1
    request, content = head("/a", JSON, method="POST"), b'{"id": ' + b"[" * depth + b"]" * depth + b"}"
    found = {key(request, rule(part), content) for part in ("body", "body:id")}
    assert len(found) == 2
    assert key(request, rule("body:id"), content) != key(request, rule("body:id"), content + b" ")


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nested_beyond_what_can_be_written_is_compared_raw() -> None:
    assert canonical(_nested(100_000)) is None


def test_no_secret_stands_in_a_key() -> None:
    secrets = ["hunter2", "swordfish", "opensesame", "tenant-xyz"]
    request = head(
        "/a",
        JSON,
        ("Authorization", "Bearer hunter2"),
        ("Cookie", "sid=swordfish"),
        ("X-Tenant", "tenant-xyz"),
        ("X-Forwarded-Host", "opensesame"),
        method="POST",
    )
    found = key(request, rule("authorization", "cookie:sid", "header:x-tenant", "body"), b'{"p": "hunter2"}')
    assert found is not None
    assert not any(secret in found for secret in secrets)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def _shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        pairs = [(name, _shuffled(member, order)) for name, member in value.items()]
        order.shuffle(pairs)
        return dict(pairs)
    return [_shuffled(member, order) for member in value] if isinstance(value, list) else value


@given(JSON_VALUES, st.randoms(use_true_random=False))
def test_order_and_white_space_never_matter(value: Any, order: random.Random) -> None:
    content = json.dumps(value).encode()
    other = json.dumps(_shuffled(value, order), indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
    request = head("/a", JSON, method="POST")
    parsed = parse_json(content)
    if parsed is not None and parse_json(other) is not None:
        assert key(request, rule("body"), content) == key(request, rule("body"), other)


@given(JSON_VALUES, JSON_VALUES)
def test_different_values_never_share_a_text(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical(one) == canonical(other)) is same


# -- who may be answered by a rule


@pytest.mark.parametrize(
    ("parts", "lines", "applies"),
    [
        ([], [], True),
        ([], [("Authorization", "a")], False),
        ([], [("Cookie", "a=b")], False),
        ([], [("X-Api-Key", "a")], False),
        (["authorization"], [], True),
        (["authorization"], [("Authorization", "a")], True),
        (["authorization"], [("Authorization", "a"), ("Cookie", "a=b")], False),
        (["authorization", "cookie:a"], [("Authorization", "a"), ("Cookie", "a=b")], True),
        (["cookie:a"], [("Cookie", "b=c")], False),
        (["header:x-api-key"], [("X-Api-Key", "a")], True),
        (["header:x-tenant"], [("X-Api-Key", "a")], False),
    ],
)
def test_every_credential_must_be_keyed(parts: list[str], lines: list[tuple[str, str]], applies: bool) -> None:
    assert rule_applies(rule(*parts), head("/a", *lines)) is applies


@pytest.mark.parametrize(
    ("path", "applies"),
    [
        ("/a/../b", False),
        ("/a/./b", False),
        ("/a/..", False),
        ("/a/%2E%2e/b", False),
        ("/a/%252e%252e/b", False),
        ("/a/..%5Cb", False),
        ("/a\\..\\b", False),
        ("/a/..;x/b", False),
        ("/a/..%00/b", False),
        ("/a/..%00b", False),
        ("/a/..%0a/b", False),
        ("/a/%09../b", False),
        ("/a/..%20/b", False),
        ("/a/..%3fb", False),
        ("/a/..%2523b", False),
        ("/a/%c0%ae%C0%AE/b", False),
        ("/a/..%25c0%25afb", False),
        ("/a/%u002e%u002e/b", False),
        ("/a/%25u002E/b", False),
        ("/a/100%25unique", True),
        ("/a/%u002", True),
        ("/a/caf%C3%A9", True),
        ("/a/b%20.%20c", True),
        ("/a/..b", True),
        ("/a/b..", True),
        ("/a/...", True),
        ("/a/.well-known/b", True),
    ],
)
def test_a_path_with_a_dot_segment_falls_under_no_rule(path: str, applies: bool) -> None:
    assert rule_applies(rule(public=True), head(path)) is applies


@given(st.lists(st.sampled_from(["/", ".", "..", "%2e", "%25", "%", "c0", "%C1", "u002e", "00", ";", "a", " "])))
def test_a_rule_that_could_never_apply_is_known_by_its_pattern(parts: list[str]) -> None:
    path = "/" + "".join(parts)
    assert has_dot_segment(path) is not rule_applies(rule(public=True), head(path))


def test_a_public_rule_applies_to_all() -> None:
    assert rule_applies(rule(public=True), head("/a", ("Authorization", "a"), ("Cookie", "b=c")))


def test_credential_fields() -> None:
    request = head("/a", ("Authorization", "a"), ("X-API-Key", "b"), ("Accept", "c"))
    assert credential_fields(request) == ("authorization", "x-api-key")


# -- Vary


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        ([""], ()),
        (["Accept"], ("accept",)),
        (["Foo, accept"], ("accept", "foo")),
        (["Foo", "Bar", "foo"], ("bar", "foo")),
        (["*"], None),
        (["Foo, *"], None),
        (["Foo", "*"], None),
        ([", ".join(f"f{n}" for n in range(MAX_VARY_NAMES + 1))], None),
        (["Accept Cookie"], None),
        (["Accept; Cookie"], None),
        (["Accept", '"Cookie"'], None),
    ],
)
def test_vary_names(values: list[str], expected: tuple[str, ...] | None) -> None:
    assert vary_names(Fields(("Vary", value) for value in values)) == expected


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("foo", ["1"], ["1"], True),
        ("foo", ["1"], ["2"], False),
        ("foo", [], [], True),
        ("foo", [], [""], False),
        ("foo", ["1, 2"], ["1,2"], True),
        ("foo", ["1", "2"], ["1, 2"], True),
        ("foo", ["1 ,\t2"], ["1, 2"], True),
        ("foo", ["a"], ["A"], False),
        ("foo", ["1, 2"], ["2, 1"], False),
        ("foo", ['"a,b"'], ['"a, b"'], False),
        ("accept-encoding", ["gzip, br"], ["BR,gzip"], True),
        ("accept-encoding", ["gzip;q=1"], ["gzip; q=1"], True),
        ("accept-encoding", ["gzip"], ["br"], False),
        ("foo", ["1,"], ["1"], False),
        ("foo", [",1"], ["1"], False),
        ("origin", ["https://a,"], ["https://a"], False),
        ("user-agent", ["(KHTML,like Gecko)"], ["(KHTML, like Gecko)"], False),
        ("cookie", ["a=b,c"], ["a=b, c"], False),
        ("cookie", ["a", "b"], ["a, b"], False),
        ("accept-language", ["de , EN; q=0.5"], ["en;q=0.5", "DE"], True),
        ("accept-language", ["en;foo"], ["en"], False),
        ("accept-language", ["en;q=2"], ["en;q=0"], False),
        ("accept-language", ["en,"], ["en"], False),
        ("accept-language", ["en;q=0.5, en"], ["en, en;q=0.5"], False),
    ],
)
def test_selecting(name: str, one: list[str], other: list[str], same: bool) -> None:
    stored = secondary_key((name,), Fields((name, value) for value in one))
    assert selects(stored, Fields((name.title(), value) for value in other)) is same


@pytest.mark.parametrize("name", ["X-Lang", "X_Lang", "User-Agent", "Accept-Language"])
def test_what_an_origin_takes_for_a_selecting_field_selects_as_well(name: str) -> None:
    written = [name, *(name.translate({ord(dash): odd}) for dash in "-_" for odd in "-_.")]
    forms = [Fields(), *(Fields([(one, "a")]) for one in dict.fromkeys(written))]
    forms.append(Fields([(name, "a"), (written[-1], "a")]))
    for one in forms:
        for other in forms:
            assert selects(secondary_key((name.lower(),), one), other) is (one is other)
    assert selects(secondary_key((name.lower(),), Fields()), Fields([("Device_Id", "1")]))


def test_every_selecting_field_must_match() -> None:
    stored = secondary_key(("a", "b"), Fields([("A", "1"), ("B", "2")]))
    assert selects(stored, Fields([("B", "2"), ("A", "1"), ("C", "3")]))
    assert not selects(stored, Fields([("A", "1"), ("B", "3")]))
    assert not selects(stored, Fields([("A", "1")]))


# -- what replicas without a common secret may share


@pytest.mark.parametrize(
    ("request_head", "by", "expected"),
    [
        (head(), None, True),
        (head("/a?x=1"), rule("query:x"), True),
        (head("/a", ("Cookie", "a=b")), None, True),
        (head("/a", ("Authorization", "x")), None, False),
        (head("/a", ("X-Forwarded-Host", "x")), None, False),
        (head("/a", ("Forwarded", "for=1.2.3.4")), None, False),
        (head(), rule("header:x-tenant"), False),
        (head(), rule("cookie:session"), False),
        (head(method="POST"), rule("body"), False),
    ],
)
def test_which_keys_are_the_same_without_a_common_secret(
    request_head: RequestHead, by: Rule | None, expected: bool
) -> None:
    assert portable(request_head, by) is expected
    if expected:
        assert cache_key(request_head, by, b"", digest) == cache_key(request_head, by, b"", lambda _: "another")
