"""What the cache knows of a request: the stored response that may answer it, and why there is none."""

from __future__ import annotations

from proxy.policy import cache_key, reuse, validation
from proxy.policy.decisions import Reuse
from proxy.policy.messages import RequestHead, ResponseHead, StoredResponse
from proxy.server.visit import Shared, Visit
from proxy.store.invalidations import Validity
from proxy.store.shared import Seen


class Lookup:
    """What the cache knows of a request.

    key, uri -- cache key and target URI. stored -- the selected response, if it may be used at all.
    soft -- it was purged softly: stale from now on. known -- something was stored under the key, even if
    it may not be used any more. candidates -- stored for other request fields, in case the origin says that one will
    do; other_variant -- there are such. part -- only a part is stored. lacking -- of that, just the rest is missing.
    seen -- what the tier of the replicas had, where that was asked. elsewhere -- `stored` came from there.
    aside -- what was selected, and is not for whoever asks once the origin is asked.
    """

    __slots__ = (
        "aside",
        "candidates",
        "elsewhere",
        "key",
        "known",
        "lacking",
        "other_variant",
        "part",
        "secondary_names",
        "seen",
        "soft",
        "stored",
        "uri",
    )

    def __init__(self, key: str, uri: str) -> None:
        self.key = key
        self.uri = uri
        self.stored: StoredResponse | None = None
        self.soft = False
        self.known = False
        self.other_variant = False
        self.candidates: tuple[StoredResponse, ...] = ()
        self.part: StoredResponse | None = None
        self.lacking = False
        self.secondary_names: tuple[str, ...] = ()
        self.seen: Seen | None = None
        self.elsewhere = False
        self.aside: StoredResponse | None = None

    def set_aside(self) -> None:
        """It is as if nothing were stored: the client's own condition goes to the origin."""
        self.aside, self.stored, self.known = self.stored, None, False


def look_up(shared: Shared, visit: Visit) -> Lookup | None:
    """What is here for a request; None where it cannot be keyed."""
    request = visit.exchange.head
    key = cache_key.cache_key(request, visit.rule, visit.content, shared.digest)
    if key is None:
        return None
    found = Lookup(key, cache_key.target_uri(request))
    if not shared.flags.query_cache:
        return found
    select(shared, found, request, shared.store.get(key))
    return found


def select(shared: Shared, found: Lookup, request: RequestHead, variants: tuple[StoredResponse, ...]) -> None:
    """What of the responses stored under the key the request may be answered with."""
    if not variants:
        return
    found.known, found.other_variant, found.candidates = True, False, ()
    found.stored = found.part = None
    found.secondary_names = tuple(name for name, _ in variants[-1].secondary_key)
    stored = reuse.select(variants, request.fields)
    if stored is None:
        found.other_variant = True
        found.candidates = validation.candidates([one for one in variants if shared.validity(one) is Validity.VALID])
        return
    validity = shared.validity(stored)
    if validity is Validity.GONE:
        shared.store.remove(stored)
    elif stored.part is not None:
        found.part = stored if validity is Validity.VALID else None
    else:
        found.stored = stored
        found.soft = validity is Validity.STALE


def decide(shared: Shared, visit: Visit, found: Lookup, now: float) -> Reuse | None:
    """What the selected response may be used for; None where there is none."""
    stored, request = found.stored, visit.exchange.head
    if stored is None:
        return None
    decision = reuse.decide(stored, request, now, found.soft, visit.rule)
    behind = decision is Reuse.STALE_WHILE_REVALIDATE
    if behind and not validation.is_for(request, stored, visit.rule, shared.targets):
        # what came behind would not be for others
        return Reuse.VALIDATE
    return decision


def on_its_own(visit: Visit, found: Lookup) -> bool:
    """Whether the client's own condition or range goes to the origin, and not a request in the cache's name.

    With nothing stored, the origin's 304 or 206 spares more than a full answer kept here would.
    """
    fields = visit.exchange.head.fields
    if found.stored is not None:
        return False
    if "range" in fields:
        return True
    if visit.rule is not None or (found.known and found.part is None):
        return False
    return any(name in fields for name in validation.PRECONDITIONS)


def drop_what_is_older(shared: Shared, found: Lookup, head: ResponseHead) -> None:
    """Whoever was told of a later date, by what is not stored for others, does not go back the next time."""
    selected = found.stored or found.aside
    if selected is not None and head.status == 200 and validation.is_later(head.fields, selected):
        shared.store.remove(selected)
        shared.tell_others((), [found.uri])


def collapse_key(shared: Shared, visit: Visit, found: Lookup) -> str:
    """The cache key, with the credential and the selecting fields as far as they are known."""
    fields = visit.exchange.head.fields
    parts = [found.key]
    authorization = fields.get("authorization")
    if authorization is not None and (visit.rule is None or not visit.rule.private):
        parts.append(shared.digest(authorization.encode("latin-1")))
    parts.extend(f"{name}={value}" for name, value in cache_key.secondary_key(found.secondary_names, fields))
    return "\n".join(parts)
