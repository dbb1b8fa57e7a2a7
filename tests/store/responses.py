"""Stored responses to put in stores."""

from __future__ import annotations

from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from proxy.store.memory import pack


def stored(
    key: str = "k", *, variant: str | None = None, size: int = 0, tags: tuple[str, ...] = (), fill: bytes = b"x"
) -> StoredResponse:
    """A small stored response, packed as the store packs it; `variant` is the value of its one selecting field."""
    response = StoredResponse(
        key=key,
        uri=f"http://example.org/{key}",
        secondary_key=() if variant is None else (("accept-language", variant),),
        head=ResponseHead(200, "OK", Fields([("Content-Type", "text/plain")])),
        content=fill * size,
        freshness=Freshness(lifetime=60.0),
        request_time=0.0,
        response_time=0.0,
        epoch=0,
        tags=tags,
    )
    pack(response)
    return response
