"""`siding check`: its criteria by tables, its file of requests, and the whole against real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientConnectorError, ClientSession

from deploy.asking import Answer, why
from deploy.check import command, criteria, report, requests
from deploy.check.command import flags_in_words, status_of
from deploy.check.criteria import Counts, Crowd, Isolation, Load, Pair, Pool, Renewal, Result, Sizes, Verdict
from deploy.parts import EXAMPLE_RULES
from tests.deploy.processes import PATIENCE, ROOT, Child, environment, python, refused
from tests.deploy.stacks import Up, counts, running_stack

MET, MISSED, UNMEASURED = Verdict.MET, Verdict.MISSED, Verdict.UNMEASURED
CHECK = ("-m", "deploy", "check")


# -- the criteria


def pair(first: float, second: float, *, stored: bool = True) -> Pair:
    return Pair("a", first, second, first_hit=False, second_hit=stored)


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    return [one.verdict for one in results]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], [UNMEASURED, UNMEASURED]),
        ([pair(2.0, 0.4)], [MET, MET]),
        ([pair(2.0, 0.401)], [MET, MISSED]),
        ([pair(4.0, 0.5)], [MISSED, MET]),
        ([Pair("a", 2.0, 0.01, first_hit=False, second_hit=False)], [MET, MISSED]),
        # what was stored before is compared with the way past Siding
        ([Pair("a", 0.01, 0.01, first_hit=True, second_hit=True)], [MET, UNMEASURED]),
        ([Pair("a", 0.01, 0.01, first_hit=True, second_hit=True, direct=2.0)], [MET, MET]),
        # the slowest of those that are stored counts
        (
            [
                pair(0.2, 0.1),
                Pair("b", 3.0, 0.1, first_hit=False, second_hit=True),
            ],
            [MET, MET],
        ),
        (
            [
                pair(2.0, 0.1),
                Pair("b", 9.0, 9.0, first_hit=False, second_hit=False),
            ],
            [MET, MET],
        ),
        # what fails is no answer, however soon it comes
        ([Pair("a", 2.0, 0.001, first_hit=False, second_hit=False, status=404)], [UNMEASURED, UNMEASURED]),
        ([Pair("a", 2.0, 0.001, first_hit=False, second_hit=True, status=500), pair(1.0, 0.6)], [MISSED, MISSED]),
    ],
)
def test_repeats(pairs: list[Pair], expected: list[Verdict]) -> None:
    assert verdicts(criteria.repeats(pairs)) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], UNMEASURED),
        ([Isolation("a", hit=False, same=False, status=403)], MET),
        ([Isolation("a", hit=False, same=False, status=200)], MET),
        ([Isolation("a", hit=True, same=False, status=200)], MISSED),
        ([Isolation("a", hit=False, same=True, status=200)], MISSED),
        ([Isolation("a", hit=False, same=True, status=401)], MET),
        ([Isolation("a", hit=False, same=False, status=401), Isolation("b", hit=True, same=True, status=200)], MISSED),
        # the origin gives everybody the same, of which nobody can tell whose it was
        ([Isolation("a", hit=False, same=True, status=200, asked=True)], UNMEASURED),
        (
            [
                Isolation("a", hit=False, same=True, status=200, asked=True),
                Isolation("b", hit=False, same=False, status=200, asked=True),
            ],
            MET,
        ),
    ],
)
def test_isolated(seen: list[Isolation], expected: Verdict) -> None:
    assert criteria.isolated(seen).verdict is expected


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("siding; fwd=uri-miss; fwd-status=200; stored", True),
        ("edge; hit, siding; fwd=method; fwd-status=200", True),
        ("siding; hit; ttl=3", False),
        ("siding; fwd=uri-miss; fwd-status=200; collapsed", False),
        # the origin has confirmed what was stored, whoever it was stored for
        ("siding; fwd=stale; fwd-status=304", False),
        ("edge; fwd=uri-miss; fwd-status=200", False),
        ("", False),
    ],
)
def test_an_answer_tells_whether_it_is_the_origins(told: str, asked: bool) -> None:
    assert Answer(200, 0.1, {"Cache-Status": told}, b"").asked is asked


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (criteria.everybody([200, 201, 204], "a"), MET),
        (criteria.everybody([200, 403], "a"), MISSED),
        (criteria.renewed(None, 10, None), UNMEASURED),
        (criteria.renewed(None, 10, 300), UNMEASURED),
        (criteria.renewed(Renewal("a", 5, 6.5, 0), 10, 5), MET),
        (criteria.renewed(Renewal("a", 5, 6.5, 5), 10, 5), MET),
        # the old answer still, after its time
        (criteria.renewed(Renewal("a", 5, 6.5, 6), 10, 5), MISSED),
        (criteria.hit_rate(None, None), UNMEASURED),
        (criteria.hit_rate(Counts(0, 0), Counts(0, 0)), UNMEASURED),
        (criteria.hit_rate(Counts(0, 0), Counts(45, 20)), MET),
        (criteria.hit_rate(Counts(0, 0), Counts(60, 40)), MISSED),
        # what others asked for counts, and not what this check did
        (criteria.hit_rate(Counts(61, 39), Counts(61, 9039)), MET),
        (criteria.hit_rate(Counts(60, 40), Counts(9060, 40)), MISSED),
        (criteria.hit_rate(Counts(59, 40), Counts(9059, 40)), MET),
        (criteria.collapsed([]), UNMEASURED),
        (criteria.collapsed([Crowd("a", 20, 19, 0)]), MET),
        (criteria.collapsed([Crowd("a", 20, 18, 0)]), MISSED),
        (criteria.collapsed([Crowd("a", 20, 20, 0)]), MISSED),
        (criteria.collapsed([Crowd("a", 20, 19, 1)]), MISSED),
        (criteria.coded(Sizes(0, 0)), UNMEASURED),
        (criteria.coded(Sizes(1000, 400)), MET),
        (criteria.coded(Sizes(1000, 401)), MISSED),
        (criteria.validated(Sizes(0, 0), 4), UNMEASURED),
        (criteria.validated(Sizes(1000, 600), 4), MET),
        (criteria.validated(Sizes(1000, 601), 4), MISSED),
        (criteria.tokens(0, 0, 0, monitored=False, own=False), UNMEASURED),
        (criteria.tokens(0, 0, 0, monitored=True, own=True), UNMEASURED),
        (criteria.tokens(4480, 1792, 10, monitored=True, own=True), MET),
        (criteria.tokens(4480, 1800, 10, monitored=True, own=False), MISSED),
    ],
)
def test_one_criterion(result: Result, expected: Verdict) -> None:
    assert result.verdict is expected
    assert result.reading


@pytest.mark.parametrize(
    ("seen", "fault", "expected", "said"),
    [
        (None, "", UNMEASURED, "DATABASE_URL"),
        (Pool(0, 14, 20.0, 100), "", MET, "100 were asked for"),
        (Pool(1, 15, 20.1, 100), "", MISSED, "names the holders"),
        # an idle pool proves nothing
        (Pool(0, 0, 0.0, 0), "", UNMEASURED, 'at = "monitor"'),
        (Pool(0, 0, 0.0, 5), "exists: status 403", UNMEASURED, "exists: status 403"),
    ],
)
def test_pool(seen: Pool | None, fault: str, expected: Verdict, said: str) -> None:
    results = list(criteria.pool(seen, monitored=True, fault=fault))
    assert verdicts(results) == [expected] * 3
    assert said in results[0].reading


def test_without_a_monitor_the_pool_is_not_measured() -> None:
    assert verdicts(criteria.pool(None, monitored=False)) == [UNMEASURED] * 3


def load(milliseconds: int, failed: int = 0, requests: int = 100) -> Load:
    slow = requests // 10
    return Load(tuple([0.001] * (requests - slow) + [milliseconds / 1000] * slow), failed)


def test_the_95th_of_a_hundred_is_the_95th_percentile() -> None:
    assert Load(tuple(range(1, 101)), 0).quantile(0.95) == 95
    assert Load((7.0,), 0).quantile(0.95) == 7.0


@pytest.mark.parametrize(
    ("through", "direct", "expected"),
    [
        (Load((), 0), None, [UNMEASURED]),
        (load(5), None, [MET, UNMEASURED]),
        (load(5, failed=1), None, [MISSED, UNMEASURED]),
        (load(60), load(100), [MET, MET]),
        (load(61), load(100), [MET, MISSED]),
        (load(5, failed=1), load(100, failed=1), [MET, MET]),
        (load(5, failed=2), load(100, failed=1), [MISSED, MET]),
        # too few for a percentile
        (load(5), load(100, requests=30), [MET, UNMEASURED]),
        # what never succeeds by itself says nothing of who stands before it
        (load(5, failed=100), load(100, failed=100), [UNMEASURED, UNMEASURED]),
        (load(5, failed=100), load(100, failed=99), [MISSED, MET]),
    ],
)
def test_loads(through: Load, direct: Load | None, expected: list[Verdict]) -> None:
    assert verdicts(criteria.loads(through, direct)) == expected


# -- the report


RESULTS = [
    Result("gzip", "60% smaller", "70.0%", MET, "3 of 10 | octets"),
    Result("pool", "0", "4", MISSED, "look", "where"),
    criteria.unmeasured("tokens", "60%", "--grade"),
]


def test_the_table_is_aligned_and_shouts_what_was_missed() -> None:
    head, line, *rows, empty, summary = report.table(RESULTS).splitlines()
    assert line.startswith("---------")
    assert head.index("verdict") == rows[0].index("met")
    assert len({row.index(word) for row, word in zip(rows, ("met", "MISSED", "not measured"), strict=True)}) == 1
    assert (empty, summary) == ("", "1 met, 1 missed, 1 not measured")


def test_markdown_is_a_table_whatever_is_in_the_cells() -> None:
    rows = report.markdown(RESULTS).splitlines()[:5]
    assert {row.count("|") for row in rows} == {6}


def test_json_is_for_programs() -> None:
    document = json.loads(report.as_json(RESULTS))
    assert document["met"] is False
    assert document["counts"] == {"met": 1, "missed": 1, "not measured": 1}
    assert [one["verdict"] for one in document["results"]] == ["met", "missed", "not measured"]
    assert json.loads(report.as_json(RESULTS[:1]))["met"] is True
    assert json.loads(report.as_json(RESULTS[2:]))["met"] is False, "what is not measured is not met"


@pytest.mark.parametrize(
    ("seen", "usual", "strict"),
    [({MET}, 0, 0), ({MET, UNMEASURED}, 0, 1), ({MET, MISSED}, 1, 1), ({UNMEASURED}, 2, 2)],
)
def test_the_exit_status(seen: set[Verdict], usual: int, strict: int) -> None:
    assert (status_of(seen, strict=False), status_of(seen, strict=True)) == (usual, strict)


# -- the requests


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "requests.toml"
    path.write_text(text)
    return path


def test_the_example_is_filled_in() -> None:
    asked = requests.read(requests.EXAMPLE, {})
    report_form = next(form for form in asked.forms if form.name == "report")
    ask = asked.fill(report_form, "n1", 1)
    assert ask.fields["Authorization"] == "Bearer alice"
    assert ask.content is not None
    assert json.loads(ask.content)["userId"] == "alice"
    assert json.loads(ask.content)["check"] == "n1"
    assert ask.as_another("Bearer x").fields["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "request"),
        ("nonsense", "requests.toml is not TOML"),
        (f"a = {'[' * 10_000}", "requests.toml is not TOML: brackets are nested too deep"),
        ('[[request]]\nname = "a"\npath = "a"', "request.0.path"),
        ('[[request]]\nname = "a"\npath = "/a"\nspeed = 1', "request.0.speed"),
        ('[[request]]\nname = "a"\npath = "/a"\nat = "home"', "request.0.at"),
        ('[[request]]\nname = "a"\npath = "/a"\nat = "monitor"', "there must be a request for the proxy"),
        ('[[request]]\nname = "a"\npath = "/a"\nmethod = "POST"', "'a' is a POST, which may write"),
        ('[[request]]\nname = "a"\npath = "/a"\nmethod = "DELETE"', "`safe = true`"),
        ('[[request]]\nname = "a"\npath = "/${TOKEN}"', "needs ${TOKEN}"),
        ('[[request]]\nname = "a"\npath = "/"\n[[request]]\nname = "a"\npath = "/b"', "two requests are called 'a'"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(requests.BadRequests, match=said.replace("$", r"\$").replace("{", r"\{")):
        requests.read(write(tmp_path, text), {})


def test_blanks_come_from_the_user_then_the_environment_then_their_own_word(tmp_path: Path) -> None:
    path = write(tmp_path, '[[user]]\na = "user"\n[[request]]\nname = "x"\npath = "/${a}/${b}/${c:-word}/${nonce}"')
    asked = requests.read(path, {"a": "environment", "b": "environment"})
    assert asked.fill(asked.forms[0], "n").path == "/user/environment/word/n"


def test_a_lines_end_of_the_environment_is_not_sent(tmp_path: Path) -> None:
    path = write(tmp_path, '[[request]]\nname = "x"\npath = "/"\nheaders = { Authorization = "Bearer ${T}" }')
    asked = requests.read(path, {"T": "token\r\n"})
    assert asked.fill(asked.forms[0], "n").fields["Authorization"] == "Bearer token"
    with pytest.raises(requests.BadRequests, match="'x' has a line's end or a NUL in its Authorization for user 1"):
        requests.read(path, {"T": "to\nken"})


# -- the whole


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Up]:
    """With reports that take a fifth of their usual time."""
    hasty = ("-m", "deploy.example_origin", "--host", "127.0.0.1", "--port", "0", "--report-seconds", "0.4")
    async with python(*hasty) as origin:
        url = (await origin.line("example origin: ")).split()[-1]
        async with running_stack(UPSTREAM_URL=url, RULES_FILE=str(EXAMPLE_RULES)) as up:
            yield up


def rows(child: Child) -> dict[str, dict[str, str]]:
    text = child.output
    document = json.loads(text[text.index("{") :])
    return {one["name"]: one for one in document["results"]}


@pytest.mark.asyncio(loop_scope="session")
async def test_the_local_stack_meets_the_plan(stack: Up) -> None:
    options = ("--admin", stack.admin, "--monitor", stack.monitor, "--direct", stack.origin)
    short = ("--seconds", "1", "--wait", "6", "--requests", "example", "--grade", "--json", "--strict")
    async with python(*CHECK, stack.proxy, *options, *short) as child:
        status = await child.end(4 * PATIENCE)
    assert status == 0, child.output
    found = rows(child)
    assert {one["verdict"] for one in found.values()} == {"met"}, child.output
    assert len(found) == 15
    assert "measuring: 20 clients at once" in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_what_falls_short_is_said_and_gives_1(stack: Up) -> None:
    async with ClientSession() as client:

        async def bypass(on: bool) -> None:
            async with client.patch(f"{stack.admin}/api/flags", json={"BYPASS": on}) as answer:
                assert answer.status == 200

        await bypass(True)
        try:
            async with python(*CHECK, stack.proxy, "--get", "/", "--seconds", "0.5", "--json") as child:
                status = await child.end()
        finally:
            await bypass(False)
    found = rows(child)
    assert status == 1
    assert found["second answer faster"]["verdict"] == "missed"
    assert found["gzip"]["verdict"] == "missed"
    assert found["gzip"]["measured"] == "0.0%"
    assert found["pool waiting"]["verdict"] == "not measured"
    assert "give --admin" in found["cache hit rate"]["reading"]


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_refused_or_not_there_is_an_error_and_not_an_answer(stack: Up) -> None:
    async with python(*CHECK, stack.proxy, "--get", "/status/403", "--seconds", "0.5", "--json") as child:
        assert await child.end() == 1
    found = rows(child)
    assert found["second answer"]["verdict"] == "not measured"
    assert "/status/403 is answered with 403" in found["second answer"]["reading"]
    assert found["error rate"]["measured"] == "100.00%"
    assert "/status/403: status 403" in found["error rate"]["reading"]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("option", ["--admin", "--monitor", "--direct"])
async def test_what_is_named_and_away_is_said_at_once(stack: Up, option: str) -> None:
    async with python(*CHECK, stack.proxy, option, "http://127.0.0.1:9") as child:
        assert await child.end() == 2
    assert child.lines[-1].startswith("siding check: http://127.0.0.1:9 does not answer ")
    assert "measuring: load" not in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_a_reader_that_leaves_is_not_a_fault(stack: Up) -> None:
    """As in `siding check URL | true`."""
    read, write_end = os.pipe()
    os.close(read)
    command = (sys.executable, *CHECK, stack.proxy, "--get", "/api/subjects", "--seconds", "0.5")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(), stdout=write_end, stderr=asyncio.subprocess.PIPE
    )
    os.close(write_end)
    _, told = await process.communicate()
    assert process.returncode in {0, 1}
    assert b"Error" not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grade"], "--grade needs --monitor"),
        (["--get", "/", "--requests", "example"], "not allowed with argument"),
        (["--get", "nope"], "a path begins with /"),
        (["--seconds", "x"], "'x' is not a number of more than 0"),
        (["--seconds", "nan"], "'nan' is not a number of more than 0"),
        (["--direct", "http://:80"], "is no URL like"),
    ],
)
def test_options_that_cannot_be_followed(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command.main, "http://127.0.0.1:9", *options) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "measuring" not in told


@pytest.mark.asyncio(loop_scope="session")
async def test_nothing_is_sent_that_may_write(stack: Up, tmp_path: Path) -> None:
    path = write(tmp_path, '[[request]]\nname = "a"\npath = "/api/homework/archive"\nmethod = "POST"')
    before = await counts(stack.origin.removeprefix("http://"))
    async with python(*CHECK, stack.proxy, "--requests", str(path)) as child:
        assert await child.end() == 2
    assert "which may write" in child.output
    assert "Traceback" not in child.output
    after = await counts(stack.origin.removeprefix("http://"))
    assert {name: n for name, n in after["requests"].items() if "stats" not in name} == {
        name: n for name, n in before["requests"].items() if "stats" not in name
    }


async def test_what_does_not_answer_is_said_in_one_line() -> None:
    async with python(*CHECK, "http://127.0.0.1:9") as child:
        assert await child.end() == 2
    assert child.lines == ["siding check: http://127.0.0.1:9 does not answer HEAD /: Connection refused"]


async def test_why_there_is_no_answer_is_said_without_tls_that_nobody_asked_for() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with ClientSession() as client, await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for url, reason in (
            ("http://127.0.0.1:9", "Connection refused"),
            ("http://nobody.invalid", "not known|resolution|No address"),
            (f"https://127.0.0.1:{port}", "SSL"),
        ):
            with pytest.raises(ClientConnectorError) as caught:
                await client.get(url)
            assert re.search(reason, why(caught.value))
            assert "ssl:" not in why(caught.value)


async def test_who_is_silent_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with python(*CHECK, url, "--timeout", "0.1") as child:
            assert await child.end() == 2
    assert child.lines == [f"siding check: {url} does not answer HEAD /: no answer in time"]


def test_a_bad_address_is_said_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    for address, reason in (
        ("ftp://user:geheim@127.0.0.1", "is no URL like"),
        ("http://user:geheim@127.0.0.1", "'http://***@127.0.0.1' has a user name: "),
    ):
        assert refused(command.main, address) == 2
        told = capsys.readouterr().err
        assert reason in told
        assert "geheim" not in told


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, ""),
        (["nonsense"], ""),
        ({"BYPASS": False, "ENABLE_ETAG": True, "NEWER": True}, ""),
        ({"BYPASS": True, "ENABLE_ETAG": False, "pinned": {}}, "BYPASS is on; ENABLE_ETAG is off"),
        (
            {"BYPASS": False, "ENABLE_ETAG": False, "pinned": {"BYPASS": True, "ENABLE_ETAG": False}},
            "ENABLE_ETAG is off; set in all replicas, whatever their settings say: BYPASS on (not here), "
            "ENABLE_ETAG off",
        ),
        (
            {"BYPASS": True, "pinned": {}, "untold": {"BYPASS": True, "ENABLE_ETAG": None}},
            "BYPASS is on; not told to the other replicas, as Redis does not answer, and lost if this one ends before "
            "it does: BYPASS on, ENABLE_ETAG setting",
        ),
        (
            {
                "BYPASS": False,
                "ENABLE_ETAG": True,
                "ENABLE_DEDUP": True,
                "settings": {"ENABLE_ETAG": False, "ENABLE_DEDUP": True},
                "untold": {"BYPASS": True, "ENABLE_ETAG": None, "ENABLE_DEDUP": None},
            },
            "not told to the other replicas, as Redis does not answer, and lost if this one ends before it does: "
            "BYPASS on (not here), ENABLE_ETAG setting (not here), ENABLE_DEDUP setting",
        ),
        (
            {"BYPASS": False, "pinned": None, "untold": {}},
            "which are set in all replicas is not known: it has not heard from Redis yet",
        ),
    ],
)
def test_flags_that_figures_may_be_owed_to_are_told(document: Any, words: str) -> None:
    assert flags_in_words(document) == words
