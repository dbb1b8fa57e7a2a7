"""The answer that tells a client what went wrong."""

from __future__ import annotations

from http import HTTPStatus

from proxy import errors
from proxy.observe.events import Observation
from proxy.policy.messages import Fields, ResponseHead
from proxy.policy.prepared import wire_head


def refusal_head(fault: errors.SidingError) -> ResponseHead:
    """The head of the JSON answer that tells a client of `fault`."""
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if fault.status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append(("Retry-After", "1"))
    return ResponseHead(fault.status, HTTPStatus(fault.status).phrase, Fields(fields))


def last_refusal(fault: errors.SidingError, client: str, now: float) -> tuple[bytes, Observation]:
    """What ends a connection whose request cannot be told from others: the whole answer, and what is observed of it."""
    content = fault.content()
    octets = wire_head(refusal_head(fault), len(content)) + b"Connection: close\r\n\r\n" + content
    seen = Observation(method="", path="", client=client, started=now)
    seen.status, seen.error, seen.response_bytes = fault.status, fault.code, len(content)
    return octets, seen
