"""The admin listener: health, metrics, flags, purges, routes. Never on the public port.

Reading is open to whoever reaches the listener. Changing is guarded (see `refusal_of`): by ADMIN_TOKEN where
one is set, otherwise only from this machine, and then not from a web page that a browser on it has open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from aiohttp import hdrs, web
from pydantic import SecretStr

from config.access import Refusal
from config.answers import answer_json, application, change_asked
from config.everywhere import change_of
from proxy.observe.events import PurgeKind
from proxy.observe.live import Numbers
from proxy.policy.cache_key import normal_authority
from proxy.server.live import Live, LiveSettings
from proxy.server.page import answer_page

MAX_TAG = 256
MAX_URL = 16 * 1024


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


UNTOLD = "Redis does not answer: the other replicas purge it once it does, and not if this one ends before"


def purged(order: PurgeOrder, told: Collection[bool] = ()) -> dict[str, object]:
    """The answer. told -- of each worker that shares a tier, whether it has told the other replicas."""
    done: dict[str, object] = {"purged": order.kind, "value": order.value, "soft": order.soft}
    if not told:
        return done
    return done | ({"everywhere": True} if all(told) else {"everywhere": False, "note": UNTOLD})


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

    async def live(self) -> Numbers:
        """What the live page shows of the requests."""
        ...

    async def flags(self) -> dict[str, bool]:
        """Every flag."""
        ...

    async def behind_flags(self) -> dict[str, object]:
        """Why they stand so (`config.everywhere.behind`)."""
        ...

    async def set_flags(self, changes: Mapping[str, object], *, everywhere: bool = False) -> dict[str, object]:
        """Flip flags, all or none, and return every flag; None is what the setting says. Raises FlagError.

        everywhere -- in all replicas; the answer's `everywhere` says whether they have been told.
        """
        ...

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        """Purge, and say what was purged; with a shared tier, `everywhere`: whether all replicas can know of it."""
        ...

    async def routes(self) -> list[dict[str, object]]:
        """The route rules in force."""
        ...


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
    """A URL as target URIs are written. A prefix may end within a host's name; at a port that is written otherwise, or
    not at all, it means all of that host."""
    scheme, separator, rest = value.partition("://")
    scheme = scheme.lower()
    authority, slash, path = rest.partition("/")
    if not separator or scheme not in {"http", "https"} or not authority or "?" in authority or "#" in value:
        return "", [f'"{kind}" is neither a path that begins with / nor an http or https URL']
    written = normal_authority(scheme, authority)
    if not slash and kind is PurgeKind.PREFIX and written == authority.lower():
        return f"{scheme}://{written}", []
    return f"{scheme}://{written}/{path}", []


# -- the application


def admin_app(control: Control, token: SecretStr | None = None, live: LiveSettings | None = None) -> web.Application:
    """The admin listener's application. token -- ADMIN_TOKEN; None where it is not set."""
    app = application()
    _Endpoints(control, token.get_secret_value() if token is not None else None).add_to(app)
    Live(control, live or LiveSettings()).add_to(app)
    app.router.add_get("/", answer_page)
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
        return answer_json(200, {"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        ready, reason = await self._control.ready()
        return answer_json(200 if ready else 503, {"ready": ready, "reason": reason})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        content, content_type = await self._control.metrics(accept)
        return web.Response(body=content, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})

    async def _report_cache(self, _: web.Request) -> web.StreamResponse:
        return answer_json(200, await self._control.report_cache())

    async def _flags(self, _: web.Request) -> web.StreamResponse:
        return answer_json(200, {**await self._control.flags(), **await self._control.behind_flags()})

    async def _set_flags(self, request: web.Request) -> web.StreamResponse:
        changes, everywhere = change_of(await change_asked(request, self._token))
        return answer_json(200, await self._control.set_flags(changes, everywhere=everywhere))

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        order = parse_purge(await change_asked(request, self._token))
        return answer_json(200, await self._control.purge(order))

    async def _routes(self, _: web.Request) -> web.StreamResponse:
        return answer_json(200, await self._control.routes())
