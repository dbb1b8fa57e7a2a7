"""Lines of the access log, and that writing them never holds anyone up."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.logs import configure_logging
from proxy.observe import access_log
from proxy.observe.access_log import AccessLog
from proxy.observe.events import Brief, BriefKind, Observation
from proxy.observe.log_lines import as_json, as_text, briefs_as_json, briefs_as_text, level_of
from proxy.policy.decisions import Forward, Outcome, Reuse, Verdict
from tests.support import holds

MOMENT = 1759665600.25
"""2025-10-05T12:00:00.250Z"""


def seen(outcome: Outcome = Outcome.HIT, path: str = "/reports/7", status: int = 200) -> Observation:
    return Observation(
        method="GET",
        path=path,
        route="/reports/{id}",
        status=status,
        outcome=outcome,
        started=MOMENT,
        duration=0.00041234567,
        response_bytes=2000,
        request_id="abc-123",
        traceparent="00-1-2-00",
        client="192.0.2.7",
    )


# -- the lines


def test_a_json_line() -> None:
    line = as_json(seen())
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "time": "2025-10-05T12:00:00.250Z",
        "level": "info",
        "type": "access",
        "client": "192.0.2.7",
        "method": "GET",
        "path": "/reports/7",
        "route": "/reports/{id}",
        "status": 200,
        "outcome": "hit",
        "duration_seconds": 0.000412,
        "request_bytes": 0,
        "response_bytes": 2000,
        "request_id": "abc-123",
        "traceparent": "00-1-2-00",
    }


def test_a_json_line_says_more_where_there_is_more() -> None:
    told = seen(Outcome.MISS)
    told.forward, told.reuse, told.verdict = Forward.STALE, Reuse.VALIDATE, Verdict.STORE
    told.collapsed = told.stored = True
    told.coding, told.error, told.detail = "br", "origin-timeout", "failed-open"
    told.origin_status, told.origin_seconds, told.origin_total = 200, 1.5, 1.75
    told.first_byte, told.origin_seconds_saved = 1.25, 0.5
    told.bytes_saved_304, told.bytes_saved_coding = 10, 20
    line = json.loads(as_json(told))
    expected = {
        "forward": "stale",
        "reuse": "validate",
        "verdict": "store",
        "collapsed": True,
        "stored": True,
        "coding": "br",
        "error": "origin-timeout",
        "detail": "failed-open",
        "origin_status": 200,
        "origin_seconds": 1.5,
        "origin_total_seconds": 1.75,
        "first_byte_seconds": 1.25,
        "origin_seconds_saved": 0.5,
        "bytes_saved_not_modified": 10,
        "bytes_saved_coding": 20,
    }
    assert expected.items() <= line.items()


def test_a_text_line() -> None:
    assert as_text(seen()) == (b"2025-10-05T12:00:00.250Z 192.0.2.7 GET /reports/7 200 hit 0.4ms 2000B id=abc-123\n")


def test_a_text_line_says_more_where_there_is_more() -> None:
    told = seen(Outcome.COLLAPSED)
    told.forward, told.origin_seconds, told.collapsed = Forward.URI_MISS, 1.5, True
    told.coding, told.error, told.detail, told.client = "br", "origin-timeout", 'said "no"', ""
    assert as_text(told) == (
        b"2025-10-05T12:00:00.250Z - GET /reports/7 200 collapsed 0.4ms 2000B fwd=uri-miss origin=1500.0ms collapsed"
        b" coding=br error=origin-timeout detail=said\\x20\\x22no\\x22 id=abc-123\n"
    )


@pytest.mark.parametrize("form", [as_json, as_text])
@pytest.mark.parametrize("path", ["/a?token=secret", "/a#secret", "/a?x#secret", "?secret"])
def test_a_query_is_never_told(form: access_log.Form, path: str) -> None:
    assert b"secret" not in form(seen(path=path))


@pytest.mark.parametrize("form", [as_json, as_text])
def test_what_a_client_chose_is_cut(form: access_log.Form) -> None:
    told = seen(path="/" + "a" * 50_000)
    told.request_id = told.traceparent = told.client = "b" * 50_000
    assert len(form(told)) < 2500


@pytest.mark.parametrize("form", [as_json, as_text])
@given(text=st.text())
def test_no_text_forges_a_line_or_moves_a_cursor(form: access_log.Form, text: str) -> None:
    told = seen(path=text)
    told.method = told.request_id = told.traceparent = text
    line = form(told)
    assert line.endswith(b"\n")
    shown = line[:-1].decode()
    assert not [character for character in shown if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0]


@given(text=st.text(st.characters(codec="latin-1")))
def test_words_of_a_text_line_stay_apart(text: str) -> None:
    told = seen(path=text)
    told.request_id = text
    assert len(as_text(told).decode().split(" ")) == 9


def test_text_that_is_no_unicode_is_told_escaped() -> None:
    line = as_json(seen(path="/\ud800"))
    assert json.loads(line)["path"] == "/\ud800"
    assert b"\\ud800" in line


@pytest.mark.parametrize(
    ("outcome", "status", "level"),
    [
        (Outcome.HIT, 200, logging.INFO),
        (Outcome.REFUSED, 400, logging.INFO),
        (Outcome.CLIENT_GONE, 0, logging.INFO),
        (Outcome.PASS, 500, logging.WARNING),
        (Outcome.STALE_IF_ERROR, 200, logging.WARNING),
        (Outcome.ORIGIN_ERROR, 502, logging.WARNING),
        (Outcome.INTERNAL_ERROR, 500, logging.ERROR),
    ],
)
def test_failures_are_louder(outcome: Outcome, status: int, level: int) -> None:
    assert level_of(seen(outcome, status=status)) == level


# -- writing them


class Pipe:
    """A pipe whose reading end is left alone until asked for."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def close(self, end: int) -> None:
        if end in self._open:
            self._open.remove(end)
            os.close(end)

    def rest(self) -> list[bytes]:
        """Everything written, line by line, once the writing end is closed."""
        self.close(self.writer)
        with os.fdopen(os.dup(self.reader), "rb") as file:
            return file.read().splitlines()

    def fill(self) -> None:
        """Leave no room."""
        os.set_blocking(self.writer, False)
        for size in (65536, 1):
            try:
                while True:
                    os.write(self.writer, b"." * size)
            except BlockingIOError:
                continue


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close(pipe.reader)
    pipe.close(pipe.writer)


