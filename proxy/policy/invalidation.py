"""What a successful change makes unusable, and what a response can be purged by (RFC 9111 4.4)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from proxy.policy.cache_key import authority_of, normal_authority, target_uri
from proxy.policy.fields import parse_strings, split_list
from proxy.policy.messages import Fields, RequestHead, ResponseHead

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
"""Methods that only read (RFC 9110 9.2.1 and the IANA registry)."""

UNANSWERED = ResponseHead(200, "", Fields())
"""What counts in place of an answer that never came to a request that the origin may have had: it may have done it."""

MAX_TAGS = 64
MAX_TAG_CHARACTERS = 256


def is_safe(method: str) -> bool:
    """Whether the method only reads; an unknown one does not (RFC 9111 4.4)."""
    return method in SAFE_METHODS


def invalidates(request: RequestHead, status: int) -> bool:
    """Whether a response with `status` means that something may have changed: 2xx or 3xx to an unsafe method."""
    return not is_safe(request.method) and 200 <= status < 400


def invalidated_uris(request: RequestHead, response: ResponseHead) -> tuple[str, ...]:
    """The target URI, and Location and Content-Location where they are of the same origin (RFC 9111 4.4).

    Of another origin they are left alone: nobody may empty another site's cache.
    """
    target = target_uri(request)
    uris = {target: None}
    for name in ("location", "content-location"):
        value = response.fields.get(name)
        if value is not None:
            uri = resolved(request, value)
            if uri is not None:
                uris[uri] = None
    return tuple(uris)


def resolved(request: RequestHead, reference: str) -> str | None:
    """The URI that a reference in the response to `request` means; None where it is of another origin."""
    try:
        parts = urlsplit(urljoin(target_uri(request), reference.strip()))
    except ValueError:
        return None
    authority = normal_authority(parts.scheme, parts.netloc)
    if parts.scheme != request.scheme or authority != authority_of(request):
        return None
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{authority}{parts.path or '/'}{query}"


def _groups(name: str, head: RequestHead, fields: Fields) -> tuple[str, ...]:
    """The cache groups that a field names, as tags of this origin (RFC 9875 2)."""
    origin = f"{head.scheme}://{authority_of(head)}"
    groups = dict.fromkeys(parse_strings(fields.all(name)))
    return tuple(f"group\n{origin}\n{group}" for group in groups if len(group) <= MAX_TAG_CHARACTERS)[:MAX_TAGS]


def groups(request: RequestHead, fields: Fields) -> tuple[str, ...]:
    """The tags of the groups that a response belongs to: `Cache-Groups` (RFC 9875 2)."""
    return _groups("cache-groups", request, fields)


def invalidated_groups(request: RequestHead, response: ResponseHead) -> tuple[str, ...]:
    """The tags of the groups that a response invalidates: `Cache-Group-Invalidation` (RFC 9875 3).

    Only an unsafe request's response that is no error may.
    """
    if not invalidates(request, response.status):
        return ()
    return _groups("cache-group-invalidation", request, response.fields)


def response_tags(fields: Fields) -> tuple[str, ...]:
    """The tags of a response: `Cache-Tag` (commas) and `Surrogate-Key` (spaces), bounded in number and length."""
    tags: dict[str, None] = {}
    for line in fields.all("cache-tag"):
        tags.update(dict.fromkeys(split_list(line)))
    for line in fields.all("surrogate-key"):
        tags.update(dict.fromkeys(line.split()))
    return tuple(tag for tag in tags if tag and len(tag) <= MAX_TAG_CHARACTERS)[:MAX_TAGS]
