"""The admin listener: health, metrics, flags, purges, routes. Never on the public port.

Reading is open to whoever reaches the listener. Changing is guarded (see `refusal_of`): by ADMIN_TOKEN where
one is set, otherwise only from this machine, and then not from a web page that a browser on it has open.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import orjson
from aiohttp import hdrs, web
from pydantic import SecretStr

from config.flags import FlagError
from proxy.observe.events import PurgeKind

log = logging.getLogger("siding.admin")

MAX_CONTENT_BYTES = 64 * 1024
READ_SECONDS = 10.0
"""How long a caller may take to send its content."""
MAX_TAG = 256
MAX_URL = 16 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fields = Mapping[str, Sequence[str]]
"""Field values by lower-case name."""


@dataclass(frozen=True, slots=True)
class PurgeOrder:
    """What an operator wants purged.

    value -- target URI, prefix of one, or tag, as the octets that heads hold (latin-1); "" for ALL. A URL or
    prefix that begins with a slash is meant under every scheme and authority.
    soft -- only make stale: it may still be served while it is validated, or if the origin fails.
    """

    kind: PurgeKind
    value: str = ""
    soft: bool = False


class Control(Protocol):
    """What the listener answers with: one worker, or all of them together."""

    async def ready(self) -> tuple[bool, str]:
        """Whether clients are served, and why not."""
        ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition that the Accept field asks for, and its content type."""
        ...

    async def report_cache(self) -> dict[str, object]:
        """The `/api/metrics/report-cache` document."""
        ...

    async def flags(self) -> dict[str, bool]:
        """Every flag."""
        ...

    async def set_flags(self, changes: Mapping[str, object]) -> dict[str, bool]:
        """Flip flags, all or none, and return every flag. Raises FlagError."""
        ...

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        """Purge, and say what was purged."""
        ...

    async def routes(self) -> list[dict[str, object]]:
        """The route rules in force."""
        ...


class Refusal(Exception):
    """An answer other than the one asked for. `fields` are added to it, `more` to its JSON."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        fields: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})
        self.more = dict(more or {})


# -- who may change something


def refusal_of(peer: str | None, fields: Fields, token: str | None) -> Refusal | None:
    """Why a changing call is refused; None when it may go on.

    peer -- the other end of the connection, which cannot be forged as X-Forwarded-For can.
    """
    if token:
        return _without_token(fields, token)
    if not is_loopback(peer):
        return Refusal(
            403,
            "admin-token-not-set",
            "without ADMIN_TOKEN only this machine may change anything; set ADMIN_TOKEN and send it as a bearer token",
        )
    return _from_a_browser(fields)


def _without_token(fields: Fields, token: str) -> Refusal | None:
    """RFC 6750 3: no credentials are told nothing more, wrong ones are told that they are wrong."""
    credentials = fields.get("authorization", ())
    if not credentials:
        return _unauthorized("send ADMIN_TOKEN as a bearer token", 'Bearer realm="siding admin"')
    scheme, _, given = credentials[0].partition(" ")
    known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    if len(credentials) == 1 and scheme.lower() == "bearer" and known:
        return None
    return _unauthorized(
        "the credentials are not ADMIN_TOKEN as a bearer token", 'Bearer realm="siding admin", error="invalid_token"'
    )


def _unauthorized(message: str, challenge: str) -> Refusal:
    return Refusal(401, "unauthorized", message, {"WWW-Authenticate": challenge})


def is_loopback(peer: str | None) -> bool:
    """Whether an address, IPv4-mapped ones included, is this machine's own."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _from_a_browser(fields: Fields) -> Refusal | None:
    """Against web pages that use a browser on this machine: forged requests, and names rebound to 127.0.0.1."""
    hosts, origins = fields.get("host", ()), fields.get("origin", ())
    if len(hosts) != 1 or not is_local_authority(hosts[0]):
        return Refusal(403, "host-not-local", "without ADMIN_TOKEN the Host must be localhost or an IP address")
    if origins and list(origins) != [f"http://{hosts[0]}"]:
        return Refusal(403, "cross-origin", "without ADMIN_TOKEN no other web page may change anything here")
    return None


