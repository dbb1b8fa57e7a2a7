"""`siding rollback` of flags, on a real stack and beside listeners that are not well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from config.flags import FlagName
from deploy.options import this_tool
from deploy.rollback import command
from tests.deploy.processes import PATIENCE, ROOT, Child, environment, python, refused
from tests.deploy.rollbacks import ROLLBACK, TOKEN, rollback
from tests.deploy.stacks import Up, running_stack
from tests.e2e.proxies import proxy_process
from tests.redis_servers import running_redis
from tests.support import holds, serving

NOBODY = "http://127.0.0.1:9"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Up]:
    async with running_stack(ADMIN_TOKEN=TOKEN) as up:
        yield up


async def flags(admin: str) -> dict[str, bool]:
    async with ClientSession() as client, client.get(f"{admin}/api/flags") as answer:
        found = await answer.json()
        return {name: found[name] for name in FlagName}


async def pinned(admin: str) -> dict[str, bool]:
    async with ClientSession() as client, client.get(f"{admin}/api/flags") as answer:
        found: dict[str, bool] = (await answer.json())["pinned"]
        return found


def arguments_in(line: str) -> list[str]:
    """Of a printed command: what follows the words that start the tool here."""
    tool, _, rest = line.partition(" rollback --admin ")
    assert tool == shlex.join(this_tool())
    return ["--admin", *shlex.split(rest)]


def undo_of(child: Child) -> list[list[str]]:
    (line,) = [line for line in child.lines if line.startswith("undo: ")]
    return steps_in(line)


def steps_in(line: str) -> list[list[str]]:
    return [arguments_in(step) for step in line.removeprefix("undo: ").split("; ")]


async def undo(child: Child, token: str | None = TOKEN) -> None:
    for step in undo_of(child):
        done = await rollback(*step, token=token)
        assert done.process.returncode == 0, done.output


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("flag", "path", "words"),
    [
        ("ENABLE_QUERY_CACHE", "/api/subjects", "not answered from the cache"),
        ("ENABLE_COMPRESSION", "/", "has no content coding"),
        ("ENABLE_ETAG", "/", "has no ETag"),
        ("BYPASS", "/", "Cache-Status says fwd=bypass"),
    ],
)
async def test_a_flag_is_switched_off_seen_and_undone(stack: Up, flag: str, path: str, words: str) -> None:
    before = await flags(stack.admin)
    child = await rollback("--flag", flag, "--admin", stack.admin, "--url", stack.proxy, "--path", path)
    assert child.process.returncode == 0, child.output
    assert f"{stack.proxy}{path}: as wanted, {flag}: {words}" in child.output
    assert await flags(stack.admin) == {**before, flag: flag == "BYPASS"}
    await undo(child)
    assert await flags(stack.admin) == before
    assert TOKEN not in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_all_in_both_services_and_back(stack: Up) -> None:
    before = {admin: await flags(admin) for admin in (stack.admin, stack.monitor)}
    # the origin gives this an ETag of its own
    public = ("--url", stack.proxy, "--path", "/api/subjects")
    child = await rollback("--all", "--admin", stack.admin, "--admin", stack.monitor, *public)
    assert child.process.returncode == 0, child.output
    assert "as wanted, BYPASS" in child.output
    assert child.output.count(": in all replicas, in ") == 2
    for admin in before:
        assert {name for name, on in (await flags(admin)).items() if on} == {"BYPASS"}
    assert [step[2:] for step in undo_of(child)] == [["--settings"]] * 2
    await undo(child)
    assert {admin: await flags(admin) for admin in before} == before
    assert {admin: await pinned(admin) for admin in before} == {admin: {} for admin in before}


@pytest.mark.asyncio(loop_scope="session")
async def test_what_stood_so_before_needs_no_undoing(stack: Up) -> None:
    pins = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin)
    assert pins.process.returncode == 0
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin)
    assert child.process.returncode == 0
    assert "nothing changed" in child.output
    await undo(pins)
    assert await pinned(stack.admin) == {}


@pytest.mark.asyncio(loop_scope="session")
async def test_all_are_handed_back_in_one_word(stack: Up) -> None:
    before = await flags(stack.admin)
    await rollback("--set", "ENABLE_ETAG=off", "--set", "BYPASS=off", "--admin", stack.admin)
    await rollback("--flag", "ENABLE_DEDUP", "--here", "--admin", stack.admin)
    child = await rollback("--settings", "--admin", stack.admin)
    assert child.process.returncode == 0, child.output
    assert "  ENABLE_ETAG off -> on (its setting)" in child.lines
    assert (await flags(stack.admin), await pinned(stack.admin)) == (before, {})
    # what had been flipped here alone comes back as well
    await undo(child)
    assert await flags(stack.admin) == {**before, "ENABLE_ETAG": False, "ENABLE_DEDUP": False}
    assert await pinned(stack.admin) == {"ENABLE_ETAG": False, "BYPASS": False}
    await rollback("--settings", "--admin", stack.admin)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("token", "said"),
    [(None, "; put the token into ADMIN_TOKEN"), ("another", "; the environment's ADMIN_TOKEN is not its token")],
)
async def test_without_the_token_nothing_changes_and_it_is_said(stack: Up, token: str | None, said: str) -> None:
    before = await flags(stack.admin)
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.admin, token=token)
    assert child.process.returncode == 1
    assert child.output.strip().endswith(said)
    assert await flags(stack.admin) == before


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
async def test_the_token_is_read_as_the_services_read_it(stack: Up, end: str) -> None:
    """A line's end comes with it from a file, of Windows even, and is no part of it."""
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin, token=f"{TOKEN}{end}")
    assert child.process.returncode == 0, child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_a_token_that_cannot_be_sent_is_said_and_not_shown(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.admin, token="geheim\ntoken")
    assert child.process.returncode == 2
    assert child.lines == [
        "siding rollback: ADMIN_TOKEN (not shown) is no token: it has spaces or characters beyond ASCII in it"
    ]


