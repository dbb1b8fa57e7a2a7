"""The files that a deployment is made of agree with the code, with each other, and with what platforms document."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.flags import FlagName
from config.load import SettingsError, read
from config.rules import load_rules
from config.settings import MonitorSettings, ProxySettings
from deploy.check import command as check
from deploy.docker import healthy
from deploy.rollback import command as rollback
from deploy.rollback import switches
from proxy.server.local import REPORT_CACHE
from tests.deploy.deployment import (
    DEPLOY,
    MODELS,
    RAILWAY,
    compose,
    interpolated,
    on_railway,
    read_env,
    variables_of,
)
from tests.deploy.processes import ROOT
from tests.programs import program

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STOPPING_SECONDS = 5.0
"""What stopping takes beside DRAIN_SECONDS."""

# https://docs.railway.com/config-as-code/reference; numReplicas as Railway shows it in a deployment's own configuration
RAILWAY_KEYS: Mapping[str, Mapping[str, type | tuple[str, ...]]] = {
    "build": {"builder": ("DOCKERFILE",), "dockerfilePath": str, "watchPatterns": list},
    "deploy": {
        "startCommand": str,
        "healthcheckPath": str,
        "healthcheckTimeout": int,
        "restartPolicyType": ("ON_FAILURE", "ALWAYS", "NEVER"),
        "numReplicas": int,
        "overlapSeconds": int,
        "drainingSeconds": int,
    },
}
COMPOSE_ENV = dict.fromkeys(("ADMIN_TOKEN", "CACHE_SECRET", "POSTGRES_PASSWORD"), "x" * 32) | {
    "UPSTREAM_URL": "http://host.docker.internal:3000"
}
EXPOSURE = 1.5
"""By `systemd-analyze security`; 0 is nothing, 10 all that there is."""


def railway(service: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RAILWAY / f"{service}.railway.json").read_text(encoding="utf-8"))
    return document


# -- Railway


@pytest.mark.parametrize("service", MODELS)
def test_railway_knows_every_key(service: str) -> None:
    document = railway(service)
    assert document.pop("$schema") == "https://railway.com/railway.schema.json"
    assert set(document) == set(RAILWAY_KEYS)
    for section, keys in RAILWAY_KEYS.items():
        assert set(document[section]) == set(keys)
        for name, kind in keys.items():
            value = document[section][name]
            assert value in kind if isinstance(kind, tuple) else type(value) is kind, name


@pytest.mark.parametrize("service", MODELS)
def test_railway_builds_starts_and_stops_it(service: str) -> None:
    build, deploy = railway(service)["build"], railway(service)["deploy"]
    assert (ROOT / build["dockerfilePath"]).is_file()
    # in exec form, so that SIGTERM reaches it
    assert deploy["startCommand"] in PROJECT["scripts"]
    assert deploy["drainingSeconds"] >= float(on_railway(service)["DRAIN_SECONDS"]) + STOPPING_SECONDS
    assert deploy["overlapSeconds"] > 0


@pytest.mark.parametrize("service", MODELS)
def test_railway_watches_what_the_service_is_made_of(service: str) -> None:
    patterns = [pattern.lstrip("/") for pattern in railway(service)["build"]["watchPatterns"]]
    watched = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert all(any(ROOT.glob(pattern)) for pattern in patterns)
    own = "proxy" if service == "proxy" else "pool_monitor"
    made_of = [*(ROOT / "config").rglob("*.py"), *(ROOT / own).rglob("*.py"), ROOT / "requirements.lock"]
    made_of += [DEPLOY / "docker" / "Dockerfile", RAILWAY / f"{service}.railway.json"]
    missing = [path for path in made_of if not {path, *path.parents} & watched]
    assert missing == []


@pytest.mark.parametrize("service", MODELS)
def test_railway_variables_are_settings_that_hold(service: str) -> None:
    environ = on_railway(service)
    assert set(environ) <= variables_of(MODELS[service])
    settings = read(MODELS[service], [], environ, prog=service)
    assert settings.model_dump()["host"] == "::"


def test_week_1_begins_with_the_query_cache_alone() -> None:
    for service, others in {"proxy": {"COMPRESSION", "ETAG"}, "monitor": {"COMPLETION_CACHE"}}.items():
        flags = {name: value for name, value in on_railway(service).items() if name in set(FlagName)}
        off = {f"ENABLE_{name}" for name in {"REDIS_CACHE", "DEDUP", *others}}
        off |= {"BYPASS"} | ({"USE_OPTIMIZED_PROMPTS"} if service == "monitor" else set())
        assert flags == {"ENABLE_QUERY_CACHE": "true", **dict.fromkeys(off, "false")}


def test_railway_asks_the_public_port_what_the_proxy_answers_itself() -> None:
    settings = read(ProxySettings, [], on_railway("proxy"), prog="proxy")
    assert railway("proxy")["deploy"]["healthcheckPath"] == REPORT_CACHE
    assert settings.public_metrics
    assert railway("monitor")["deploy"]["healthcheckPath"] == "/healthz"


def test_railway_services_find_each_other() -> None:
    proxy = read(ProxySettings, [], on_railway("proxy"), prog="proxy")
    monitor = read(MonitorSettings, [], on_railway("monitor"), prog="monitor")
    assert monitor.proxy_admin_url == f"http://proxy.railway.internal:{proxy.admin_port}"
    assert monitor.proxy_admin_token == proxy.admin_token
    assert proxy.admin_host == "::"
    # what the database says is not for everybody
    assert proxy.pool_monitor_url is None
    if railway("proxy")["deploy"]["numReplicas"] > 1:
        assert proxy.redis_url is not None
        assert proxy.cache_secret is not None


@pytest.mark.parametrize("name", ["SIDING_ADMIN_TOKEN", "SIDING_CACHE_SECRET"])
def test_a_function_of_templates_that_railway_did_not_replace_is_no_secret(name: str) -> None:
    literal = read_env(RAILWAY / "shared.env")[name]
    assert literal.startswith("${{secret(64,")
    with pytest.raises(SettingsError, match="ADMIN_TOKEN"):
        read(ProxySettings, [], {**on_railway("proxy"), "ADMIN_TOKEN": literal}, prog="proxy")


def test_the_rules_of_the_image_hold_and_are_where_the_variables_say() -> None:
    (route,) = load_rules(DEPLOY / "site" / "rules.toml", 300.0).describe()
    assert route["match"] == "/api/parent-reports/generate"
    assert ("COPY", "deploy/site /etc/siding") in dockerfile()
    assert on_railway("proxy")["RULES_FILE"] == "/etc/siding/rules.toml"
    assert "./site:/etc/siding:ro" in compose()["services"]["proxy"]["volumes"]


# -- the plan's numbers, and PgBouncer


def test_the_plans_numbers_are_the_defaults() -> None:
    environ = on_railway("monitor")
    given = read(MonitorSettings, [], environ, prog="monitor").model_dump()
    usual = MonitorSettings().model_dump()
    numbers = [name.lower() for name in environ if name.startswith("DB_")]
    assert len(numbers) == 6
    assert {name: given[name] for name in numbers} == {name: usual[name] for name in numbers}


def test_pgbouncers_numbers_are_the_monitors() -> None:
    folder = DEPLOY / "pgbouncer"
    place = (folder / "pgbouncer.ini").read_text(encoding="utf-8")
    ini = configparser.ConfigParser(comment_prefixes=(";",), interpolation=None)
    ini.read_string(place.replace("%include /etc/pgbouncer/siding.ini", (folder / "siding.ini").read_text("utf-8")))
    bouncer, usual = ini["pgbouncer"], MonitorSettings()
    assert bouncer["pool_mode"] == "transaction"
    assert int(bouncer["default_pool_size"]) == int(bouncer["max_db_connections"]) == usual.db_pool_max
    assert int(bouncer["min_pool_size"]) == usual.db_pool_min
    assert int(bouncer["server_idle_timeout"]) * 1000 == usual.db_pool_idle_timeout_ms
    for name in ("query_wait_timeout", "server_connect_timeout"):
        assert int(bouncer[name]) * 1000 == usual.db_pool_connection_timeout_ms
    connect_query = f"connect_query='SET statement_timeout = {usual.db_statement_timeout_ms}'"
    assert connect_query in ini["databases"]["siding"]
    assert int(bouncer["query_timeout"]) * 1000 > usual.db_statement_timeout_ms
    # compose.yaml has a place of its own
    assert connect_query in compose()["configs"]["pgbouncer.ini"]["content"]
    assert "PUT-IN" in (DEPLOY / "pgbouncer" / "userlist.txt").read_text(encoding="utf-8")


# -- the image


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions with their arguments."""
    text = re.sub(r"^ *#.*\n", "", (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_is_built_from_the_locks_in_two_stages() -> None:
    text = dockerfile()
    stages = [rest for word, rest in text if word == "FROM"]
    assert stages == ["python:${PYTHON}-bookworm AS build", "python:${PYTHON}-slim-bookworm"]
    installs = [rest for word, rest in text if word == "RUN" and " install " in rest and "pip" in rest]
    assert all("--require-hashes" in rest or "--no-index" in rest for rest in installs)
    assert len(installs) == 4
    assert [rest for word, rest in text if word == "COPY" and "--from" in rest] == [
        "--from=build /opt/siding /opt/siding"
    ]


def test_the_image_runs_without_root_and_without_a_shell() -> None:
    text = dockerfile()
    last = text[max(index for index, (word, _) in enumerate(text) if word == "FROM") :]
    said = dict(last)
    assert said["USER"] == "10001:10001"
    command = json.loads(said["CMD"])
    assert command[0] in PROJECT["scripts"]
    assert not any(word == "ENTRYPOINT" for word, _ in last)
    check = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    assert check == ["python", "-m", healthy.__name__]
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert "9090" not in said["EXPOSE"].split()


def test_every_source_of_the_image_is_there_and_goes_to_the_builder() -> None:
    sources = [
        source for word, rest in dockerfile() if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    ]
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    for source in sources:
        assert (ROOT / source).exists(), source
        assert {source, source.partition("/")[0]} & sent, source
    assert {source.partition("/")[0] for source in sources} == sent


def test_what_compiles_is_locked_as_for_development() -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", path.read_text(encoding="utf-8"), re.MULTILINE))

    lock = DEPLOY / "docker" / "compile.lock"
    assert {pin.partition("==")[0] for pin in pins(lock)} >= {"mypy", "setuptools"}
    assert pins(lock) <= pins(ROOT / "requirements-dev.lock")
    assert "://" not in lock.read_text(encoding="utf-8")
    (compiling,) = [rest for word, rest in dockerfile() if "deploy.compile" in rest]
    assert 'if [ "${COMPILED}" = yes ]; then' in compiling
    assert ("ARG", "COMPILED=yes") in dockerfile(), "what is measured is what is shipped"


def test_what_builds_the_wheel_is_locked() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = (DEPLOY / "docker" / "build.lock").read_text(encoding="utf-8")
    for requirement in config["build-system"]["requires"]:
        assert re.search(rf"^{re.split('[<>=~]', requirement)[0]}==[0-9.]+ \\$", lock, re.MULTILINE)
    assert "://" not in lock
    assert all("--hash=sha256:" in one for one in re.split(r"\n(?=\S)", lock) if "==" in one and one[0] != "#")


@pytest.mark.parametrize(
    ("command", "environ", "url"),
    [
        ("/opt/siding/bin/python /opt/siding/bin/siding-proxy ", {}, "http://127.0.0.1:9090/readyz"),
        ("siding-proxy", {"ADMIN_HOST": "::", "ADMIN_PORT": "9999", "PORT": "1"}, "http://127.0.0.1:9999/readyz"),
        ("siding-proxy", {"ADMIN_HOST": "fd00::7"}, "http://[fd00::7]:9090/readyz"),
        ("/sbin/docker-init -- siding-monitor", {"PORT": "8099"}, "http://127.0.0.1:8099/healthz"),
        ("python -m pool_monitor", {"HOST": "10.0.0.7"}, "http://10.0.0.7:8081/healthz"),
    ],
)
def test_the_health_check_asks_the_service_that_runs(command: str, environ: dict[str, str], url: str) -> None:
    assert healthy.url(command, environ) == url


# -- compose.yaml


def test_images_are_pinned_and_ports_are_this_machines_alone() -> None:
    for name, service in compose()["services"].items():
        assert "build" in service or re.search(r":v?\d+\.\d+(\.\d+)?[-\w.]*$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or service["image"] == "siding", name


@pytest.mark.parametrize("service", MODELS)
def test_compose_variables_are_settings_that_hold(service: str) -> None:
    said = compose()["services"][service]
    environ = {name: interpolated(value, COMPOSE_ENV) for name, value in said["environment"].items()}
    assert set(environ) <= variables_of(MODELS[service])
    environ.pop("GRADING_DATA_DIR", None)  # of the container
    read(MODELS[service], [], environ, prog=service)
    assert float(said["stop_grace_period"].removesuffix("s")) >= float(environ["DRAIN_SECONDS"]) + STOPPING_SECONDS
    assert said["read_only"] is True
    assert said["cap_drop"] == ["ALL"]


def test_compose_holds_no_secret_and_asks_for_each() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for name in ("ADMIN_TOKEN", "CACHE_SECRET", "POSTGRES_PASSWORD"):
        assert f"${{{name}:?" in text
        assert f"{name}:-" not in text
    for said in re.findall(r"^ +(\w*(?:TOKEN|SECRET|PASSWORD)\w*): (.*)$", text, re.MULTILINE):
        assert said[1].startswith("${"), said[0]
    assert "/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_compose_mounts_what_is_there() -> None:
    document = compose()
    for service in document["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith("./") else source in document["volumes"], mount
        for config in service.get("configs", []):
            assert config["source"] in document["configs"]
        assert set(service.get("depends_on", [])) <= set(document["services"])


def test_prometheus_and_grafana_name_the_services_of_compose() -> None:
    services = compose()["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [one for job in scraped["scrape_configs"] for of in job["static_configs"] for one in of["targets"]]
    assert targets == [f"proxy:{ProxySettings.model_fields['admin_port'].default}", f"monitor:{MonitorSettings().port}"]
    sources = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(sources.read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {"proxy", "monitor", "prometheus"} <= set(services)
    provider = DEPLOY / "grafana" / "provisioning" / "dashboards" / "siding.yaml"
    (dashboards,) = yaml.safe_load(provider.read_text(encoding="utf-8"))["providers"]
    mounts = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    assert dashboards["options"]["path"] in mounts


# -- systemd


def unit(service: str) -> str:
    return (DEPLOY / "systemd" / f"siding-{service}.service").read_text(encoding="utf-8")


@pytest.mark.parametrize("service", MODELS)
def test_a_unit_starts_the_service_and_lets_it_drain(service: str) -> None:
    said = dict(line.split("=", 1) for line in unit(service).splitlines() if re.match(r"[A-Z]\w+=", line))
    assert Path(said["ExecStart"]).name in PROJECT["scripts"]
    drain = MODELS[service].model_fields["drain_seconds"].default
    assert float(said["TimeoutStopSec"]) >= drain + STOPPING_SECONDS
    assert said["RestartPreventExitStatus"] == "2"
    for name in re.findall(r"^Environment=(\w+)=", unit(service), re.MULTILINE):
        assert name in variables_of(MODELS[service])


@pytest.mark.parametrize("service", MODELS)
def test_systemd_takes_a_unit_and_finds_it_hardened(service: str, tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    path = tmp_path / f"siding-{service}.service"
    # what it stands on, for machines without systemd
    for name in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        (tmp_path / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    # it looks whether the program is there
    path.write_text(re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", unit(service), flags=re.MULTILINE))

    def run(command: str) -> str:
        done = subprocess.run(
            [analyze.path, *shlex.split(command), str(path)],
            env={**analyze.environ, "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_UNIT_PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert run("verify") == ""
    found = re.search(r"exposure level for siding-\w+\.service: ([0-9.]+)", run("security --offline=true --no-pager"))
    assert found is not None
    assert float(found[1]) <= EXPOSURE


# -- the guide


@pytest.mark.parametrize(
    ("document", "fewest"), [("deploy/README.md", 10), ("deploy/prometheus/RUNBOOK.md", 8), ("README.md", 3)]
)
def test_the_commands_of_the_documents_are_understood(document: str, fewest: int) -> None:
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ").replace("NAME=", "BYPASS=")
    parsers = {"check": check.parser(), "rollback": rollback.parser()}
    commands = re.findall(r"\bsiding (check|rollback)\b([^`\n]*)", text)
    assert len([words for _, words in commands if words.strip()]) >= fewest
    for name, words in commands:
        arguments = shlex.split(words)
        if not arguments:
            continue
        given = parsers[name].parse_args(arguments)
        if name == "rollback" and given.around:
            assert rollback.main([word for word in arguments if word != "--yes"], {}) == 0, words
        elif name == "rollback" and not (given.drill or given.here):
            assert switches.order(given.flag, given.set, everything=given.all, back=given.settings)


def test_what_the_guide_switches_on_while_it_runs_are_flags() -> None:
    guide = (DEPLOY / "README.md").read_text(encoding="utf-8")
    weeks = re.findall(r"^\| ([1-4]) \|([^|]*)\|([^|]*)\|[^|]*\|$", guide, re.MULTILINE)
    assert len(weeks) == 4
    for week, proxy, monitor in weeks:
        for name in re.findall(r"`(\w+)=true`", proxy + monitor):
            assert name in set(FlagName), (week, name)


def test_the_guide_names_what_there_is() -> None:
    guide = (DEPLOY / "README.md").read_text(encoding="utf-8")
    known = set().union(*map(variables_of, MODELS.values()))
    platform = {
        "RAILWAY_RUN_UID",
        "PORT",
        "DATABASE_URL",
        "OPENAI_BASE_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "API_URL",
        "POSTGRES_PASSWORD",
        "RAILWAY_PRIVATE_DOMAIN",
    }
    platform |= set(read_env(RAILWAY / "shared.env"))
    for name in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", guide):
        assert name in known | platform, name
    for name, value in re.findall(r"`([A-Z][A-Z0-9_]+)=([^`$ ]+)`", guide):
        for service, model in MODELS.items():
            if name in variables_of(model) - {"PORT"}:  # named as what not to do
                read(model, [], {**on_railway(service), name: value}, prog=service)
    alerts = (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text(encoding="utf-8")
    for name in re.findall(r"`(Siding[A-Z]\w+)`", guide):
        assert f"alert: {name}\n" in alerts, name
    for board, title in re.findall(r"\b(overview|pool|grading|redis|process): \*([^*]+)\*", guide):
        text = (DEPLOY / "grafana" / "dashboards" / f"{board}.json").read_text(encoding="utf-8")
        assert f'"title": "{title}"' in text, (board, title)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide):
        assert "://" in target or (DEPLOY / target).exists(), target
