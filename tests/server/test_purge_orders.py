"""What the content of a purge names, and what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.access import Refusal
from proxy.observe.events import PurgeKind
from proxy.server.admin import PurgeOrder, parse_purge


@pytest.mark.parametrize(
    ("document", "order"),
    [
        ({"all": True}, PurgeOrder(PurgeKind.ALL)),
        ({"all": True, "soft": True}, PurgeOrder(PurgeKind.ALL, "", True)),
        ({"tag": "reports"}, PurgeOrder(PurgeKind.TAG, "reports")),
        ({"tag": "http://x", "soft": False}, PurgeOrder(PurgeKind.TAG, "http://x")),
        ({"url": "/reports?week=40"}, PurgeOrder(PurgeKind.URL, "/reports?week=40")),
        ({"prefix": "/reports/"}, PurgeOrder(PurgeKind.PREFIX, "/reports/")),
        ({"url": "HTTP://Example.ORG:80/A/b?C"}, PurgeOrder(PurgeKind.URL, "http://example.org/A/b?C")),
        ({"url": "https://example.org:443/"}, PurgeOrder(PurgeKind.URL, "https://example.org/")),
        ({"url": "https://example.org:80/"}, PurgeOrder(PurgeKind.URL, "https://example.org:80/")),
        ({"url": "http://example.org"}, PurgeOrder(PurgeKind.URL, "http://example.org/")),
        ({"prefix": "http://Example.o"}, PurgeOrder(PurgeKind.PREFIX, "http://example.o")),
        ({"url": "http://example.org:080/a"}, PurgeOrder(PurgeKind.URL, "http://example.org/a")),
        ({"prefix": "http://Example.org:80"}, PurgeOrder(PurgeKind.PREFIX, "http://example.org/")),
        ({"prefix": "https://example.org:"}, PurgeOrder(PurgeKind.PREFIX, "https://example.org/")),
        ({"prefix": "http://example.org:8080"}, PurgeOrder(PurgeKind.PREFIX, "http://example.org:8080")),
        ({"prefix": "http://Example.org:80/A"}, PurgeOrder(PurgeKind.PREFIX, "http://example.org/A")),
        ({"url": "/caf\u00e9"}, PurgeOrder(PurgeKind.URL, "/caf\u00c3\u00a9")),
    ],
)
def test_what_a_purge_means(document: dict[str, object], order: PurgeOrder) -> None:
    assert parse_purge(document) == order


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        (None, ["not a JSON object"]),
        ([], ["not a JSON object"]),
        ({}, ["0 of url, prefix, tag and all"]),
        ({"soft": True}, ["0 of url, prefix, tag and all"]),
        ({"tag": "a", "url": "/a"}, ["2 of url, prefix, tag and all"]),
        ({"tag": "a", "regex": ".*"}, ["unknown key 'regex'"]),
        ({"tag": "a", "soft": 1}, ['"soft" is neither']),
        ({"tag": "a", "soft": None}, ['"soft" is neither']),
        ({"all": False}, ['"all" is not true']),
        ({"all": 1}, ['"all" is not true']),
        ({"tag": ""}, ['"tag" is not a text']),
        ({"tag": 7}, ['"tag" is not a text']),
        ({"tag": ["a"]}, ['"tag" is not a text']),
        ({"tag": "a" * 257}, ['"tag" is longer than 256 bytes']),
        ({"url": "/" + "a" * 16384}, ['"url" is longer than 16384 bytes']),
        ({"url": "reports"}, ['"url" is neither a path']),
        ({"url": "ftp://example.org/"}, ['"url" is neither a path']),
        ({"url": "http:///reports"}, ['"url" is neither a path']),
        ({"url": "http://example.org?x"}, ['"url" is neither a path']),
        ({"prefix": "http://"}, ['"prefix" is neither a path']),
        ({"url": "http://example.org/#top"}, ['"url" is neither a path']),
        ({"tag": 7, "soft": "yes", "x": 1}, ["unknown key 'x'", '"soft" is neither', '"tag" is not a text']),
    ],
)
def test_what_is_wrong_with_a_purge(document: object, faults: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        parse_purge(document)
    told = caught.value.more["faults"]
    assert isinstance(told, list)
    assert len(told) == len(faults)
    assert all(expected in given for expected, given in zip(faults, told, strict=True))
    assert "exactly one of" in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from(["url", "prefix", "tag", "all", "soft", "other"])


@given(st.dictionaries(keys, json_values | st.sampled_from([True, "/a", "http://a/"]), max_size=3) | json_values)
def test_any_document_is_an_order_or_a_refusal(document: object) -> None:
    try:
        order = parse_purge(document)
    except Refusal:
        return
    assert isinstance(document, dict)
    assert order.kind in document
    assert set(document) <= {order.kind, "soft"}
    assert order.soft is document.get("soft", False)
