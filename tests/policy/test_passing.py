"""Plain responses, and what became of their like."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from proxy.policy import encoding, passing
from proxy.policy.decisions import Verdict
from proxy.policy.encoding import MIN_LENGTH
from proxy.policy.lines import MAX_KNOWN, MAX_KNOWN_BYTES
from proxy.policy.messages import Fields, ResponseHead
from proxy.policy.passing import MAX_LEARNT, Passed, Replies, Reply, unchunked
from proxy.policy.plain import MAX_LINES, Lexicon, parse
from proxy.policy.prepared import wire_head

DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT"
LENGTH = "Content-Length: 5"
TARGETS = ("cdn-cache-control",)
ADDED = (("Via", "1.1 siding"), ("Cache-Status", "siding; fwd=method; fwd-status=200"))
QUESTION = "POST\n\nPOST"


def read(
    *lines: str, start: str = "HTTP/1.1 200 OK", replies: Replies | None = None, bare: bool = False
) -> Reply | None:
    known = () if bare else (DATE, LENGTH)
    return (replies or Replies(TARGETS)).read("\r\n".join([start, *known, *lines, "", "hello"]).encode("latin-1"))


def taken(*lines: str, start: str = "HTTP/1.1 200 OK", replies: Replies | None = None, bare: bool = False) -> Reply:
    found = read(*lines, start=start, replies=replies, bare=bare)
    assert found is not None
    return found


def sent_of(reply: Reply, *added: tuple[str, str]) -> ResponseHead:
    """What the policy makes of it: the lines that go on, and others behind them."""
    lines = [tuple(wire.decode("latin-1")[:-2].split(": ", 1)) for wire in reply.kept[1:]]
    return ResponseHead(reply.status.status, reply.status.reason, Fields([*lines, *added]))  # type: ignore[list-item]


def known(replies: Replies, reply: Reply, question: str = QUESTION, length: int = 5) -> Passed | None:
    """What was made of its like, be its content as long as it says or so long."""
    return replies.known(question, reply, length if reply.length < 0 else reply.length)


# -- reading


def test_a_plain_response() -> None:
    found = taken("x-odd:\t\xe9 ", "Connection: keep-alive", "Keep-Alive: timeout=5, max=9", "Set-Cookie: a=b")
    assert (found.status.status, found.status.reason, found.length) == (200, "OK", 5)
    assert b"".join(found.kept) == f"HTTP/1.1 200 OK\r\n{DATE}\r\nx-odd: \xe9\r\nSet-Cookie: a=b\r\n".encode("latin-1")
    assert found.mark == b"HTTP/1.1 200 OK\nset-cookie"


@pytest.mark.parametrize(
    "start",
    [
        "HTTP/1.0 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 101 Switching",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 205 Reset",
        "HTTP/1.1 206 Part",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 600 What",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200 \x00",
        "HTTP/1.1 200 OK\n",
        "ICY 200 OK",
    ],
)
def test_other_status_lines(start: str) -> None:
    assert read(start=start) is None


@pytest.mark.parametrize("start", ["HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified"])
def test_what_goes_without_content(start: str) -> None:
    reply = taken(DATE, "X-Own: a", start=start, bare=True)
    assert (reply.length, reply.size) == (0, len(f"{start}\r\n{DATE}\r\nX-Own: a\r\n\r\n"))
    head = learnt(reply, *ADDED)
    assert head == reply.wire + "".join(f"{name}: {value}\r\n" for name, value in ADDED).encode()


@pytest.mark.parametrize(
    "line",
    [
        "Connection: close",
        "Connection: X-Own",
        "Connection: keep-alive, X-Own",
        "Keep-Alive: timeout=4",
        "Keep-Alive: max=5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Trailer: x",
        "Upgrade: x",
        "Via: 1.1 other",
        "Cache-Status: other",
        "Location: /",
        "Content-Location: /",
        "Cache-Groups: x",
        "Cache-Group-Invalidation: x",
        LENGTH,
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 1" + "0" * 15,
        "X : 1",
        "X",
        " folded",
        "X: \x00",
    ],
)
def test_other_fields(line: str) -> None:
    replies = Replies(TARGETS)
    for _ in range(2):
        assert read(line, replies=replies) is None


@pytest.mark.parametrize(
    "lines",
    [
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding:",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", LENGTH),
        (LENGTH, "Transfer-Encoding: chunked"),
        (LENGTH, LENGTH),
    ],
)
def test_framing_is_said_once_and_plainly(lines: tuple[str, ...]) -> None:
    assert read(DATE, *lines, bare=True) is None
    assert read(DATE, "Transfer-Encoding: chunked", start="HTTP/1.1 204 No Content", bare=True) is None


def test_what_is_not_dated_or_not_measured_or_too_long() -> None:
    assert read(DATE, bare=True) is None
    assert read(LENGTH, bare=True) is None
    assert read(*["X: 1"] * MAX_LINES) is None
    assert Replies(TARGETS).read(b"HTTP/1.1 200 OK\r\n") is None


def test_what_is_remembered_is_bounded() -> None:
    replies = Replies(TARGETS)
    for number in range(MAX_KNOWN + 10):
        taken(f"X: {number}", start=f"HTTP/1.1 200 {number}", replies=replies)
    taken("Y: " + "a" * MAX_KNOWN_BYTES, start=f"HTTP/1.1 200 {'a' * MAX_KNOWN_BYTES}", replies=replies)
    taken("Set-Cookie: secret", replies=replies)
    assert len(replies._known) <= MAX_KNOWN
    assert len(replies._statuses) <= MAX_KNOWN
    assert not any(len(raw) > MAX_KNOWN_BYTES for raw in (*replies._known, *replies._statuses))
    assert not any(b"secret" in raw for raw in replies._known)


# -- learning


def learnt(
    reply: Reply,
    *added: tuple[str, str],
    verdict: Verdict | None = None,
    question: str = QUESTION,
    replies: Replies | None = None,
) -> bytes | None:
    """What the head of the next answer to the same is, if it is known."""
    replies = replies or Replies(TARGETS)
    replies.learn(question, reply, max(reply.length, 0), sent_of(reply, *added), verdict)
    passed = known(replies, reply, question)
    return reply.answer(passed, '"made"', reply.length) if passed is not None else None


def test_what_was_made_of_it_is_made_of_its_like() -> None:
    reply = taken("X-Odd: a")
    added = "".join(f"{name}: {value}\r\n" for name, value in ADDED)
    assert learnt(reply, *ADDED) == f"HTTP/1.1 200 OK\r\n{DATE}\r\nX-Odd: a\r\n{added}Content-Length: 5\r\n".encode()


def test_one_reply_is_answered_as_each_question_has_it() -> None:
    reply, replies = taken("X-Odd: a"), Replies(TARGETS)
    for number in (1, 1, 2, 1):
        head = learnt(reply, ("X-Made", str(number)), question=f"GET\n\n{number}", replies=replies)
        assert head == reply.wire + f"X-Made: {number}\r\nContent-Length: 5\r\n".encode()
        passed = known(replies, reply, f"GET\n\n{number}")
        assert passed is not None
        assert reply.answer(passed, None, reply.length) == head


def test_a_validator_is_made_anew() -> None:
    reply, question = taken(), "GET\n\n"
    head = learnt(reply, ADDED[0], ("ETag", '"then"'), ADDED[1], question=question)
    assert head is not None
    assert b'Via: 1.1 siding\r\nETag: "made"\r\nCache-Status' in head
    for name in ("If-None-Match", "IF-NONE-MATCH", "if-modified-since"):
        assert learnt(reply, ("ETag", '"then"'), question=f"GET\n\nAccept-Encoding:x\n{name}:x\n") is None


def test_what_the_policy_changed_for_another_reason_is_not_learnt() -> None:
    reply, replies = taken("X-Own: a"), Replies(TARGETS)
    for changed in (
        ResponseHead(200, "OK", sent_of(reply).fields.replacing("X-Own", "b")),
        ResponseHead(200, "OK", sent_of(reply).fields.without({"x-own"})),
        ResponseHead(200, "OK", sent_of(reply).fields.without({"date"})),
        ResponseHead(201, "OK", sent_of(reply).fields),
        ResponseHead(200, "Ok", sent_of(reply).fields),
    ):
        replies.learn(QUESTION, reply, reply.length, changed, None)
        assert known(replies, reply) is None


def test_a_line_that_came_twice_and_became_two_is_not_learnt() -> None:
    reply, replies = taken("Vary: Origin", "Vary: Origin"), Replies(TARGETS)
    lines = [*sent_of(reply).fields.lines[:-1], ("Vary", "Origin, Accept-Encoding")]
    replies.learn(QUESTION, reply, reply.length, ResponseHead(200, "OK", Fields(lines)), None)
    assert known(replies, reply) is None


def coded(head: ResponseHead) -> ResponseHead:
    """As the policy has it, where it makes a validator, codes, and says so."""
    lines = [] if "etag" in head.fields else [("ETag", '"made"')]
    found = encoding.coded(ResponseHead(head.status, head.reason, head.fields.adding(*lines)), "gzip")
    return ResponseHead(found.status, found.reason, found.fields.adding(*ADDED))


ORIGINS = st.lists(
    st.sampled_from(
        [
            *("X-Own: %d", "X-Other: %d", "Set-Cookie: a=%d", 'ETag: "%d"', 'etag: W/"%d"', "ETag: %d"),
            *("Vary: Origin", "vary: Accept", "Vary: Origin, Accept-Encoding", "Vary: *", "VARY: Origin"),
            *("Accept-Ranges: bytes", "accept-ranges: none", "Content-Type: text/html", "Cache-Control: private"),
        ]
    ),
    max_size=8,
)


@given(ORIGINS)
@example(["Accept-Ranges: bytes", "X-Own: %d", "Vary: Origin", 'ETag: "%d"', "vary: Accept"])
def test_what_is_made_of_the_next_is_what_the_policy_would(lines: list[str]) -> None:
    replies = Replies(TARGETS)
    one, other = (taken(*[line.replace("%d", str(number)) for line in lines], replies=replies) for number in (1, 2))
    assert one.mark == other.mark
    replies.learn(QUESTION, one, one.length, coded(sent_of(one)), None, "gzip")
    passed = known(replies, other)
    event("known" if passed is not None else "not known")
    if passed is not None:
        expected = coded(sent_of(other))
        assert other.answer(passed, '"made"', 77) == wire_head(expected, 77)
        assert passed.coding == "gzip"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Vary: Origin"],
        ["Vary: Origin", "X-Own: %d", "Vary: Accept"],
        ["X-Own: %d", "Accept-Ranges: bytes", "Set-Cookie: %d"],
        ['ETag: "%d"', "Vary: Accept-Encoding"],
        ['ETag: W/"%d"'],
        ["ETag: %d"],
    ],
)
def test_what_is_usual_is_learnt(lines: list[str]) -> None:
    replies = Replies(TARGETS)
    one = taken(*[line.replace("%d", "1") for line in lines], replies=replies)
    replies.learn(QUESTION, one, one.length, coded(sent_of(one)), None, "gzip")
    assert known(replies, one) is not None


@pytest.mark.parametrize(
    ("verdict", "lines", "kept"),
    [
        (None, (), True),
        (Verdict.METHOD, (), True),
        (Verdict.PRIVATE, ("Cache-Control: private",), True),
        (Verdict.CREDENTIAL, ("Cache-Control: max-age=0", "Last-Modified: x", "ETag: no"), True),
        (Verdict.NO_FRESHNESS, (), True),
        (Verdict.NO_FRESHNESS, ("cache-control: max-age=0",), False),
        (Verdict.NO_FRESHNESS, ("CDN-Cache-Control: max-age=0",), False),
        (Verdict.NO_FRESHNESS, ("Expires: 0",), False),
        (Verdict.NO_FRESHNESS, ("Last-Modified: x",), False),
        (Verdict.NO_FRESHNESS, ("ETag: no",), False),
        (Verdict.STORE, (), False),
        (Verdict.STATUS, (), True),
        (Verdict.TOO_LARGE, (), False),
        (Verdict.INVALIDATED, (), False),
    ],
)
def test_verdicts_that_time_changes_are_not_learnt(verdict: Verdict | None, lines: tuple[str, ...], kept: bool) -> None:
    assert (learnt(taken(*lines), *ADDED, verdict=verdict) is not None) is kept


@pytest.mark.parametrize("name", sorted(name.decode() for name in passing._JUDGED_NAMES))
def test_what_is_judged_tells_replies_apart(name: str) -> None:
    replies = Replies(TARGETS)
    one, other, without = (taken(*lines, replies=replies) for lines in ((f"{name}: 1",), (f"{name}: 2",), ()))
    assert learnt(one, replies=replies) is not None
    assert known(replies, other) is None
    assert known(replies, without) is None


@pytest.mark.parametrize("line", ['ETag: "%d"', 'ETag: W/"%d"', "ETag: %d", "Set-Cookie: %d"])
def test_what_is_judged_by_its_presence(line: str) -> None:
    replies = Replies(TARGETS)
    one, other = (taken(line.replace("%d", digit), replies=replies) for digit in "12")
    assert learnt(one, replies=replies) is not None
    assert known(replies, other) is not None
    assert known(replies, taken(replies=replies)) is None


def test_length_and_status_and_question_tell_apart() -> None:
    replies = Replies(TARGETS)
    reply = taken(replies=replies)
    learnt(reply, replies=replies)
    assert known(replies, reply, QUESTION + "x") is None
    assert known(replies, taken(start="HTTP/1.1 200 Ok", replies=replies)) is None
    assert known(replies, taken(DATE, f"Content-Length: {MIN_LENGTH}", bare=True, replies=replies)) is None
    assert known(replies, taken(DATE, f"Content-Length: {MIN_LENGTH - 1}", bare=True, replies=replies)) is not None
    replies.forget()
    assert known(replies, reply) is None


def test_what_is_learnt_is_bounded() -> None:
    replies = Replies(TARGETS)
    reply = taken(replies=replies)
    for number in range(MAX_LEARNT + 10):
        learnt(reply, question=f"{QUESTION}{number}", replies=replies)
    assert len(replies._learnt) <= MAX_LEARNT
    assert learnt(reply, question="a" * passing.MAX_LEARNT_BYTES, replies=replies) is None


def test_the_question() -> None:
    wire = b"PUT /a HTTP/1.1\r\nHost: a\r\nX-Api-Key: secret\r\nAccept-Encoding: br\r\nCOOKIE: secret\r\n\r\n"
    request = parse(wire, Lexicon())
    assert request is not None
    assert request.question() == "PUT\nx-api-key,cookie,\nPUTAccept-Encoding:br\n"
    plain = parse(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", Lexicon())
    assert plain is not None
    assert plain.question() == "GET\n\n"


def test_a_head_seen_before_is_known_at_once_unless_it_is_long_or_sets_a_cookie() -> None:
    replies = Replies(TARGETS)
    begin = b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 20:00:00 GMT\r\nContent-Length: 1\r\n"
    kept = replies.read(begin + b"\r\nx")
    assert kept is not None
    assert replies.read(begin + b"\r\ny") is kept
    for more in (b"Set-Cookie: a=b\r\n", b"X: " + b"x" * passing.MAX_REPLY_BYTES + b"\r\n"):
        first, second = replies.read(begin + more + b"\r\nx"), replies.read(begin + more + b"\r\nx")
        assert first is not None
        assert second is not None
        assert (first.wire, first.mark, first.length) == (second.wire, second.mark, second.length)
        assert first is not second
    for number in range(passing.MAX_REPLIES + 10):
        replies.read(begin + f"X: {number}\r\n\r\nx".encode())
    assert len(replies._replies) <= passing.MAX_REPLIES


def test_of_two_heads_in_turn_each_is_known() -> None:
    replies = Replies(TARGETS)
    wires = [
        b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 20:00:0%d GMT\r\nContent-Length: 1\r\n\r\nx" % second
        for second in range(2)
    ]
    first = [replies.read(wire) for wire in wires]
    assert first[0] is not first[1]
    assert [replies.read(wire) for wire in wires] == first
    # one that begins as the last does, and goes on, is another
    longer = replies.read(wires[1].replace(b"\r\n\r\n", b"\r\nX-More: y\r\n\r\n"))
    assert longer is not None
    assert b"X-More: y\r\n" in longer.wire


# -- chunks


def test_what_came_in_chunks_goes_on_as_the_policy_had_it() -> None:
    replies = Replies(TARGETS)
    reply = taken(DATE, "transfer-encoding: Chunked", bare=True, replies=replies)
    assert reply.length < 0
    assert reply.mark != taken(replies=replies).mark
    replies.learn(QUESTION, reply, 5, sent_of(reply, *ADDED), None, in_chunks=True)
    replies.learn(QUESTION, reply, MIN_LENGTH, coded(sent_of(reply)), None, "gzip")
    short, long = known(replies, reply), known(replies, reply, length=MIN_LENGTH)
    assert short is not None
    assert long is not None
    added = "".join(f"{name}: {value}\r\n" for name, value in ADDED).encode()
    for _ in range(2):
        assert reply.answer(short, None, 7) == reply.wire + added + b"Transfer-Encoding: chunked\r\n"
        assert reply.answer(long, '"made"', 77) == wire_head(coded(sent_of(reply)), 77)
    replies.learn(QUESTION, reply, 5, sent_of(reply, *ADDED), None)
    whole = known(replies, reply)
    assert whole is not None
    assert reply.answer(whole, None, 0) == reply.wire + added + b"Content-Length: 0\r\n"


def test_what_came_in_pieces_is_remembered_until_it_comes_whole() -> None:
    replies = Replies(TARGETS)
    reply, other = (taken(DATE, "Transfer-Encoding: chunked", *more, bare=True) for more in ((), ("Vary: a",)))
    replies.came(QUESTION, reply, whole=True)
    assert not replies.is_stream(QUESTION, reply)
    spans = []
    for together in range(10):
        for _ in range(together + 1):
            replies.came(QUESTION, reply, whole=False)
        assert not replies.is_stream(QUESTION, other)
        assert not replies.is_stream(QUESTION + "x", reply)
        replies.came(QUESTION, other, whole=True)
        spans.append(next(number for number in range(10_000) if not replies.is_stream(QUESTION, reply)))
    assert spans == [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
    assert not replies.is_stream(QUESTION, reply)
    replies.came(QUESTION, reply, whole=False)
    assert replies.is_stream(QUESTION, reply)
    replies.came(QUESTION, reply, whole=True)
    assert not replies.is_stream(QUESTION, reply)
    for number in range(MAX_LEARNT + 10):
        replies.came(f"{QUESTION}{number}", reply, whole=False)
    replies.came("a" * passing.MAX_LEARNT_BYTES, reply, whole=False)
    assert len(replies._streams) <= MAX_LEARNT
    assert not replies.is_stream("a" * passing.MAX_LEARNT_BYTES, reply)


def in_chunks(pieces: list[bytes], form: str = "%x") -> bytes:
    return b"".join([f"{form}\r\n".encode() % len(piece) + piece + b"\r\n" for piece in pieces]) + b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40)), st.binary(max_size=5), st.sampled_from(["%x", "%X", "%08x"]))
def test_chunks_are_read_if_they_are_whole(pieces: list[bytes], before: bytes, form: str) -> None:
    data = before + in_chunks(pieces, form)
    assert unchunked(data, len(before)) == b"".join(pieces)
    assert not any(unchunked(data[:end], len(before)) is not None for end in range(len(before), len(data)))
    assert unchunked(data + b"H", len(before)) is None


class _Heard:
    """What llhttp makes of a response."""

    def __init__(self) -> None:
        self.content, self.complete = b"", False

    def on_body(self, piece: bytes) -> None:
        self.content += piece

    def on_message_complete(self) -> None:
        self.complete = True


CHUNKS = ["", "0", "5", "1", "A", "00", "+5", "-1", " 5", "5 ", "5;a=b", "0x5", "_", "1_0", "\r\n", "\n", "hello", "h"]


@given(st.lists(st.sampled_from(CHUNKS), max_size=12).map("".join))
@example("5\r\nhello\r\n0\r\n\r\n")
@example("5;a=b\r\nhello\r\n0\r\n\r\n")
@example("5\r\nhello\r\n0\r\nX: y\r\n\r\n")
@example("5\r\nhello0\r\n\r\n")
@example("000000005\r\nhello\r\n0\r\n\r\n")
def test_what_is_read_as_chunks_the_parser_reads_so_as_well(text: str) -> None:
    content = unchunked(text.encode(), 0)
    event("read" if content is not None else "not read")
    if content is not None:
        heard = _Heard()
        httptools.HttpResponseParser(heard).feed_data(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + text.encode()
        )
        assert (heard.complete, heard.content) == (True, content)
