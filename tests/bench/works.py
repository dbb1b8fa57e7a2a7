"""What is asked: request heads as browsers behind an edge send them, twelve fields, another request id each time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

REPORT = "/reports/generate"
FIELDS = (
    "Host: app.example",
    "Connection: keep-alive",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Accept: application/json, text/plain, */*",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Referer: https://app.example/dashboard",
    "Sec-Fetch-Mode: cors",
    "X-Real-IP: 203.0.113.7",
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
)
"""Ten; Accept-Encoding and X-Request-Id come with each request."""
QUESTION = '{"userId": "u-1", "startDate": "2025-09-01", "text": "' + "x" * 1900 + '"}'
"""2 KB of JSON, as content of a POST."""


class Reaches(StrEnum):
    """Where a request ends."""

    STORE = "store"
    ORIGIN = "origin"


@dataclass(frozen=True)
class Work:
    """What is asked, and what has to come back.

    targets -- how many different URLs are asked for in turn; 1: only `target`. first -- the request
    that is begun with. stride -- from one URL to the next, without a common divisor with `targets`.
    status, coding -- of every response. reaches -- where every request has to end.
    """

    method: str = "GET"
    target: str = "/private"
    fields: tuple[str, ...] = ()
    accept_encoding: str = "identity"
    content: str = ""
    targets: int = 1
    first: int = 0
    stride: int = 1
    status: int = 200
    coding: str = "identity"
    reaches: Reaches = Reaches.ORIGIN


FORWARD = Work()
HIT = Work(target="/public", reaches=Reaches.STORE)
NOT_MODIFIED = replace(HIT, fields=('If-None-Match: "v1"',), status=304)
GZIP = replace(HIT, accept_encoding="gzip", coding="gzip")
STORED_GZIP = replace(GZIP, target="/coded")
"""For peers that store what the origin has compressed."""
POST = Work("POST", content=QUESTION)
RULE = Work("POST", REPORT, fields=("Authorization: Bearer 3d7a1c9b5e",), content=QUESTION, reaches=Reaches.STORE)
MANY = replace(HIT, targets=100_000)


def parts(work: Work) -> tuple[str, str, str]:
    """What is sent: the start, the rest of the request up to its id, and what follows the id.

    With several targets `?n=` and a number come after the first part.
    """
    fields = [*FIELDS, *work.fields, f"Accept-Encoding: {work.accept_encoding}"]
    if work.content:
        fields += ["Content-Type: application/json", f"Content-Length: {len(work.content)}"]
    rest = " HTTP/1.1\r\n" + "".join(f"{field}\r\n" for field in fields) + "X-Request-Id: "
    return f"{work.method} {work.target}", rest, "\r\n\r\n" + work.content


def head(work: Work, request_id: str) -> bytes:
    """A whole request, with its content, for the first of the targets."""
    start, rest, after = parts(work)
    number = f"?n={work.first * work.stride % work.targets}" if work.targets > 1 else ""
    return f"{start}{number}{rest}{request_id}{after}".encode()
