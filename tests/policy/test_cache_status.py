"""Cache-Status as a structured field (RFC 9211)."""

from __future__ import annotations

from typing import cast

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.cache_status import cache_status
from proxy.policy.decisions import Forward


def value(
    *,
    hit: bool = False,
    fwd: Forward | None = None,
    fwd_status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    ttl: float | None = None,
    detail: str | None = None,
    key: str | None = None,
) -> str:
    return cache_status(
        hit=hit, fwd=fwd, fwd_status=fwd_status, stored=stored, collapsed=collapsed, ttl=ttl, detail=detail, key=key
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (value(), "siding"),
        (value(hit=True, ttl=12.9), "siding; hit; ttl=12"),
        (
            value(hit=True, ttl=-0.1, detail="stale-while-revalidate"),
            "siding; hit; ttl=-1; detail=stale-while-revalidate",
        ),
        (value(fwd=Forward.URI_MISS), "siding; fwd=uri-miss"),
        (
            value(fwd=Forward.STALE, fwd_status=304, stored=True, collapsed=True),
            "siding; fwd=stale; fwd-status=304; stored; collapsed",
        ),
        (value(hit=True, fwd=Forward.STALE, fwd_status=200), "siding; hit"),
        (value(detail='say "a\\b"'), 'siding; detail="say \\"a\\\\b\\""'),
        (value(detail="7up"), 'siding; detail="7up"'),
        (value(detail="*star"), "siding; detail=*star"),
        (value(detail=""), 'siding; detail=""'),
        (value(hit=True, key='GET "/a\n'), 'siding; hit; key="GET \\"/a"'),
        (value(detail="a\r\nSet-Cookie: b"), 'siding; detail="aSet-Cookie: b"'),
    ],
)
def test_values(text: str, expected: str) -> None:
    assert text == expected


@given(
    hit=st.booleans(),
    fwd=st.none() | st.sampled_from(Forward),
    fwd_status=st.none() | st.integers(100, 599),
    stored=st.booleans(),
    collapsed=st.booleans(),
    ttl=st.none() | st.floats(-1e9, 1e9),
    detail=st.none() | st.text(max_size=20),
)
def test_always_a_structured_field(
    hit: bool,
    fwd: Forward | None,
    fwd_status: int | None,
    stored: bool,
    collapsed: bool,
    ttl: float | None,
    detail: str | None,
) -> None:
    text = value(hit=hit, fwd=fwd, fwd_status=fwd_status, stored=stored, collapsed=collapsed, ttl=ttl, detail=detail)
    [(name, parameters)] = cast("list[tuple[object, dict[str, object]]]", http_sf.parse(text.encode(), tltype="list"))
    assert str(name) == "siding"
    assert parameters.get("hit", False) is hit
    assert ("fwd" in parameters) is (fwd is not None and not hit)