def is_local_authority(authority: str) -> bool:
    """Whether a Host names `localhost` or an IP address, which no attacker's DNS can answer for."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "0"
    if not (port.isascii() and port.isdecimal()):
        return False
    if host.lower() == "localhost":
        return True
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


# -- what a purge names

_PURGE_HELP = (
    'give exactly one of {"url": "/path or URL"}, {"prefix": "/path or URL"}, {"tag": "name"}, {"all": true}, '
    'and optionally "soft": true or false'
)


def parse_purge(document: object) -> PurgeOrder:
    """The order in a decoded JSON document. Raises Refusal (400) naming every fault."""
    if not isinstance(document, dict):
        raise _bad_purge(["the content is not a JSON object"])
    kinds = [kind for kind in PurgeKind if kind.value in document]
    soft = document.get("soft", False)
    faults = [f"unknown key {key!r}" for key in document if key != "soft" and key not in list(PurgeKind)]
    if not isinstance(soft, bool):
        faults.append('"soft" is neither true nor false')
    if len(kinds) != 1:
        faults.append(f"{len(kinds)} of url, prefix, tag and all are given")
    value = ""
    if len(kinds) == 1:
        value, fault = _purge_value(kinds[0], document[kinds[0].value])
        faults.extend(fault)
    if faults:
        raise _bad_purge(faults)
    return PurgeOrder(kinds[0], value, cast("bool", soft))


def _bad_purge(faults: list[str]) -> Refusal:
    return Refusal(400, "bad-purge", f"{'; '.join(faults)}: {_PURGE_HELP}", more={"faults": faults})


def _purge_value(kind: PurgeKind, given: object) -> tuple[str, list[str]]:
    """The value as the store knows it, and its faults."""
    if kind is PurgeKind.ALL:
        return "", [] if given is True else ['"all" is not true']
    if not isinstance(given, str) or not given:
        return "", [f'"{kind}" is not a text of at least one character']
    value = given.encode().decode("latin-1")
    limit = MAX_TAG if kind is PurgeKind.TAG else MAX_URL
    if len(value) > limit:
        return "", [f'"{kind}" is longer than {limit} bytes']
    if kind is PurgeKind.TAG or value.startswith("/"):
        return value, []
    return _absolute(kind, value)


def _absolute(kind: PurgeKind, value: str) -> tuple[str, list[str]]:
    """A URL as target URIs are written: scheme and authority in lower case, no default port, a path."""
    scheme, separator, rest = value.partition("://")
    scheme = scheme.lower()
    authority, slash, path = rest.partition("/")
    if not separator or scheme not in {"http", "https"} or not authority or "?" in authority or "#" in value:
        return "", [f'"{kind}" is neither a path that begins with / nor an http or https URL']
    authority = authority.lower()
    if not slash and kind is PurgeKind.PREFIX:
        return f"{scheme}://{authority}", []
    authority = authority.removesuffix(":80" if scheme == "http" else ":443")
    return f"{scheme}://{authority}/{path}", []


# -- the application


def admin_app(control: Control, token: SecretStr | None = None) -> web.Application:
    """The admin listener's application. token -- ADMIN_TOKEN; None where it is not set."""
    app = web.Application(client_max_size=MAX_CONTENT_BYTES, middlewares=[_errors_as_json])
    _Endpoints(control, token.get_secret_value() if token is not None else None).add_to(app)
    return app


class _Endpoints:
    def __init__(self, control: Control, token: str | None) -> None:
        self._control = control
        self._token = token

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/metrics/report-cache", self._report_cache)
        app.router.add_get("/api/flags", self._flags)
        app.router.add_patch("/api/flags", self._set_flags)
        app.router.add_post("/api/purge", self._purge)
        app.router.add_get("/api/routes", self._routes)

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        return _json(200, {"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        ready, reason = await self._control.ready()
        return _json(200 if ready else 503, {"ready": ready, "reason": reason})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        content, content_type = await self._control.metrics(accept)
        return web.Response(body=content, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})

    async def _report_cache(self, _: web.Request) -> web.StreamResponse:
        return _json(200, await self._control.report_cache())

    async def _flags(self, _: web.Request) -> web.StreamResponse:
        return _json(200, await self._control.flags())

    async def _set_flags(self, request: web.Request) -> web.StreamResponse:
        changes = await self._change_asked(request)
        if not isinstance(changes, dict) or not changes:
            raise Refusal(400, "bad-flags", 'give flags to change, as in {"ENABLE_ETAG": false}')
        try:
            return _json(200, await self._control.set_flags(changes))
        except FlagError as fault:
            raise Refusal(400, "bad-flags", str(fault), more={"faults": fault.faults}) from fault

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        order = parse_purge(await self._change_asked(request))
        return _json(200, await self._control.purge(order))

    async def _routes(self, _: web.Request) -> web.StreamResponse:
        return _json(200, await self._control.routes())

    async def _change_asked(self, request: web.Request) -> object:
        """The decoded content of a call that changes something. Raises Refusal unless it is allowed."""
        fields = {name.lower(): request.headers.getall(name) for name in request.headers}
        refusal = refusal_of(_peer(request), fields, self._token)
        if refusal is not None:
            raise refusal
        if request.content_type != "application/json":
            # a page of another site cannot send this type without asking first, which nobody here allows
            raise Refusal(415, "not-json", "Content-Type must be application/json", {"Accept": "application/json"})
        try:
            async with asyncio.timeout(READ_SECONDS):
                return orjson.loads(await request.read())
        except TimeoutError:
            raise Refusal(408, "too-slow", f"the content did not arrive within {READ_SECONDS:.0f} s") from None
        except orjson.JSONDecodeError as fault:
            raise Refusal(400, "bad-json", f"the content is not JSON: {fault}") from fault


def _peer(request: web.Request) -> str | None:
    peername = request.get_extra_info("peername")
    return str(peername[0]) if isinstance(peername, tuple) and peername else None


def _json(status: int, document: object, fields: Mapping[str, str] | None = None) -> web.Response:
    headers = {hdrs.CACHE_CONTROL: "no-store", **(fields or {})}
    return web.Response(status=status, body=orjson.dumps(document), headers=headers, content_type="application/json")


def _refused(refusal: Refusal) -> web.Response:
    error = {"code": refusal.code, "message": refusal.message}
    return _json(refusal.status, {"error": error, **refusal.more}, refusal.fields)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _refused(refusal)
    except web.HTTPMethodNotAllowed as fault:
        allowed = ", ".join(sorted(fault.allowed_methods))
        return _refused(Refusal(405, "method-not-allowed", f"allowed here: {allowed}", {"Allow": allowed}))
    except web.HTTPNotFound:
        paths = sorted({resource.canonical for resource in request.app.router.resources()})
        return _refused(Refusal(404, "not-found", "no such path; see `paths`", more={"paths": paths}))
    except web.HTTPRequestEntityTooLarge:
        return _refused(Refusal(413, "too-large", f"the content is larger than {MAX_CONTENT_BYTES} bytes"))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _refused(Refusal(500, "internal-error", "a fault of Siding's own; its log has the details"))
