"""What panels are made of: queries, and what to do when it looks bad. Grafana is known to `build` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PROXY, MONITOR = 'job="siding-proxy"', 'job="siding-monitor"'
FAILED = f'{PROXY}, status="5xx"'
BEFORE, AFTER, SPARED = (f'{MONITOR}, figure="{figure}"' for figure in ("before", "after", "spared"))
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """kind -- lines, bars (stacked lines), number, heat or list. unit -- Grafana's name of it.

    queries -- PromQL by legend. help -- what it means and what to do when it looks bad.
    """

    title: str
    kind: str
    unit: str
    queries: Mapping[str, str]
    help: str
    width: int = 12


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. rows -- panels by the title of their row."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, tuple[Panel, ...]]
    texts: Mapping[str, tuple[str, str]] | None = None
    """Text boxes: label and default by name."""


def rate(metric: str, selector: str, by: str = "") -> str:
    """Per second, summed."""
    inner = f"rate({metric}{{{selector}}}{RATE})"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def or_zero(query: str) -> str:
    """For what has no series before it happens the first time."""
    return f"({query}) or on() vector(0)"


def quantile(share: float, metric: str, selector: str, by: str = "") -> str:
    """Of a histogram, in seconds."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE})))"


def percentiles(metric: str, selector: str) -> dict[str, str]:
    """Three quantiles by their names."""
    return {f"p{share * 100:.0f}": quantile(share, metric, selector) for share in (0.5, 0.95, 0.99)}
