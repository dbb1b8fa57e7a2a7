"""Dashboards, rules and alerts against a real Prometheus that scrapes the running stack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from aiohttp import ClientError, ClientSession

from config.listen import spare_port
from deploy.asking import ways
from deploy.check.monitor import grade
from deploy.grafana import build
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Board, Panel
from deploy.postgres import running
from proxy.observe.metrics import HITS, MISSES
from tests.bouncers import pgbouncer_for
from tests.deploy.processes import PATIENCE, ROOT
from tests.deploy.stacks import Up, running_stack
from tests.programs import program

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yml").read_text())["groups"][0]["rules"]
RECORDED = yaml.safe_load((PROMETHEUS / "rules" / "recording.yml").read_text())["groups"][0]["rules"]
AT_ONCE = 12
PANELS = [(board, panel) for board in BOARDS for row in board.rows.values() for panel in row]


def words(board: Board, query: str) -> str:
    """As Grafana fills it in."""
    query = query.replace("$__rate_interval", "1m").replace("$__interval", "1m")
    for name, (_, default) in (board.texts or {}).items():
        query = query.replace(f"${name}", default)
    return query


# -- the files


def test_the_dashboards_are_those_of_the_panels() -> None:
    kept = {path.name: path.read_text() for path in build.FOLDER.glob("*.json")}
    assert kept == dict(build.files()), "run: python -m deploy.grafana.build"


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda one: getattr(one, "title", ""))
def test_every_panel_says_what_to_do(board: Board, panel: Panel) -> None:
    assert len(panel.help) > 40
    document = json.loads((build.FOLDER / f"{board.uid.removeprefix('siding-')}.json").read_text())
    (built,) = [one for one in document["panels"] if one["title"] == panel.title and one["type"] != "row"]
    assert built["description"] == panel.help
    assert [one["expr"] for one in built["targets"]] == list(panel.queries.values())


def test_what_is_referred_to_is_there() -> None:
    """Other panels and dashboards that a help or the runbook names in quotation marks."""
    titles = {panel.title for _, panel in PANELS} | {board.uid.removeprefix("siding-") for board in BOARDS}
    runbook = (PROMETHEUS / "RUNBOOK.md").read_text()
    named = {
        name for _, panel in PANELS for name in re.findall(r"(?<!\w)'([A-Z][^']*(?:'s [^']*)?)'(?!\w)", panel.help)
    }
    named |= {" ".join(name.split()) for name in re.findall(r'"([^"]+)"', runbook)}
    assert len(named) > 8
    assert named <= titles


def test_dashboards_show_when_flags_were_switched() -> None:
    for path in build.FOLDER.glob("*.json"):
        (annotation,) = json.loads(path.read_text())["annotations"]["list"]
        assert annotation["expr"] == build.FLAGS_CHANGED
        assert annotation["titleFormat"] == "{{flag}} switched"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_section_in_the_runbook(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    parts = re.split(r"^## (\w+)$", (ROOT / path).read_text(), flags=re.MULTILINE)
    sections = dict(zip(map(str.lower, parts[1::2]), parts[2::2], strict=True))
    assert anchor == alert["alert"].lower()
    for step in ("**Look**", "**Do**", "**Undo**"):
        assert step in sections[anchor]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules/alerts.yml"),
        ("test", "rules", "rules/tests.yml"),
    ],
)
def test_promtool_finds_nothing(arguments: tuple[str, ...]) -> None:
    tool = program("promtool")
    done = subprocess.run(
        [tool.path, *arguments], cwd=PROMETHEUS, env=dict(tool.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_made_to_fire_and_to_stay_silent() -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules" / "tests.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    names = {alert["alert"] for alert in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_provisioning_is_yaml_that_names_what_is_there() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "siding.yaml").read_text())["providers"]
    assert provider["type"] == "file"


def test_the_hit_rate_is_that_of_the_cache_document() -> None:
    """The rules name outcomes; the proxy's own document counts the same."""
    rules = {rule["record"]: rule["expr"] for rule in RECORDED}

    def outcomes(expression: str) -> set[str]:
        (found,) = re.findall(r'outcome=~"([^"]+)"', expression)
        return set(found.split("|"))

    assert outcomes(rules["siding:hit_ratio:rate5m"]) == {one.value for one in HITS}
    assert outcomes(rules["siding:lookups:rate5m"]) == {one.value for one in HITS | MISSES}


