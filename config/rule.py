"""One route rule: what may stand in it, and what is refused because it would answer one user with another's data.

A rule's table is read part by part. Every part says all that is wrong with it, so that an operator sees the
whole of it at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.patterns import Pattern, PatternError, has_dot_segment
from config.toml_file import TableReader
from config.words import did_you_mean, quoted

METHODS = ("GET", "HEAD", "POST")
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110 9.2.1), so their success invalidates nothing."""
# fmt: off
UNSAFE = frozenset({
    "POST", "PUT", "PATCH", "DELETE", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY",
    "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE",
    "ORDERPATCH", "PROPPATCH", "REBIND", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE",
    "UPDATEREDIRECTREF", "VERSION-CONTROL"
})
# fmt: on
"""The registered methods that may change something (IANA, Hypertext Transfer Protocol Method Registry)."""
PARTS = ("query", "query:NAME", "body", "body:JSON_FIELD", "authorization", "header:NAME", "cookie:NAME")
CREDENTIAL_FIELDS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "api-key",
        "x-auth-token",
        "x-access-token",
        "x-amz-security-token",
    }
)
"""Fields that say who is asking. To the cache (`proxy.policy.cache_key`) they are credentials too, as a test holds."""
ORIGIN = "origin"
"""A `ttl` that leaves the freshness lifetime to the origin."""
MOST_SECONDS = 2.0**31
"""The largest number of seconds a cache has to tell from infinity (RFC 9111 1.2.2)."""
MOST_TAGS, LONGEST_TAG = 64, 256
MARK_BYTES = 4