@pytest.mark.asyncio(loop_scope="session")
async def test_one_listener_that_is_away_does_not_keep_the_others_from_it(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", "http://127.0.0.1:9", "--admin", stack.admin)
    assert child.process.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in child.output
    assert not (await flags(stack.admin))["ENABLE_ETAG"]
    await undo(child)


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_no_admin_listener_is_said(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.origin)
    assert child.process.returncode == 1
    assert stack.origin in child.output


@contextlib.asynccontextmanager
async def listener_that_breaks(breaks_at: str | None, *, knows: bool = True) -> AsyncIterator[str]:
    """An admin listener whose connection is lost at its first answer to a `PATCH`, or at the `GET` after that.

    knows -- what is set in all replicas.
    """
    standing = {"ENABLE_ETAG": True, "BYPASS": False}
    behind = {"settings": dict(standing), "pinned": {"ENABLE_ETAG": True} if knows else None, "untold": {}}
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.method)
        if request.method == "PATCH":
            changes = await request.json()
            standing.update({name: on for name, on in changes.items() if name in standing})
        if request.method == breaks_at and "PATCH" in seen:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({**standing, **behind, "everywhere": True})

    app = web.Application()
    app.router.add_route("*", "/api/flags", answer)
    async with serving(app) as url:
        yield url


async def test_workers_that_have_not_answered_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(request: web.Request) -> web.Response:
        stand = {"BYPASS": True, "settings": {"BYPASS": False}, "pinned": {}, "untold": {}}
        return web.json_response({**stand, "everywhere": True, "workers": 1, "workersExpected": 2})

    app = web.Application()
    app.router.add_route("*", "/api/flags", answer)
    async with serving(app) as url:
        options = command.parser().parse_args(["--all", *admins(url)])
        assert await command._flags(options, {"BYPASS": True}, None) == 1
    assert "  only 1 of 2 workers have answered" in capsys.readouterr().out


