"""The files of a deployment as data: variables with their references replaced as the platform would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.settings import MonitorSettings, ProxySettings, Settings
from tests.deploy.processes import ROOT

DEPLOY = ROOT / "deploy"
RAILWAY = DEPLOY / "railway"
MODELS: Mapping[str, type[Settings]] = {"proxy": ProxySettings, "monitor": MonitorSettings}
HEX = "0123456789abcdef" * 4
REFERENCES = {
    "backend.RAILWAY_PRIVATE_DOMAIN": "backend.railway.internal",
    "monitor.RAILWAY_PRIVATE_DOMAIN": "monitor.railway.internal",
    "proxy.RAILWAY_PRIVATE_DOMAIN": "proxy.railway.internal",
    "Postgres.DATABASE_URL": "postgresql://postgres:pw@postgres.railway.internal:5432/railway",
    "Redis.REDIS_URL": "redis://default:pw@redis.railway.internal:6379",
    "shared.SIDING_ADMIN_TOKEN": HEX,
    "shared.SIDING_CACHE_SECRET": HEX,
}
"""What Railway puts in: https://docs.railway.com/variables/reference"""


def variables_of(model: type[Settings]) -> frozenset[str]:
    """The variables of a service's settings."""
    return frozenset(name.upper() for name in model.model_fields)


def read_env(path: Path) -> dict[str, str]:
    """NAME=VALUE lines; a # begins a comment line."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def on_railway(service: str) -> dict[str, str]:
    """The environment of a service. Raises KeyError for a reference to what is not there."""
    return {
        name: re.sub(r"\$\{\{(.*?)\}\}", lambda found: REFERENCES[found[1].strip()], value)
        for name, value in read_env(RAILWAY / f"{service}.env").items()
    }


def compose() -> dict[str, Any]:
    """The compose file."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return document


def interpolated(value: str, environ: Mapping[str, str]) -> str:
    """`${NAME:?why}`, `${NAME:-word}` and `${NAME}`, as Compose does. Raises KeyError for what has to be given."""
    pattern = re.compile(r"\$\{(\w+)(?::([?-])((?:[^{}]|\$\{\w+\})*))?\}")

    def replaced(found: re.Match[str]) -> str:
        if environ.get(found[1]) or found[2] != "-":
            return environ[found[1]]
        return interpolated(found[3], environ)

    return pattern.sub(replaced, value)