def ends(log: AccessLog) -> bool:
    log.close()
    return not log._writer.is_alive()


def test_everything_is_written_by_the_time_it_is_closed(pipe: Pipe) -> None:
    log = AccessLog("info", "text", pipe.writer)
    for number in range(200):
        log.observe(seen(path=f"/{number}"))
    assert ends(log)
    assert [line.split()[3] for line in pipe.rest()] == [b"/%d" % number for number in range(200)]
    assert log.dropped == 0


def test_lines_come_without_closing(pipe: Pipe) -> None:
    log = AccessLog("info", "json", pipe.writer)
    for number in range(3):
        log.observe(seen(path=f"/{number}"))
        assert json.loads(os.read(pipe.reader, 10_000))["path"] == f"/{number}"
    assert ends(log)


def test_what_came_during_the_last_write_is_written_too(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()
    real = os.write

    def write(fd: int, data: bytes) -> int:
        writing.set()
        assert go_on.wait(10)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    log = AccessLog("info", "text", pipe.writer)
    log.observe(seen(path="/first"))
    assert writing.wait(10)
    log.observe(seen(path="/second"))
    closer = threading.Thread(target=log.close)
    closer.start()
    assert log._closing.wait(10)
    go_on.set()
    closer.join(10)
    assert [line.split()[3] for line in pipe.rest()] == [b"/first", b"/second"]


def test_closing_an_unused_log_ends_it_twice_over(pipe: Pipe) -> None:
    log = AccessLog("INFO", "json", pipe.writer)
    assert ends(log)
    assert ends(log)
    assert pipe.rest() == []


def test_lines_below_the_level_are_not_written(pipe: Pipe) -> None:
    log = AccessLog("warning", "text", pipe.writer)
    log.observe(seen(Outcome.HIT))
    log.observe(seen(Outcome.ORIGIN_ERROR))
    assert ends(log)
    assert [line.split()[5] for line in pipe.rest()] == [b"origin-error"]
    assert log.dropped == 0


def test_a_full_queue_drops_and_counts(pipe: Pipe) -> None:
    pipe.fill()
    log = AccessLog("info", "text", pipe.writer, capacity=10)
    for _ in range(100):
        log.observe(seen(path="/" + "a" * 1000))
    assert log._queued - log._taken <= 10
    assert log.dropped >= 80
    assert ends(log)
    assert log.dropped == 100


def test_a_stuck_output_does_not_hold_up_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.fill()
    os.set_blocking(pipe.writer, True)
    monkeypatch.setattr(access_log, "CLOSE_SECONDS", 0.01)
    log = AccessLog("info", "text", pipe.writer)
    log.observe(seen())
    log.close()
    assert log._writer.is_alive()
    pipe.close(pipe.reader)
    log._writer.join(10)
    assert not log._writer.is_alive()


def test_a_full_pipe_that_does_not_block_is_tried_again(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    real = os.write

    def write(fd: int, data: bytes) -> int:
        try:
            return real(fd, data)
        except BlockingIOError:
            waiting.set()
            raise

    pipe.fill()
    monkeypatch.setattr(os, "write", write)
    log = AccessLog("info", "text", pipe.writer)
    log.observe(seen(path="/patient"))
    assert waiting.wait(10)
    received = b""
    while b"/patient" not in received:
        received = received[-20:] + os.read(pipe.reader, 65536)
    assert ends(log)
    assert log.dropped == 0


def test_a_broken_output_is_complained_of_once(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    pipe.close(pipe.reader)
    log = AccessLog("info", "json", pipe.writer)
    long = "/" + "a" * 1000
    for _ in range(10):
        log.observe(seen(path=long))
    assert ends(log)
    assert log.dropped == 10
    assert len([record for record in caplog.records if record.name == "siding.access_log"]) == 1


async def test_a_full_disk_spoils_only_what_it_has_no_room_for(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is told of anew when there was room for long."""
    line = as_text(seen())
    real, room = os.write, len(line) * 3 // 2

    def write(fd: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    log = AccessLog("info", "text", pipe.writer)
    log.observe(seen())
    for number, complaints in ((1, 1), (2, 1), (3, 2)):
        if number == 3:
            monkeypatch.setattr(access_log, "SILENT_SECONDS", 0.0)
        log.observe(seen())
        await holds(lambda number=number: log.dropped == number)  # type: ignore[misc]
        assert len(caplog.messages) == complaints
        room = 1 + len(line) * 3 // 2
        log.observe(seen())
    room = 1_000_000
    assert ends(log)
    monkeypatch.undo()
    whole, half = line.rstrip(b"\n"), line[: len(line) // 2]
    assert pipe.rest() == [whole, half, whole, half, whole, half, whole]
    assert log.dropped == 3


def test_what_comes_after_the_end_is_dropped(pipe: Pipe) -> None:
    log = AccessLog("info", "json", pipe.writer)
    log.close()
    log.observe(seen())
    assert log.dropped == 1


def test_writes_are_whole_lines_small_enough_to_stay_in_one_piece(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def write(fd: int, data: memoryview) -> int:
        pieces.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    log = AccessLog("info", "json", pipe.writer)
    for number in range(100):
        log.observe(seen(path=f"/{number}/" + "a" * (number * 7)))
    assert ends(log)
    assert all(piece.endswith(b"\n") and len(piece) <= 4096 for piece in pieces)
    assert len(b"".join(pieces).splitlines()) == 100
    assert len(pieces) < 50


def test_a_partial_write_is_completed(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    log = AccessLog("info", "text", pipe.writer)
    log.observe(seen())
    assert ends(log)
    monkeypatch.undo()
    assert pipe.rest() == [as_text(seen()).rstrip(b"\n")]


# -- the application's log


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Gives what went to standard error; the root logger is put back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def written() -> str:
        for handler in root.handlers:
            if handler not in before:
                # what a thread has to write is written then
                handler.close()
        return capsys.readouterr().err

    yield written
    root.handlers[:] = before
    root.setLevel(level)


def test_the_application_logs_json(stderr: Callable[[], str]) -> None:
    configure_logging("info", "json")
    logging.getLogger("siding.test").warning("the origin is %s", "away\nand gone")
    line = json.loads(stderr())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "type": "log",
        "logger": "siding.test",
        "message": "the origin is away\nand gone",
    }


def test_a_traceback_stays_on_the_json_line(stderr: Callable[[], str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("siding.test").exception("failed")
    (line,) = stderr().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_the_application_logs_text(stderr: Callable[[], str]) -> None:
    configure_logging("debug", "text")
    logging.getLogger("siding.test").debug("hello")
    line = stderr()
    assert line.endswith("Z DEBUG siding.test: hello\n")


def test_the_level_holds_and_configuring_again_replaces(stderr: Callable[[], str]) -> None:
    configure_logging("debug", "text")
    configure_logging("ERROR", "json")
    logging.getLogger("siding.test").warning("unheard")
    logging.getLogger("siding.test").error("heard")
    (line,) = stderr().splitlines()
    assert json.loads(line)["message"] == "heard"


# -- hits, told in batches

TARGETS = st.from_regex(r"/[!$-;=?-\[\]_a-z|~]{0,40}", fullmatch=True)
IDENTIFIERS = st.text(st.characters(max_codepoint=255), max_size=20) | st.sampled_from(
    ["", "a" * 5000, '"\\', "\u0661"]
)


@given(TARGETS, IDENTIFIERS, IDENTIFIERS, st.sampled_from([200, 304]), st.sampled_from([None, "gzip"]))
def test_a_hit_is_told_as_any_request_is(
    target: str, identifier: str, trace: str, status: int, coding: str | None
) -> None:
    """Whatever a client chose, the line is one JSON object, and says of the hit what `as_json` says of the same."""
    kind = BriefKind('/reports/{"id"}', "GET", status, coding)
    sent = 0 if status == 304 else 100
    hit = Brief(kind, target.partition("?")[0], "192.0.2.7", identifier, trace, 3, sent, 400, 0.5, MOMENT, 0.25)
    same = Observation(
        method="GET",
        path=target,
        route=kind.route,
        status=status,
        outcome=Outcome.HIT,
        reuse=Reuse.FRESH,
        coding=coding,
        started=MOMENT,
        duration=0.25,
        first_byte=0.25,
        origin_seconds_saved=0.5,
        request_bytes=3,
        response_bytes=sent,
        bytes_saved_304=400 if status == 304 else 0,
        bytes_saved_coding=300 if coding is not None and status == 200 else 0,
        request_id=identifier,
        traceparent=trace,
        client="192.0.2.7",
    )
    lines = briefs_as_json([hit, hit])
    assert lines.isascii()
    assert lines.count(b"\n") == 2
    wanted = json.loads(as_json(same))
    told = {name: wanted[name] for name in wanted if wanted[name] or name not in {"request_id", "traceparent"}}
    assert [json.loads(line) for line in lines.splitlines()] == [told, told]
    assert briefs_as_text([hit]).count(b"\n") == 1
    assert not any(octet < 0x20 or octet == 0x7F for octet in briefs_as_text([hit])[:-1])


@pytest.mark.parametrize("coding", [None, "br"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.BYPASS])
def test_a_pass_is_told_as_any_request_is(outcome: Outcome, status: int, coding: str | None) -> None:
    kind = BriefKind("other", "POST", status, coding, outcome, Forward.METHOD, Verdict.METHOD)
    whole = 400 if status == 200 else 0
    sent = 100 if coding is not None and whole else whole
    brief = Brief(kind, "/a", "192.0.2.7", "i", "t", 3, sent, whole, 0.5, MOMENT, 0.25)
    same = Observation(
        method="POST",
        path="/a",
        status=status,
        outcome=outcome,
        forward=Forward.METHOD,
        verdict=Verdict.METHOD,
        coding=coding,
        started=MOMENT,
        duration=0.25,
        first_byte=0.25,
        origin_seconds=0.5,
        origin_total=0.5,
        origin_status=status,
        request_bytes=3,
        response_bytes=sent,
        bytes_saved_coding=whole - sent,
        request_id="i",
        traceparent="t",
        client="192.0.2.7",
    )
    assert json.loads(briefs_as_json([brief])) == json.loads(as_json(same))
    assert briefs_as_text([brief]) == as_text(same)
