"""`python -m deploy.grafana.build` makes `dashboards/*.json` of `boards`; it needs what the tests need."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef, VariableOption
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from config.output import say
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Board, Panel

FOLDER = Path(__file__).parent / "dashboards"
HEIGHT = 8
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
FLAGS_CHANGED = 'max by (job, instance, flag) (changes(siding_flag{job=~"siding-.*"}[2m])) > 0'
"""Longer than the step that annotations are asked with, or a change between two of its windows is never seen."""
FLAG_MARK = {"titleFormat": "{{flag}} switched", "textFormat": "{{job}} {{instance}}", "tagKeys": "flag", "step": "60s"}
"""What the mark says; the SDK has no words for it."""


def _query(expression: str, legend: str, number: int, panel: Panel) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").ref_id(chr(ord("A") + number))
    if panel.kind == "heat":
        return made.format(PromQueryFormat.HEATMAP)
    if panel.kind in {"list", "number"}:
        made = made.instant().format(PromQueryFormat.TABLE if panel.kind == "list" else PromQueryFormat.TIME_SERIES)
    return made


def _panel(panel: Panel) -> Any:
    match panel.kind:
        case "lines" | "bars":
            made: Any = (
                timeseries.Panel()
                .line_width(1)
                .fill_opacity(30 if panel.kind == "bars" else 5)
                .legend(
                    common.VizLegendOptions()
                    .display_mode(LegendDisplayMode.LIST)
                    .placement(LegendPlacement.BOTTOM)
                    .show_legend(True)
                )
                .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
                .min(0)
            )
            if panel.kind == "bars":
                made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        case "number":
            made = stat.Panel()
        case "heat":
            # buckets come from Prometheus; durations are on the axis, and in the cells is how many
            made = heatmap.Panel().calculate(False).y_axis(heatmap.YAxisConfig().unit(panel.unit))
        case "list":
            made = table.Panel()
        case other:
            raise ValueError(f"there is no kind {other!r} of panel")
    made = (
        made.title(panel.title)
        .description(panel.help)
        .datasource(SOURCE)
        .unit("short" if panel.kind == "heat" else panel.unit)
    )
    made = made.span(panel.width).height(HEIGHT)
    for number, (legend, expression) in enumerate(panel.queries.items()):
        made = made.with_target(_query(expression, legend, number, panel))
    return made


def board(made_of: Board) -> str:
    """One dashboard as JSON."""
    made = (
        dashboard.Dashboard(made_of.title)
        .uid(made_of.uid)
        .description(made_of.about)
        .tags(["siding"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .annotation(
            dashboard.AnnotationQuery()
            .name("flags switched")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("orange")
            .expr(FLAGS_CHANGED)
        )
        .link(dashboard.DashboardLink("Siding").tags(["siding"]).type(DashboardLinkType.DASHBOARDS).as_dropdown(True))
    )
    for name, (label, default) in (made_of.texts or {}).items():
        option = VariableOption(text=default, value=default, selected=True)
        made = made.with_variable(
            dashboard.TextBoxVariable(name).label(label).default_value(default).current(option).options([option])
        )
    for title, panels in made_of.rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    document = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    for annotation in document["annotations"]["list"]:
        annotation.update(FLAG_MARK)
    return json.dumps(document, sort_keys=True, indent=2) + "\n"


def files() -> Mapping[str, str]:
    """Every dashboard by its file's name."""
    return {f"{one.uid.removeprefix('siding-')}.json": board(one) for one in BOARDS}


def main() -> int:
    """Write them."""
    argparse.ArgumentParser(prog="python -m deploy.grafana.build", description=__doc__).parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        say(str(FOLDER / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
