"""The answer that tells a client what went wrong."""

from __future__ import annotations

from http import HTTPStatus

from proxy import errors
from proxy.policy.messages import Fields, ResponseHead


def refusal_head(fault: errors.SidingError) -> ResponseHead:
    """The head of the JSON answer that tells a client of `fault`."""
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if fault.status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append(("Retry-After", "1"))
    return ResponseHead(fault.status, HTTPStatus(fault.status).phrase, Fields(fields))
