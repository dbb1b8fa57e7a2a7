"""Which requests are the same to the cache: target URI and rule -> cache key; Vary -> secondary key (RFC 9111 2, 4.1).

A key is a sequence of parts, each with its length in front, so that no value can pass for two. What a client
sent in fields or content stands in it only as a keyed digest: a key may be logged, a credential may not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from proxy.policy.fields import OWS, parse_weights, parts_of, split_list, valid_token
from proxy.policy.json_content import Document
from proxy.policy.messages import Fields, RequestHead, RouteRule, SecondaryKey

Digest = Callable[[bytes], str]

CREDENTIAL_FIELDS = (
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
)
"""Fields that say who is asking."""

REWRITING_FIELDS = (
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-host",
    "x-host-override",
    "x-http-host-override",
    "x-original-host",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
    "x-script-name",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-scheme",
    "x-url-scheme",
    "forwarded",
    "front-end-https",
)
"""Fields that many frameworks let change the answer without saying so in Vary: unkeyed, one client's
X-Forwarded-Host would poison every other client's page."""

_REWRITING = frozenset(REWRITING_FIELDS)
MIMICKED = _REWRITING | frozenset(CREDENTIAL_FIELDS) | {"accept-encoding", "if-none-match", "if-modified-since"}
"""Fields that count whatever a response varies on, and so do those that an origin may take for them (see `as_read`)."""
_ODD = re.compile(r"[^a-z0-9-]")
_MADE_HERE = frozenset({"x-forwarded-for", "x-request-id", "traceparent"})
"""Request fields that are another each time by the time the origin sees them."""
_DOT_SEGMENT = re.compile(r"(?:\A|[/\\])\s*\.{1,2}\s*(?:[/\\;?#\0]|\Z)")
_HIDDEN = re.compile(r"%(?:c[01]|u[0-9a-f]{4})", re.IGNORECASE)
"""What some origins decode to a dot or a slash, though it is no UTF-8."""
_SEPARATED = re.compile(r";|%26|%3b", re.IGNORECASE)
_EQUALS = re.compile(rb"=|%3d", re.IGNORECASE)
_END_OF_NAME = re.compile(r"[\[\0]")
_NOT_IN_NAMES = re.compile(r"[ .\[]")
_UNREAD = re.compile("[%\ufffd]")
"""In a decoded name: what is encoded twice, or in a way that is not known here."""
_PLAIN_PAIR = re.compile(r"""[^\s"=\\]+=(?:[^\s"=\\]*|"[^"=\\]*")""")
_NAMES_HOST_OR_PROTO = re.compile(r"(?:host|proto)\s*=", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_WEIGHTED = frozenset({"accept-encoding", "accept-language"})
"""Selecting fields whose members are told apart by weight alone, so that neither order nor case matters."""
_PLAIN_WEIGHT = re.compile(r"[A-Za-z0-9*-]+[ \t]*(?:;[ \t]*[qQ]=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")
_NO_LISTS = frozenset({"authorization", "cookie", "origin", "referer", "user-agent"})
"""Fields in which a comma, and white space at it, are characters like any other."""
MAX_VARY_NAMES = 32
"""A response that varies on more names than this is treated as varying on everything."""


# -- the primary key


def normal_authority(scheme: str, authority: str) -> str:
    """The one of all forms that mean the same (RFC 9110 4.2.3): in lower case, and the port, where it is not the
    scheme's own, as a number."""
    host, colon, port = authority.lower().rpartition(":")
    if not colon or (port and not port.isdecimal()):
        return authority.lower()
    number = port.lstrip("0") or port[:1]
    return host if number in ("", _DEFAULT_PORTS.get(scheme)) else f"{host}:{number}"


def authority_of(head: RequestHead) -> str:
    """The target URI's authority, in the one form that purges know."""
    return normal_authority(head.scheme, head.authority)


def target_uri(head: RequestHead) -> str:
    """The target URI with its query (RFC 9110 7.1); path and query are octet for octet the client's."""
    return f"{head.scheme}://{authority_of(head)}{head.target}"


def credential_fields(head: RequestHead) -> tuple[str, ...]:
    """The credential fields that the request carries, in lower case."""
    fields = head.fields
    return tuple(name for name in CREDENTIAL_FIELDS if name in fields)


def rule_applies(rule: RouteRule, head: RequestHead) -> bool:
    """Whether the rule may answer this request: only when every credential it carries is in the key.

    Otherwise the answer may be one user's own, and the key would not tell. A public rule is the operator's word
    that it is not. A named cookie stands for the whole Cookie field: the operator says it is the session.
    Nor when the path has a dot segment: to the origin it may be another path, which the rule is not about.
    """
    path = head.path
    if "%" in path:
        once = unquote(path)
        if _HIDDEN.search(path) or _HIDDEN.search(once):
            return False
        path = unquote(once)
    if _DOT_SEGMENT.search(path):
        return False
    if rule.public:
        return True
    keyed = set()
    for kind, name in rule.key:
        if kind == "authorization":
            keyed.add("authorization")
        elif kind == "header":
            keyed.add(name)
        elif kind == "cookie" and _cookie(head.fields, name) is not None:
            keyed.add("cookie")
    return all(name in keyed for name in credential_fields(head))


def cache_key(head: RequestHead, rule: RouteRule | None, content: bytes | None, digest: Digest) -> str | None:
    """The cache key of a request; None when it cannot be keyed and must pass.

    GET and HEAD share a key, other methods have keys of their own. content -- the request's, where the rule keys it.
    digest -- a keyed hash; whatever came in fields or content enters only through it.
    """
    place = place_of(head, digest)
    if rule is None:
        return key_at(place, head.method, asked_part(head.path, head.query))
    if content is None and any(kind == "body" for kind, _ in rule.key):
        return None
    parts: list[str] = []
    names = _keyed_arguments(rule, head.query)
    if names is not None:
        parts.append("&")
        parts.extend(f"{name}={value}" for name in names for value in _arguments(head.query, name))
        parts.append("&")
    _add_rule(parts, rule, head.fields, content or b"", digest)
    asked = asked_part(head.path, head.query if names is None else None)
    return key_at(place, head.method, asked) + _joined_parts(parts)


class Place(NamedTuple):
    """The parts of a cache key that stand before and behind those of the target: who is asked, and what rewrites it.

    origin -- scheme and authority, as a target URI begins.
    """

    before: str
    after: str
    origin: str


def place_of(head: RequestHead, digest: Digest) -> Place:
    """Where a request is addressed to, apart from its method and target."""
    parts: list[str] = []
    _add_rewriting(parts, head.fields, digest)
    authority = authority_of(head)
    # an origin may answer by what RFC 9110 4.2.3 says is the same
    return Place(_joined_parts([head.scheme, head.authority]), _joined_parts(parts), f"{head.scheme}://{authority}")


def key_at(place: Place, method: str, asked: str) -> str:
    """The cache key of a request to which no rule applies. asked -- its `asked_part`."""
    method = "GET" if method == "HEAD" else method
    return f"{len(method)}:{method}{place.before}{asked}{place.after}"


def asked_part(path: str, query: str | None) -> str:
    """What a cache key says of a request target. query -- None where there is no question mark."""
    return f"{len(path)}:{path}0:" if query is None else f"{len(path)}:{path}{len(query) + 1}:?{query}"


def _joined_parts(parts: list[str]) -> str:
    return "".join([f"{len(part)}:{part}" for part in parts])


def portable(head: RequestHead, rule: RouteRule | None) -> bool:
    """Whether the request's keys hold no digest, and so are those of a process with another digest as well."""
    fields = head.fields
    if "authorization" in fields or _rewriting(fields):
        return False
    return rule is None or all(kind == "query" for kind, _ in rule.key)


def _keyed_arguments(rule: RouteRule, query: str | None) -> list[str] | None:
    """The query's arguments that the key is narrowed to; None for the whole query.

    That is what counts as well where an origin may read one of these arguments that is not seen here (`_ambiguous`).
    """
    names = [name for kind, name in rule.key if kind == "query"]
    return names if names and "" not in names and not _ambiguous(query or "", names) else None


def _ambiguous(query: str, names: list[str]) -> bool:
    """Whether some origin may read an argument called one of `names` where `_arguments` reads another, or none.

    A form's names are decoded (RFC 3986 2.1, and + for a space); some origins also separate at `;`, or decode before
    they separate, leave the case aside, read `q[]` as a list called q, end a name at NUL and write _ for what it may
    not hold, a bracket that nobody closes among it.
    """
    meant = {read for name in names for read in _as_read(name.encode())}
    for part in query.split("&"):
        seen = part.partition("=")[0] in names
        for pair in _SEPARATED.split(part)[1 if seen else 0 :]:
            for read in _as_read(pair.encode("latin-1", "replace")):
                if read in meant or _UNREAD.search(read):
                    return True
    return False


def _as_read(pair: bytes) -> tuple[str, str]:
    """An argument's name in the two forms that stand for all that an origin may take for the same."""
    name = _EQUALS.split(pair, maxsplit=1)[0]
    decoded = unquote_to_bytes(name.replace(b"+", b" ")).decode("utf-8", "replace")
    ended = _END_OF_NAME.split(decoded, maxsplit=1)[0]
    return _written_anew(ended), _written_anew(decoded)


def _written_anew(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name.strip().casefold())


def as_read(name: str) -> str:
    """A field's name, in lower case, in the one form that stands for all that an origin may take for the same.

    Behind CGI (RFC 3875 4.1.18), and what came of it, X_Lang and X.Lang are HTTP_X_LANG as X-Lang is.
    """
    return _ODD.sub("-", name)


def _rewriting(fields: Fields) -> set[str]:
    """The names of the fields that may change an answer unsaid."""
    names = fields.names()
    found = set(names & _REWRITING)
    if _ODD.search("".join(names)):
        found.update([name for name in names if _ODD.search(name) and as_read(name) in MIMICKED])
    return found


def _mimics(name: str, fields: Fields) -> tuple[str, ...]:
    """The values of the fields that an origin may take for those called `name`, each with what it is called."""
    names = fields.names()
    if not ((_ODD.search("".join(names)) and "-" in name) or _ODD.search(name)):
        return ()
    meant, found = as_read(name), sorted(names - {name})
    return tuple([f"\n{other}\n{value}" for other in found if as_read(other) == meant for value in fields.all(other)])


def _add_rewriting(parts: list[str], fields: Fields, digest: Digest) -> None:
    for name in sorted(_rewriting(fields)):
        values = fields.all(name) if name != "forwarded" else _host_and_proto(fields.all(name))
        if values:
            parts.append(f"{name}={digest(_joined('field', name, values))}")


def _host_and_proto(values: tuple[str, ...]) -> tuple[str, ...]:
    """What in Forwarded fields changes an answer (RFC 7239 5.3, 5.4); `for` and `by` are anew with each client.

    Each line with these two pairs alone, and which member has them; or as it is, where two parsers may read it
    differently: with a comma, a semicolon or an escape within quotes, or white space at an equals sign.
    """
    read = tuple(_without_nodes(value) for value in values)
    return read if any(read) else ()


def _without_nodes(value: str) -> str:
    members = [[pair.strip(OWS) for pair in member.split(";")] for member in value.split(",")]
    if any(pair and _PLAIN_PAIR.fullmatch(pair) is None for pairs in members for pair in pairs):
        return value if _NAMES_HOST_OR_PROTO.search(value) else ""
    kept = ",".join([";".join([pair for pair in pairs if _NAMES_HOST_OR_PROTO.match(pair)]) for pairs in members])
    return kept if kept.strip(",") else ""


def _joined(kind: str, name: str, values: tuple[str, ...]) -> bytes:
    """Values under a name of their own, so that equal values of different fields have different digests."""
    return "".join([f"{kind}:{name}", *(f"\n{len(value)}:{value}" for value in values)]).encode()


def _add_rule(parts: list[str], rule: RouteRule, fields: Fields, content: bytes, digest: Digest) -> None:
    parts.append(f"rule {rule.name} {rule.mark}")
    document: Document | None = None
    for kind, name in rule.key:
        if kind == "authorization":
            parts.append(_part("authorization", fields.all("authorization"), digest))
        elif kind == "header":
            parts.append(_part(f"header:{name}", (*fields.all(name), *_mimics(name, fields)), digest))
        elif kind == "cookie":
            value = _cookie(fields, name)
            parts.append(_part(f"cookie:{name}", () if value is None else (value,), digest))
        elif kind == "body":
            document = document or Document(fields, content)
            text = document.member(name) if name else document.whole()
            parts.append(f"body:{name}={digest(text)}")


def _part(label: str, values: tuple[str, ...], digest: Digest) -> str:
    return f"{label}={digest(_joined('part', label, values))}" if values else f"{label} absent"


def _cookie(fields: Fields, name: str) -> str | None:
    """The values of the cookies called `name`, joined as they came (RFC 6265 5.4); None without one."""
    found = []
    for line in fields.all("cookie"):
        for pair in line.split(";"):
            key, _, value = pair.strip(" \t").partition("=")
            if key == name:
                found.append(value)
    return ";".join(found) if found else None


def _arguments(query: str | None, name: str) -> list[str]:
    """The values of the query's arguments called `name`, undecoded and in order."""
    pairs = (pair.partition("=") for pair in (query or "").split("&"))
    return [value if equals else "\n" for key, equals, value in pairs if key == name]


# -- the secondary key


def vary_names(fields: Fields) -> tuple[str, ...] | None:
    """The selecting field names of a response, sorted; None where it varies on everything (RFC 9110 12.5.5).

    That is so as well where it varies on a field that is another with each request, or on what is no field's name,
    such as two that no comma parts.
    """
    lines = fields.all("vary")
    if not lines:
        return ()
    names = {member.lower() for line in lines for member in split_list(line)}
    if "*" in names or len(names) > MAX_VARY_NAMES or not names.isdisjoint(_MADE_HERE):
        return None
    if not all(map(valid_token, names)):
        return None
    return tuple(sorted(names))


def _normal(name: str, fields: Fields) -> str | None:
    """A selecting field's value as far as it matters (RFC 9111 4.1): white space and line breaks do not in a list."""
    values = fields.all(name)
    mimics = _mimics(name, fields)
    if mimics:
        return "\n".join((*values, *mimics))
    if not values:
        return None
    if name in _NO_LISTS:
        return "\n".join(values)
    # an empty member is none to who reads a list; who does not know that it is one may answer by it
    members = [part.strip(OWS) for value in values for part in parts_of(value)]
    if name in _WEIGHTED and all(map(_PLAIN_WEIGHT.fullmatch, members)):
        weights = parse_weights(",".join(members))
        if len(dict(weights)) == len(weights):
            return ",".join(sorted([f"{member};q={weight:g}" for member, weight in weights]))
    return ",".join(members)


def secondary_key(names: tuple[str, ...], fields: Fields) -> SecondaryKey:
    """The selecting fields `names` of a request, normalised; None for one that is absent."""
    return tuple((name, _normal(name, fields)) for name in names)


def selects(key: SecondaryKey, fields: Fields, language: str | None = None) -> bool:
    """Whether a request with `fields` selects the response stored under `key` (RFC 9111 4.1).

    language -- the stored response's Content-Language. Where the request likes it better than every other, no
    other response could suit it more, whatever the stored response's own request liked (RFC 9110 12.5.4).
    """
    for name, value in key:
        if _normal(name, fields) != value and not (name == "accept-language" and _likes_best(fields, language)):
            return False
    return True


def _likes_best(fields: Fields, language: str | None) -> bool:
    """Whether Accept-Language gives one language, this one, a greater weight than all others."""
    if not language:
        return False
    weights = parse_weights(fields.get("accept-language") or "")
    liked = sorted(((weight, name) for name, weight in weights), reverse=True)
    if not liked or liked[0][1] != language.lower() or liked[0][0] <= 0:
        return False
    return len(liked) == 1 or liked[1][0] < liked[0][0]