@pytest.mark.parametrize("breaks_at", ["PATCH", "GET"])
async def test_what_may_be_done_though_nobody_says_so_can_be_undone(breaks_at: str) -> None:
    async with listener_that_breaks(breaks_at) as admin:
        child = await rollback("--flag", "ENABLE_ETAG", "--admin", admin)
    assert child.process.returncode == 1
    [fault, may, _] = child.lines
    assert f"{admin} does not answer" in fault
    assert may == "siding rollback: it may be done all the same"
    assert undo_of(child) == [["--admin", admin, "--set", "ENABLE_ETAG=on"]]


async def test_what_was_told_before_ctrl_c_can_be_undone_though_no_answer_came() -> None:
    told, ended = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.method == "PATCH":
            told.set()
            await ended.wait()
        return web.json_response({"BYPASS": False, "settings": {"BYPASS": False}, "pinned": {}, "untold": {}})

    app = web.Application()
    app.router.add_route("*", "/api/flags", answer)
    async with serving(app) as admin:
        async with python(*ROLLBACK, "--flag", "BYPASS", "--admin", admin, environ=environment()) as child:
            async with asyncio.timeout(PATIENCE):
                await told.wait()
            child.press_ctrl_c()
            assert await child.end() == 1
        ended.set()
    assert undo_of(child) == [["--admin", admin, "--set", "BYPASS=setting"]]
    assert child.lines[-1] == "siding rollback: stopped; what was done so far stays done"


@pytest.mark.parametrize("breaks_at", ["PATCH", None])
@pytest.mark.parametrize("here", [False, True])
async def test_an_undo_that_is_guessed_is_said_to_be(
    breaks_at: str | None, here: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with listener_that_breaks(breaks_at, knows=False) as admin:
        options = command.parser().parse_args([*admins(admin), *(["--here"] if here else [])])
        await command._flags(options, {"ENABLE_ETAG": False}, None)
    assert ("what had been set in all is not known there" in "".join(capsys.readouterr())) is not here


async def test_what_is_refused_for_another_reason_is_not_blamed_on_the_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"BYPASS": False})
        return web.json_response({"error": {"message": "the Host must be localhost"}}, status=403)

    app = web.Application()
    app.router.add_route("*", "/api/flags", answer)
    async with serving(app) as url:
        options = command.parser().parse_args(admins(url))
        assert await command._flags(options, {"BYPASS": True}, TOKEN) == 1
    assert capsys.readouterr().err == f"siding rollback: {url} does not do it (403): the Host must be localhost\n"


@pytest.mark.asyncio(loop_scope="session")
async def test_an_address_that_does_not_lead_through_siding_is_said(stack: Up) -> None:
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin, "--url", stack.origin)
    assert child.process.returncode == 1
    assert "NOT AS WANTED, ENABLE_ETAG: an answer has no Via of Siding's" in child.output


