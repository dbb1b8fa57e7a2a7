"""Serving, once the settings are read: files, the listener, and the service until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys

from config.descriptors import raise_limit, say_once_that_none_is_left
from config.flags import Flags
from config.listen import ListenError, address_of, open_socket
from config.load import BAD_SETTINGS, misspelt
from config.logs import configure_logging
from config.process import until_stopped
from config.settings import MonitorSettings
from config.toml_file import FileError
from config.words import counted
from pool_monitor import app
from pool_monitor.grading.batch_files import FolderError
from pool_monitor.grading.models import ModelsError, load_models
from pool_monitor.grading.template_files import TemplatesError, load_templates
from pool_monitor.pool import is_forgotten
from pool_monitor.queries import Query, load_queries

log = logging.getLogger("siding")

FAILED = 1


def serve(settings: MonitorSettings) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen, write temporary files or start threads, 2 a bad
    file."""
    queries: dict[str, Query] = {}
    try:
        if settings.queries_file is not None:
            queries = load_queries(settings.queries_file)
        templates = load_templates(settings.grading_templates)
        models = load_models(settings.grading_models_file)
    except (FileError, TemplatesError, ModelsError) as fault:
        print(fault, file=sys.stderr)
        return BAD_SETTINGS
    try:
        configure_logging(settings.log_level, settings.log_format)
    except RuntimeError as fault:
        print(app.no_threads(fault).strerror, file=sys.stderr)
        return FAILED
    raise_limit(
        settings.db_pool_max + app.DESCRIPTORS, "the connections of the pool, callers, and the grading upstream"
    )
    try:
        sock = open_socket(settings.host, settings.port)
    except ListenError as fault:
        print(fault.strerror, file=sys.stderr)
        return FAILED
    # a line for each call to the grading upstream would be too much
    logging.getLogger("httpx2").setLevel(max(logging.WARNING, logging.getLogger().level))
    log.info("pool monitor: http://%s, %d named queries", address_of(sock), len(queries))
    tier = "no shared tier" if settings.redis_url is None else "a shared tier"
    log.info("%s, %s, %s", counted(len(templates), "grading template"), tier, Flags(settings).unusual())
    for doubt in misspelt(MonitorSettings, os.environ):
        log.warning("%s", doubt)
    # what is loaded by now stays: to look through it for cycles takes a sixth of a second, in which nobody is served
    gc.freeze()
    try:
        with sock, asyncio.Runner() as runner:
            say_once_that_none_is_left(runner.get_loop(), is_forgotten)
            runner.run(app.serve(settings, queries, sock, until_stopped, templates, models))
    except (FolderError, app.ThreadsError) as fault:
        print(fault.strerror, file=sys.stderr)
        return FAILED
    log.info("stopped")
    return 0
