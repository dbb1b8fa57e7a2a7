"""Serving, once the settings are read: rules, listeners, and one process or several until they are told to stop."""

from __future__ import annotations

import logging
import os
import socket
import sys

from config.descriptors import raise_limit
from config.flags import Flags
from config.listen import ListenError, address_of, open_socket
from config.load import BAD_SETTINGS, misspelt
from config.logs import configure_logging
from config.process import until_stopped
from config.rules import RouteTable
from config.settings import ProxySettings
from config.toml_file import FileError
from config.words import counted
from proxy import app, fleet
from proxy.loop import run
from proxy.origin.client import MAX_CONNECTIONS

log = logging.getLogger("siding")

DESCRIPTORS = 2 * MAX_CONNECTIONS + 100
"""What a process may need: a client for each connection to the origin, and files, Redis and listeners."""
CANNOT_LISTEN = 1


def check_parsers() -> None:
    """aiohttp without its C parser is slow and laxer about framing: say so at once."""
    from aiohttp import http_parser  # noqa: PLC0415 - only to look

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        log.warning("aiohttp runs without its C parser (AIOHTTP_NO_EXTENSIONS, or no wheel for this platform)")


def _open(settings: ProxySettings) -> tuple[socket.socket, socket.socket]:
    shared = settings.workers > 1
    if shared:
        # workers share a port with each other, and with nobody else
        open_socket(settings.host, settings.port, listen=False).close()
    public = open_socket(settings.host, settings.port, share=shared, listen=not shared)
    try:
        return public, open_socket(settings.admin_host, settings.admin_port, "ADMIN_PORT")
    except ListenError:
        public.close()
        raise


def serve(settings: ProxySettings) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen, 2 bad rules."""
    try:
        routes: RouteTable = app.build_routes(settings)
    except FileError as fault:
        print(fault, file=sys.stderr)
        return BAD_SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    check_parsers()
    raise_limit(DESCRIPTORS, f"{MAX_CONNECTIONS:,} connections to the origin, and as many clients")
    try:
        public, admin = _open(settings)
    except ListenError as fault:
        print(fault.strerror, file=sys.stderr)
        return CANNOT_LISTEN
    log.info(
        "in front of %s: http://%s, admin http://%s, %d worker(s)",
        settings.upstream_url,
        address_of(public),
        address_of(admin),
        settings.workers,
    )
    tier = "no shared tier" if settings.redis_url is None else "a shared tier"
    rules, flags = counted(len(routes.rules), "route rule"), Flags(settings)
    log.info("%s, %s, %s", rules, tier, flags.unusual())
    for doubt in (*misspelt(ProxySettings, os.environ), *routes.idle()):
        log.warning("%s", doubt)
    if settings.workers == 1:
        run(app.serve(settings, routes, public, admin, until_stopped))
    else:
        run(fleet.serve(settings, routes, public, admin, until_stopped))
    log.info("stopped")
    return 0
