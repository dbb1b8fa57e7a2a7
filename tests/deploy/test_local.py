"""`python -m deploy.local`: which parts it plans, what it refuses, and the whole of it with the real proxy."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout

from config.listen import spare_port
from config.load import load
from config.rules import load_rules
from deploy import local
from deploy.addresses import Addresses, Held, MonitorAddresses, PortTaken, free_addresses
from deploy.local import curl
from deploy.local_settings import LocalSettings
from deploy.parts import EXAMPLE_RULES, plan, seen_by_proxy, was_purged
from deploy.stack import STOP_GRACE_SECONDS
from tests.deploy.processes import PATIENCE, environment, listens, python, reserved_ports
from tests.deploy.stacks import ALONE, ANYWHERE, address, counts
from tests.support import holds

LOCAL = ("-m", "deploy.local")
REPORT = "/api/parent-reports/generate"
WITH_EXAMPLE = Addresses(public="localhost:8080", admin="127.0.0.1:9090", origin="127.0.0.1:3000")
WITHOUT = Addresses(public="localhost:8080", admin="127.0.0.1:9090", origin=None)


def settings_of(environ: Mapping[str, str], *argv: str) -> LocalSettings:
    return load(LocalSettings, argv, environ, prog="test")


def addresses_of(settings: LocalSettings) -> Addresses:
    with Held() as held:
        return free_addresses(settings, held)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# -- the rules


def test_the_example_rules_are_the_contracts() -> None:
    table = load_rules(EXAMPLE_RULES, 1.0)
    rule = table.match("POST", REPORT)
    assert rule is not None
    assert (rule.ttl, rule.stale_while_revalidate, rule.stale_if_error) == (300, 30, 600)
    assert {kind for kind, _ in rule.key} == {"body", "authorization"}
    assert rule.tags == ("reports",)
    assert rule.private
    assert table.match("GET", REPORT) is None
    for method, path in (("POST", "/api/homework/archive"), ("PUT", "/api/homework/7"), ("DELETE", "/api/homework/7")):
        assert table.invalidated_by(method, path) == (rule,)
    assert table.invalidated_by("POST", REPORT) == ()


# -- the plan


def test_without_an_origin_the_example_comes_first() -> None:
    origin, proxy = plan(settings_of({}), WITH_EXAMPLE, [], {"SOME": "thing"})
    assert origin.command[1:] == ("-m", "deploy.example_origin", "--host", "127.0.0.1", "--port", "3000")
    assert proxy.command == (sys.executable, "-m", "proxy", "--port", "8080", "--admin-port", "9090")
    assert proxy.environ == {
        "SOME": "thing",
        "UPSTREAM_URL": "http://127.0.0.1:3000",
        "RULES_FILE": str(EXAMPLE_RULES),
        "LOG_FORMAT": "text",
    }


def test_every_part_has_the_users_other_variables() -> None:
    given = ANYWHERE | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_SAMPLER": "always_on"}
    parts = local.prepare([], given, "test").parts
    assert len(parts) > 3
    for part in parts:
        assert given.items() - ANYWHERE.items() <= part.environ.items(), part.name


@pytest.mark.parametrize("option", [True, False])
def test_the_monitor_has_the_proxys_token_wherever_that_is_set(option: bool) -> None:
    given, environ = (["--admin-token", "door"], {}) if option else ([], {"ADMIN_TOKEN": "door"})
    (monitor,) = [
        part for part in local.prepare(given, ANYWHERE | environ, "test").parts if "pool_monitor" in part.command
    ]
    assert ("PROXY_ADMIN_TOKEN", "door") in monitor.environ.items()


@pytest.mark.parametrize(("environ", "drains"), [({}, 25.0), ({"DRAIN_SECONDS": "3"}, 3.0)])
def test_a_service_has_the_time_to_drain_before_it_is_killed(environ: dict[str, str], drains: float) -> None:
    parts = local.prepare([], ANYWHERE | environ, "test").parts
    services = [part for part in parts if part.command[2] in {"proxy", "pool_monitor"}]
    assert [part.stop_seconds for part in services] == [drains + STOP_GRACE_SECONDS] * 2


def test_in_front_of_a_given_origin_there_is_only_the_proxy_and_no_rules_but_the_users(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.touch()
    for environ in ({"UPSTREAM_URL": "http://app:3000"}, {"UPSTREAM_URL": "http://app:3000", "RULES_FILE": str(rules)}):
        (proxy,) = plan(settings_of(environ), WITHOUT, [], environ)
        assert proxy.environ == {**environ, "LOG_FORMAT": "text"}


def test_what_the_user_chose_is_kept(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.touch()
    environ = {"RULES_FILE": str(rules), "LOG_FORMAT": "json", "DRAIN_SECONDS": "3"}
    _, proxy = plan(settings_of(environ), WITH_EXAMPLE, ["--workers", "2"], environ)
    assert proxy.environ == {**environ, "UPSTREAM_URL": "http://127.0.0.1:3000"}
    assert proxy.command[3:5] == ("--workers", "2")
    assert proxy.stop_seconds > 3


@pytest.mark.parametrize(
    ("environ", "argv", "told"),
    [
        ({}, [], {"POOL_MONITOR_URL": "http://127.0.0.1:8081"}),
        ({"POOL_MONITOR_URL": "http://pool:1"}, [], {}),
        ({}, ["--pool-monitor-url", "http://pool:1"], {}),
    ],
)
def test_the_proxy_is_told_of_the_monitor_unless_of_another(
    environ: dict[str, str], argv: list[str], told: dict[str, str]
) -> None:
    assert seen_by_proxy(settings_of(environ, *argv), MonitorAddresses("127.0.0.1:8081", None)) == told


def test_an_origin_may_be_named_anywhere_a_setting_may(tmp_path: Path) -> None:
    file = tmp_path / "siding.toml"
    file.write_text('upstream_url = "http://app:3000"\nlog_format = "json"\nport = 0\nadmin_port = 0\n')
    in_file = settings_of({"SIDING_CONFIG": str(file)})
    in_options = settings_of(ANYWHERE, "--upstream-url", "http://app:3000")
    assert [addresses_of(settings).origin for settings in (in_file, in_options)] == [None, None]
    (proxy,) = plan(in_file, WITHOUT, [], {})
    assert proxy.environ == {}


@pytest.mark.parametrize("environ", [{}, {"UPSTREAM_URL": ""}, {"UPSTREAM_URL": " "}])
def test_no_origin_is_named_by_nothing(environ: dict[str, str]) -> None:
    assert settings_of(environ).upstream_url is None


# -- addresses


def test_ports_left_open_are_chosen_and_differ() -> None:
    found = addresses_of(settings_of(ANYWHERE))
    assert found.origin is not None
    ports = {Addresses.port_of(address) for address in (found.public, found.admin, found.origin)}
    assert len(ports) == 3
    assert "0" not in ports


def test_the_example_origin_takes_its_usual_port_or_any(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with reserved_ports(2) as (usual, public):
        monkeypatch.setattr("deploy.addresses.ORIGIN_PORT", usual)
        somewhere = {**ANYWHERE, "PORT": str(public)}
        assert addresses_of(settings_of(somewhere)).origin == f"127.0.0.1:{usual}"
        # several stacks with ports left open do not fight for it
        assert addresses_of(settings_of(ANYWHERE)).origin != f"127.0.0.1:{usual}"
        monkeypatch.setattr("deploy.addresses.ORIGIN_PORT", taken)
        elsewhere = addresses_of(settings_of(somewhere)).origin
    assert elsewhere is not None
    assert elsewhere != f"127.0.0.1:{taken}"


@pytest.mark.parametrize("variable", ["PORT", "ADMIN_PORT"])
@pytest.mark.parametrize("upstream", [{}, {"UPSTREAM_URL": "http://127.0.0.1:9"}])
async def test_a_taken_port_is_said_in_one_line(taken: int, variable: str, upstream: dict[str, str]) -> None:
    async with python(*LOCAL, environ=environment(**{**ANYWHERE, **upstream, variable: str(taken)})) as child:
        assert await child.end() == 1
    assert child.lines == [
        f"siding: port {taken} is taken by another process; "
        f"set {variable} to a free one, or to 0 for any: make run {variable}=0, or {variable}=0 siding up"
    ]


@pytest.mark.parametrize("variable", ["PORT", "ADMIN_PORT"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_a_port_that_is_given_twice_is_said_before_anything_starts(variable: str, host: str) -> None:
    with reserved_ports(1) as (port,):
        environ = {**ANYWHERE, variable: str(port), "MONITOR_PORT": str(port), "MONITOR_HOST": host}
        with pytest.raises(PortTaken) as refused:
            local.prepare([], environ, "test")
    assert str(refused.value) == (
        f"{variable} and MONITOR_PORT are both {port}; "
        f"set one, say {variable}, to a free one, or to 0 for any: make run {variable}=0, or {variable}=0 siding up"
    )


def test_the_example_origin_does_not_take_the_monitors_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserved_ports(2) as (usual, public):
        monkeypatch.setattr("deploy.addresses.ORIGIN_PORT", usual)
        found = local.prepare([], {**ANYWHERE, "PORT": str(public), "MONITOR_PORT": str(usual)}, "test")
    assert found.monitor.monitor == f"127.0.0.1:{usual}"
    assert found.addresses.origin != f"127.0.0.1:{usual}"


async def test_an_address_that_is_not_ours_is_said_in_one_line() -> None:
    environ = environment(**{**ANYWHERE, "HOST": "192.0.2.1"})
    async with python(*LOCAL, environ=environ) as child:
        assert await child.end() == 1
    assert len(child.lines) == 1
    assert child.output.startswith("siding: cannot listen on 192.0.2.1 port 0: ")
    assert child.output.endswith(" (HOST, PORT)")


async def test_bad_settings_are_all_told_before_anything_starts() -> None:
    environ = environment(PORT="none", UPSTREAM_URL="app:3000", RULES_FILES="rules.toml")
    async with python(*LOCAL, environ=environ) as child:
        assert await child.end() == 2
    assert "PORT is 'none'" in child.output
    assert "UPSTREAM_URL is 'app:3000'" in child.output
    assert child.lines[-1] == "the environment has RULES_FILES, which is no setting; was RULES_FILE meant?"
    assert "Traceback" not in child.output


# -- the whole


async def try_it(command: str) -> tuple[Mapping[str, str], str]:
    """Send what the `curl` command would."""
    program, include, url, *rest = shlex.split(command)
    assert (program, include) == ("curl", "-i")
    options = list(zip(rest[::2], rest[1::2], strict=True))
    fields = dict(value.split(": ", 1) for name, value in options if name == "-H")
    content = next((value for name, value in options if name == "-d"), None)
    method = "GET" if content is None else "POST"
    async with (
        ClientSession(timeout=ClientTimeout(total=PATIENCE)) as client,
        client.request(method, url, headers=fields, data=content) as answer,
    ):
        assert answer.status == 200
        return answer.headers, await answer.text()


def test_the_command_to_try_is_one_line() -> None:
    for addresses in (WITH_EXAMPLE, WITHOUT):
        line = shlex.join(curl(addresses))
        assert "\n" not in line
        assert shlex.split(line) == curl(addresses)


async def test_a_purge_that_never_comes_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"127.0.0.1:{spare_port()}"
    assert not await was_purged(nobody)()
    monkeypatch.setattr("deploy.parts.PURGE_SECONDS", -1.0)
    assert await was_purged(nobody)()


async def test_with_the_example_origin_the_second_report_comes_from_the_cache() -> None:
    async with python(*LOCAL, environ=environment(**ANYWHERE)) as child:
        command = await child.line("curl -i ")
        public, admin, origin = (address(child, name) for name in ("proxy", "admin", "origin"))
        first_fields, first = await try_it(command)
        fields, second = await try_it(command)
        assert first_fields["Cache-Status"].startswith("siding; fwd=")
        assert fields["Cache-Status"].startswith("siding; hit")
        assert second == first
        assert (await counts(origin))["reportsGenerated"] == 1
        child.press_ctrl_c()
        assert await child.end() == 0
        monitor = address(child, "monitor")
    assert not any(map(listens, (public, admin, origin, monitor)))
    assert "Traceback" not in child.output


async def test_a_changed_row_makes_queries_and_reports_fresh() -> None:
    async with python(*LOCAL, environ=environment(**ANYWHERE)) as child, asyncio.timeout(4 * PATIENCE):
        command = await child.line("curl -i ")
        monitor = f"http://{address(child, 'monitor')}/api/queries"
        await try_it(command)
        assert (await try_it(command))[0]["Cache-Status"].startswith("siding; hit")
        async with ClientSession() as client:

            async def exists(user: str) -> bool:
                async with client.get(f"{monitor}/report-exists", params={"userId": user}) as answer:
                    found: dict[str, bool] = await answer.json()
                    return found["exists"]

            assert await exists("large_user")
            assert not await exists("newcomer")
            async with client.post(f"{monitor}/add-report", json={"userId": "newcomer", "report": {}}) as answer:
                assert answer.status == 200
            await holds(lambda: exists("newcomer"), PATIENCE)
        while (await try_it(command))[0]["Cache-Status"].startswith("siding; hit"):
            pass
        child.press_ctrl_c()
        assert await child.end() == 0
    assert "Traceback" not in child.output


async def test_in_front_of_a_given_origin() -> None:
    origin_command = ("-m", "deploy.example_origin", "--host", "127.0.0.1", "--port", "0")
    async with python(*origin_command) as origin:
        url = (await origin.line("example origin: ")).split()[-1]
        async with python(*LOCAL, environ=environment(**ALONE, UPSTREAM_URL=url)) as child:
            command = await child.line("curl -i ")
            assert address(child, "origin") == url.removeprefix("http://")
            fields, page = await try_it(command)
            assert "<h1>Example origin</h1>" in page
            assert "siding" in fields["Via"]
            child.send(signal.SIGTERM)
            assert await child.end() == 0
        assert "example origin: " not in child.output
        assert listens(url.removeprefix("http://"))


async def test_a_proxy_that_refuses_to_start_takes_the_origin_with_it(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[[route]]\nmatch = 5\n")
    async with python(*LOCAL, environ=environment(**ALONE, RULES_FILE=str(rules))) as child:
        origin = (await child.line("example origin: ")).rpartition("http://")[2]
        assert await child.end() == 2
    assert "siding: the proxy ended with status 2; stopping the rest" in child.lines
    assert "Siding is up" not in child.output
    assert "Traceback" not in child.output
    assert not listens(origin)