_KEYS = (
    "match",
    "methods",
    "ttl",
    "key",
    "stale_while_revalidate",
    "stale_if_error",
    "tags",
    "invalidated_by",
    "public",
    "set_cookie",
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TAG = re.compile(r"[\x21-\x2b\x2d-\x7e]+")

Part = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A route rule; `proxy.policy.messages.RouteRule` says what the parts mean.

    ttl, stale_while_revalidate, stale_if_error -- seconds; None leaves them to the origin.
    invalidated_by -- (method, path pattern) pairs. mark -- a digest of all of it.
    """

    name: str
    methods: frozenset[str]
    ttl: float | None
    key: tuple[Part, ...] = ()
    stale_while_revalidate: float | None = None
    stale_if_error: float | None = None
    tags: tuple[str, ...] = ()
    invalidated_by: tuple[tuple[str, str], ...] = ()
    private: bool = False
    public: bool = False
    set_cookie: bool = False
    mark: str = field(init=False, default="")

    def __post_init__(self) -> None:
        text = repr(self.describe()).encode()
        object.__setattr__(self, "mark", hashlib.blake2b(text, digest_size=MARK_BYTES).hexdigest())

    def describe(self) -> dict[str, object]:
        """The rule as JSON, its parts written as in the rules file."""
        return {
            "match": self.name,
            "methods": sorted(self.methods),
            "ttl": ORIGIN if self.ttl is None else self.ttl,
            "key": [":".join(filter(None, part)) for part in self.key],
            "stale_while_revalidate": self.stale_while_revalidate,
            "stale_if_error": self.stale_if_error,
            "tags": list(self.tags),
            "invalidated_by": [" ".join(pair) for pair in self.invalidated_by],
            "private": self.private,
            "public": self.public,
            "set_cookie": self.set_cookie,
        }


def is_credential(part: Part) -> bool:
    """Whether a part of a key is a credential, known as such."""
    kind, name = part
    return kind in {"authorization", "cookie"} or (kind == "header" and name in CREDENTIAL_FIELDS)


def read_rule(table: Mapping[str, Any], default_ttl: float) -> tuple[Rule, list[str]]:
    """The rule in a `[[route]]` table and what is wrong with it. It may only be used if nothing is."""
    reader = _Reader(table)
    key = reader.key()
    rule = Rule(
        name=reader.match(),
        methods=reader.methods(),
        ttl=reader.ttl(default_ttl),
        key=key,
        stale_while_revalidate=reader.seconds("stale_while_revalidate", None),
        stale_if_error=reader.seconds("stale_if_error", None),
        tags=reader.tags(),
        invalidated_by=reader.invalidated_by(),
        private=any(map(is_credential, key)),
        public=reader.switch("public"),
        set_cookie=reader.switch("set_cookie"),
    )
    reader.unknown_keys(_KEYS)
    return rule, reader.faults or leaks(rule)


def leaks(rule: Rule) -> list[str]:
    """Why a rule would answer one user with what was made for another, or contradicts itself about that."""
    kinds = {kind for kind, _ in rule.key}
    posts = "POST" in rule.methods
    found = []
    if posts and "body" not in kinds:
        found.append(
            "key: a POST is told from others by its content; without body or body:FIELD in the key, "
            "requests for different things would get one answer"
        )
    if posts and not rule.public and not kinds & {"authorization", "cookie", "header"}:
        found.append(
            "key: without authorization, cookie:NAME or header:NAME in the key one user would get another's answer; "
            "if it is the same for everyone, say public = true"
        )
    if rule.public and rule.private:
        found.append("public: an answer that is the same for everyone cannot depend on the credential in the key")
    if rule.set_cookie and not (rule.public or rule.private):
        found.append(
            "set_cookie: everyone would be given the cookie that one was given; "
            "if that is meant, say public = true as well"
        )
    return found


class _Reader(TableReader):
    def match(self) -> str:
        """The path pattern."""
        text = self.table.get("match")
        if text is None:
            self.fault("match", "it is missing; give a path, a prefix ending in *, or a path with {name} segments")
        elif not isinstance(text, str):
            self.fault("match", f"{quoted(text)} is not text")
        else:
            self._pattern("match", text)
            if has_dot_segment(text):
                self.fault(
                    "match", f"{quoted(text)} has or may hide a segment . or .., and no rule applies to such a path"
                )
            return text
        return ""

    def _pattern(self, key: str, text: str) -> None:
        try:
            Pattern(text)
        except PatternError as fault:
            self.fault(key, f"{quoted(text)} is no pattern: {fault}")

    def _texts(self, key: str) -> list[str]:
        """A list of texts, each once."""
        given = self.table.get(key, [])
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            self.fault(key, f"{quoted(given)} is not a list of texts")
            return []
        for twice in sorted({one for one in given if given.count(one) > 1}):
            self.fault(key, f"{quoted(twice)} stands in it twice")
        return list(dict.fromkeys(given))

    def methods(self) -> frozenset[str]:
        """The methods whose responses are stored; HEAD is answered from what GET stored."""
        if "methods" not in self.table:
            return frozenset({"GET"})
        methods = self._texts("methods")
        for method in methods:
            if method not in METHODS:
                hint = did_you_mean(method, METHODS)
                self.fault("methods", f"{quoted(method)} cannot be stored, only {', '.join(METHODS)}{hint}")
        if self.table["methods"] == []:
            self.fault("methods", "the list is empty")
        if "HEAD" in methods and "GET" not in methods:
            self.fault("methods", "HEAD is answered from what GET stored, so GET must be named too")
        return frozenset(methods)

    def ttl(self, otherwise: float) -> float | None:
        """The freshness lifetime; None where it is the origin's."""
        return None if self.table.get("ttl") == ORIGIN else self.seconds("ttl", otherwise) or 0.0

    def seconds(self, key: str, otherwise: float | None) -> float | None:
        """A number of seconds."""
        given = self.table.get(key, otherwise)
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int | float):
            self.fault(key, f"{quoted(given)} is not a number of seconds")
        elif not 0 <= given <= MOST_SECONDS:
            self.fault(key, f"{quoted(given)} is not a number of seconds from 0 to {MOST_SECONDS:.0f}")
        else:
            return float(given)
        return None

    def key(self) -> tuple[Part, ...]:
        """What tells requests apart beside their path."""
        parts = [part for text in self._texts("key") if (part := self._part(text)) is not None]
        for kind in ("query", "body"):
            if (kind, "") in parts and sum(one == kind for one, _ in parts) > 1:
                self.fault("key", f"{kind} is the whole of it, so {kind}:NAME beside it says nothing")
        for name in sorted({name for kind, name in parts if kind == "header" and parts.count((kind, name)) > 1}):
            self.fault("key", f"header:{name} stands in it twice")
        return tuple(parts)

    def _part(self, text: str) -> Part | None:
        kind, colon, name = text.partition(":")
        if colon:
            return self._named_part(text, kind, name)
        if kind in {"query", "body", "authorization"}:
            return kind, ""
        if kind in {"header", "cookie"}:
            self.fault("key", f"{kind} needs a name, as in {kind}:NAME")
        else:
            self._unknown_part(text)
        return None

    def _named_part(self, text: str, kind: str, name: str) -> Part | None:
        if kind not in {"query", "body", "header", "cookie"}:
            self._unknown_part(text)
        elif not name or (kind in {"header", "cookie"} and not _TOKEN.fullmatch(name)):
            self.fault("key", f"{quoted(text)} has no proper name behind the colon")
        elif kind == "header" and name.lower() == "authorization":
            self.fault("key", "header:authorization is written authorization")
        else:
            return kind, name.lower() if kind == "header" else name
        return None

    def _unknown_part(self, text: str) -> None:
        self.fault("key", f"{quoted(text)} is none of {', '.join(PARTS)}{did_you_mean(text, PARTS)}")

    def tags(self) -> tuple[str, ...]:
        """What stored responses can be purged by."""
        tags = self._texts("tags")
        for tag in tags:
            if len(tag) > LONGEST_TAG or not _TAG.fullmatch(tag):
                self.fault(
                    "tags", f"{quoted(tag)} is not 1 to {LONGEST_TAG} visible ASCII characters without space and comma"
                )
        if len(tags) > MOST_TAGS:
            self.fault("tags", f"{len(tags)} are more than the {MOST_TAGS} a stored response may have")
        return tuple(tags)

    def invalidated_by(self) -> tuple[tuple[str, str], ...]:
        """Requests whose success invalidates what the rule stored."""
        pairs = []
        for text in self._texts("invalidated_by"):
            method, space, path = text.partition(" ")
            if not space or not _TOKEN.fullmatch(method):
                self.fault("invalidated_by", f"{quoted(text)} is not a method, a space and a path pattern")
            elif method.upper() in SAFE:
                self.fault("invalidated_by", f"{quoted(text)}: {method.upper()} changes nothing")
            elif method != method.upper():
                self.fault("invalidated_by", f"{quoted(text)}: methods are upper case; did you mean {method.upper()}?")
            elif method not in UNSAFE:
                hint = did_you_mean(method, sorted(UNSAFE))
                self.fault("invalidated_by", f"{quoted(text)}: {method} is no registered method{hint}")
            else:
                self._pattern("invalidated_by", path)
                pairs.append((method, path))
        return tuple(pairs)