def test_workers_of_one_service_are_not_told_apart_by_alerts() -> None:
    """A gauge that each of several workers has gives one alert, not one for each."""
    for alert in ALERTS:
        for metric in re.findall(r"\bsiding_[a-z_]+", alert["expr"]):
            if metric.startswith("siding_pool"):
                continue  # the monitor has one worker
            assert re.search(rf"(max|min|sum) by \([a-z, ]+\) \([a-z]*\(?{metric}", alert["expr"]), alert["alert"]


def test_a_heatmap_has_durations_on_its_axis_and_numbers_in_its_cells() -> None:
    heatmaps = [
        panel
        for path in build.FOLDER.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] == "heatmap"
    ]
    assert heatmaps
    for panel in heatmaps:
        assert panel["options"]["yAxis"]["unit"] == "s"
        assert panel["options"]["calculate"] is False
        assert panel["fieldConfig"]["defaults"]["unit"] == "short"
        assert {target["format"] for target in panel["targets"]} == {"heatmap"}


def test_no_limit_is_stacked_on_what_it_limits() -> None:
    """It would be drawn that much too high, and nothing ever come near it."""
    stacked = [(panel, query) for _, panel in PANELS if panel.kind == "bars" for query in panel.queries.values()]
    assert stacked
    for panel, query in stacked:
        assert not re.search(r"_(max|limit)\b", query), panel.title


# -- the expressions


async def declared(client: ClientSession, up: Up) -> set[str]:
    """Names of the samples that the services have, or will have."""
    names = set()
    for url in (up.admin, up.monitor):
        async with client.get(f"{url}/metrics") as answer:
            found = re.findall(r"^# TYPE (\S+) (\S+)$", await answer.text(), flags=re.MULTILINE)
        for name, kind in found:
            names |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    return names


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    plain = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:siding|process|python)[a-z_:0-9]+", plain))


class Prometheus:
    """A real one. client -- to ask it with."""

    def __init__(self, client: ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def ask(self, query: str) -> list[Any]:
        """The instant vector, without what is not a number; the expression must be right."""
        async with self._client.get(f"{self._url}/api/v1/query", params={"query": query}) as answer:
            document = await answer.json()
        assert document["status"] == "success", f"{query}: {document}"
        return [one for one in document["data"]["result"] if one["value"][1] != "NaN"]

    async def until(self, query: str) -> None:
        """There is something."""
        async with asyncio.timeout(2 * PATIENCE):
            while not await self.ask(query):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def running_prometheus(folder: Path, up: Up, client: ClientSession) -> AsyncIterator[Prometheus]:
    """Scrapes the stack four times a second, with the rules as they are."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    config["rule_files"] = [str(PROMETHEUS / path) for path in config["rule_files"]]
    targets = {"siding-proxy": up.admin, "siding-monitor": up.monitor}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]].removeprefix("http://")]}]
    # a quick copy of the recording rules' group
    recording = yaml.safe_load((PROMETHEUS / "rules" / "recording.yml").read_text())
    recording["groups"][0]["interval"] = "250ms"
    (folder / "recording.yml").write_text(yaml.safe_dump(recording))
    config["rule_files"][0] = str(folder / "recording.yml")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, found = spare_port(), program("prometheus")
    process = await asyncio.create_subprocess_exec(
        *(found.path, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
        env=dict(found.environ),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(ClientError):
                    async with client.get(f"{url}/-/ready") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        yield Prometheus(client, url)
    finally:
        process.terminate()
        await process.wait()


async def traffic(client: ClientSession, up: Up, users: Iterator[int]) -> None:
    """Something of everything that is counted."""
    credential = {"Authorization": "Bearer demo"}
    for path in ("/", "/api/subjects", "/api/leaderboard", "/api/announcements", "/api/homework", "/status/503"):
        async with client.get(up.proxy + path, headers=credential) as answer:
            tag = answer.headers.get("ETag", '"none"')
            await answer.read()
        async with client.get(up.proxy + path, headers={**credential, "If-None-Match": tag}) as answer:
            await answer.read()
    # more at once than there are connections, so that some are made
    await asyncio.gather(*(query(client, up, f"u{next(users)}") for _ in range(AT_ONCE)))


async def query(client: ClientSession, up: Up, user: str) -> None:
    async with client.get(f"{up.monitor}/api/queries/report-exists", params={"userId": user}) as answer:
        assert answer.status == 200


async def report(client: ClientSession, up: Up, day: int) -> None:
    content = {"userId": "demo", "startDate": "2025-09-01", "endDate": f"2025-10-{day:02}"}
    where = f"{up.proxy}/api/parent-reports/generate"
    async with client.post(where, json=content, headers={"Authorization": "Bearer demo"}) as answer:
        await answer.read()


async def test_the_readme_names_every_metric() -> None:
    """By itself, or as one of `siding_server_*` and the like."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(siding_[a-z_]+\*?)", readme)
    whole = {name for name in named if not name.endswith("*")}
    parts = tuple(name.removesuffix("*") for name in named if name.endswith("*"))
    async with running_stack() as up, ClientSession() as client:
        there = {re.sub("_(bucket|count|sum)$", "", name) for name in await declared(client, up)}
    ours = {name for name in there if name.startswith("siding_")}
    assert {name for name in ours if name not in whole and not name.startswith(parts)} == set()