async def test_all_have_said_how_they_stand_before_any_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be replicas: what one had flipped for itself is known, and undone as well."""
    monkeypatch.setattr(command, "TOGETHER_SECONDS", PATIENCE)
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        late = request.path.startswith("/late")
        for _ in range(100 * late):
            # as long as the other takes to be told
            await asyncio.sleep(0)
        seen.append(request.method)
        return web.json_response({"BYPASS": "PATCH" in seen, "settings": {"BYPASS": False}, "everywhere": True})

    app = web.Application()
    app.router.add_route("*", "/{which}/api/flags", answer)
    async with serving(app) as url:
        options = command.parser().parse_args(["--all", *admins(f"{url}/soon", f"{url}/late")])
        assert await command._flags(options, {"BYPASS": True}, None) == 0
    assert seen[:2] == ["GET", "GET"]


@pytest.mark.asyncio(loop_scope="session")
async def test_one_listener_that_hangs_does_not_hold_up_the_others(stack: Up) -> None:
    # what is never accepted is never answered
    with socket.create_server(("127.0.0.1", 0)) as server:
        hangs = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = ("--flag", "ENABLE_DEDUP", "--admin", hangs, "--admin", stack.admin)
        async with python(*ROLLBACK, *options, environ=environment(ADMIN_TOKEN=TOKEN)) as child:
            await child.line("  ENABLE_DEDUP on -> off")
            assert child.process.returncode is None, "it waits for the other"
            child.press_ctrl_c()
            await child.end()
    await undo(child)
    assert (await flags(stack.admin))["ENABLE_DEDUP"]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("out", "said"),
    [
        (["sh", "-c", '"$@" | true', "sh"], []),
        (["sh", "-c", 'exec "$@" >&-', "sh"], []),
        (["sh", "-c", 'exec "$@" > /dev/full', "sh"], ["standard output cannot be written: No space left on device"]),
    ],
    ids=["gone", "closed", "full"],
)
async def test_nobody_who_listens_keeps_nothing_from_being_done_or_undone(
    stack: Up, out: list[str], said: list[str]
) -> None:
    """What undoes it is said on standard error where standard output cannot be written."""
    options = ("--flag", "ENABLE_DEDUP", "--admin", stack.admin, "--admin", stack.monitor)
    process = await asyncio.create_subprocess_exec(
        *(*out, sys.executable, *ROLLBACK, *options),
        cwd=ROOT,
        env=environment(ADMIN_TOKEN=TOKEN),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    lines = told.decode().splitlines()
    assert (process.returncode, lines[: len(said)]) == (0, said)
    (line,) = lines[len(said) :]
    undos = steps_in(line.removeprefix("siding rollback: "))
    assert sorted(undos) == sorted(
        ["--admin", admin, "--set", "ENABLE_DEDUP=setting"] for admin in (stack.admin, stack.monitor)
    )
    for undo in undos:
        assert not (await flags(undo[1]))["ENABLE_DEDUP"]
        await rollback(*undo)


@pytest.mark.asyncio(loop_scope="session")
async def test_nobody_at_all_keeps_nothing_from_being_done(stack: Up) -> None:
    """As with a terminal that is gone."""
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *ROLLBACK, "--flag", "ENABLE_DEDUP", "--admin", stack.admin),
        cwd=ROOT,
        env=environment(ADMIN_TOKEN=TOKEN),
        stdout=write,
        stderr=write,
    )
    os.close(write)
    assert await process.wait() == 0
    assert not (await flags(stack.admin))["ENABLE_DEDUP"]
    await rollback("--set", "ENABLE_DEDUP=setting", "--admin", stack.admin)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--all", "--settings"], "--all and --settings are different orders"),
        (["--settings", "--drill"], "flags and --drill are different orders"),
        (["--all", "--around"], "flags and --around are different orders"),
        (["--drill", "--flag", "BYPASS"], "flags and --drill are different orders"),
        (["--drill", "--admin", "http://127.0.0.1:9"], "--admin does not belong to --drill"),
        (["--flag", "BYPASS", "--yes"], "--yes does not belong to flags"),
        (["--all", "--admin", "127.0.0.1:9090"], "is no URL like"),
        (["--all", "--path", "/x"], "--path is asked for at --url, which is not given"),
        # with that another host would be asked, example.comx
        (["--all", "--url", "https://example.com", "--path", "x"], "'x' is no path: a path begins with /"),
    ],
)
def test_nothing_of_an_order_is_passed_over(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command.main, *options) == 2
    assert said in capsys.readouterr().err


async def test_replicas_that_could_not_be_told_are_said(tmp_path: Path) -> None:
    """With Redis away, what was ordered everywhere is done in one replica alone, which is no success."""
    async with running_redis(tmp_path) as redis, contextlib.AsyncExitStack() as running:
        one, other = [
            (await running.enter_async_context(proxy_process(NOBODY, redis_url=redis.url))).admin for _ in range(2)
        ]
        redis.process.kill()
        await redis.process.wait()
        child = await rollback("--all", "--admin", one, token=None)
        assert child.process.returncode == 1, child.output
        assert f"{one}: here ALONE so far, in " in child.output
        assert "other replicas are not told yet" in child.output
        assert "  not told to the other replicas, as Redis does not answer, and lost if this one ends" in child.output
        assert (await flags(one))["BYPASS"]
        assert not (await flags(other))["BYPASS"]
        # as it advises
        child = await rollback("--all", "--here", "--admin", one, "--admin", other, token=None)
        assert child.process.returncode == 0, child.output
        assert (await flags(other))["BYPASS"]


async def test_where_replicas_differ_each_gets_back_its_own_by_here_alone(tmp_path: Path) -> None:
    async with (
        running_redis(tmp_path) as redis,
        proxy_process(NOBODY, redis_url=redis.url, enable_etag="off") as one,
        proxy_process(NOBODY, redis_url=redis.url) as other,
    ):
        before = {admin: await flags(admin) for admin in (one.admin, other.admin)}
        child = await rollback("--all", "--here", *admins(one.admin, other.admin), token=None)
        assert child.process.returncode == 0, child.output
        await undo(child, token=None)
        assert {admin: await flags(admin) for admin in before} == before
        # what is done everywhere is undone everywhere, and each has its own again
        child = await rollback("--all", *admins(one.admin), token=None)
        assert "  set in all replicas, whatever their settings say: ENABLE_QUERY_CACHE off, " in child.lines[-3]
        await undo(child, token=None)
        assert await flags(one.admin) == before[one.admin]

        async def undone() -> bool:
            return await flags(other.admin) == before[other.admin]

        await holds(undone, PATIENCE)
        # what was set before stays so, in those that are set otherwise, too
        await rollback("--set", "ENABLE_ETAG=off", "--set", "BYPASS=off", *admins(one.admin), token=None)
        child = await rollback("--all", *admins(one.admin), token=None)
        await undo(child, token=None)
        assert await pinned(one.admin) == {"ENABLE_ETAG": False, "BYPASS": False}
        # unless it is handed back
        child = await rollback("--set", "ENABLE_ETAG=setting", *admins(other.admin), token=None)
        assert child.process.returncode == 0, child.output
        assert "  ENABLE_ETAG off -> on (its setting)" in child.lines
        assert undo_of(child)[0][-1] == "ENABLE_ETAG=off"
        assert "ENABLE_ETAG" not in child.lines[-3].partition(" say: ")[2]
        # what is flipped here alone does not last, and that is said
        child = await rollback("--set", "BYPASS=on", "--here", *admins(other.admin), token=None)
        assert "BYPASS off (not here)" in child.lines[-3]
        await undo(child, token=None)
        assert await flags(other.admin) == before[other.admin]
        assert await flags(one.admin) == before[one.admin]


async def test_each_of_two_replicas_gets_back_what_it_had_for_itself_alone(tmp_path: Path) -> None:
    async with (
        running_redis(tmp_path) as redis,
        proxy_process(NOBODY, redis_url=redis.url) as one,
        proxy_process(NOBODY, redis_url=redis.url) as other,
    ):
        for admin, flag in ((one.admin, "ENABLE_ETAG"), (other.admin, "ENABLE_DEDUP")):
            await rollback("--flag", flag, "--here", *admins(admin), token=None)
        before = {admin: await flags(admin) for admin in (one.admin, other.admin)}
        assert before[one.admin] != before[other.admin]
        await undo(await rollback("--all", *admins(*before), token=None), token=None)
        assert {admin: await flags(admin) for admin in before} == before
        assert {admin: await pinned(admin) for admin in before} == {admin: {} for admin in before}


def admins(*urls: str) -> list[str]:
    return [word for url in urls for word in ("--admin", url)]


def test_a_flag_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command.main, "--flag", "ENABLE_ETAGS") == 2
    assert "did you mean ENABLE_ETAG" in capsys.readouterr().err