async def test_no_panel_and_no_rule_is_empty(tmp_path: Path, open_folder: Path) -> None:
    async with (
        asyncio.timeout(8 * PATIENCE),
        running() as postgres,
        pgbouncer_for(postgres, open_folder) as bouncer,
        running_stack(SHADOW_SAMPLE_RATE="1", PGBOUNCER_ADMIN_URL=bouncer.url("pgbouncer")) as up,
        ClientSession() as client,
        running_prometheus(tmp_path, up, client) as prometheus,
        ways([up.monitor], 30) as (monitor,),
    ):
        assert monitor is not None
        through = await asyncpg.connect(bouncer.url("postgres"), statement_cache_size=0)
        users = iter(range(100_000))
        # the pool grows once: what is counted before the monitor is first looked at is no rise
        await prometheus.until("siding_pool_connections_max")
        async with client.patch(f"{up.admin}/api/flags", json={"ENABLE_ETAG": False}) as answer:
            assert answer.status == 200
        await prometheus.until('siding_flag{flag="ENABLE_ETAG"} == 0')
        async with client.patch(f"{up.admin}/api/flags", json={"ENABLE_ETAG": True}) as answer:
            assert answer.status == 200
        for day in (1, 2):
            # counters that begin are seen to rise only from the second time on
            await asyncio.gather(
                traffic(client, up, users), grade(monitor), *(report(client, up, day) for _ in range(5))
            )
            await report(client, up, day)
            await prometheus.until("siding_collapsed_requests_total")
            await prometheus.until("siding_grading_tokens_total")
        await traffic(client, up, users)
        await prometheus.until("siding_grading_quality_agreement_ratio")
        await prometheus.until("siding:hit_ratio:rate5m")
        await prometheus.until("siding:request_duration_seconds:p95_5m")
        await prometheus.until("siding_server_statement_seconds_total")

        async def faults() -> list[str]:
            return [
                f"{board.title}, {panel.title}: {query}"
                for board, panel in PANELS
                for query in panel.queries.values()
                if not await prometheus.ask(words(board, query))
            ] + [rule["record"] for rule in RECORDED if not await prometheus.ask(rule["expr"])]

        # rates need two scrapes of what was counted last
        empty = await faults()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while empty:
                    await traffic(client, up, users)
                    await through.execute("SELECT 1")
                    await asyncio.sleep(0.3)
                    empty = await faults()
        assert empty == []

        # `or vector(0)` is never empty, so the names must be right, too
        known = await declared(client, up) | {rule["record"] for rule in RECORDED}
        for board, panel in PANELS:
            for query in panel.queries.values():
                assert metrics_in(query) <= known, f"{board.title}, {panel.title}"
        assert await prometheus.ask(build.FLAGS_CHANGED), "the flag was switched, and no mark says so"

        scraped = {one["metric"]["__name__"] for one in await prometheus.ask('{job=~"siding-.*"}')}
        derived = {rule["record"] for rule in RECORDED}
        for alert in ALERTS:
            await prometheus.ask(alert["expr"])
            for metric in metrics_in(alert["expr"]):
                assert metric in scraped | derived, f"{alert['alert']}: there is no {metric}"
        await through.close()
        fired = await prometheus.ask('ALERTS{alertname="SidingFlagChanged", flag="ENABLE_ETAG"}')
        assert fired, "the flag was switched, and no alert says so"
