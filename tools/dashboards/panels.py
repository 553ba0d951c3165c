"""A panel as data, and a dashboard of rows of them, made with Grafana's own builders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

WIDTH = 24
"""Columns of Grafana's grid."""
TAG = "webvision-suite"

SOURCE = words.DataSourceRef(type_val="prometheus", uid="${datasource}")

Kind = Literal["stat", "graph", "bars", "stack", "steps", "table"]


@dataclass(frozen=True)
class Query:
    """One expression with the name of its series."""

    expr: str
    legend: str = ""
    column: str = ""
    """In a table: the heading of its values."""
    unit: str = ""
    """In a table or beside the panel's unit: that of its values."""
    decimals: int | None = None
    """In a table."""


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard. Text that a person reads in it is a sentence or a few words."""

    title: str
    text: str
    """What it shows and when that is bad."""
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "graph"
    width: int = 8
    red_above: tuple[float, float] | None = None
    """Yellow from the first, red from the second."""
    red_below: tuple[float, float] | None = None
    """Red below the first, yellow below the second."""
    names: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Text and colour that stand for a number."""
    no_value: str = ""
    """What stands there when there is no series."""
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    empty: str = ""
    """Why a healthy system may have no series here; none: it must have one."""
    shown: Literal["auto", "name", "value_and_name"] = "auto"
    """Of a figure: whether what the series is called stands there too, or alone."""
    link: str = ""
    """Uid of the dashboard that a row of a table leads to, by its job."""


@dataclass(frozen=True)
class Row:
    """A heading, and panels below it, left to right."""

    title: str
    panels: tuple[Panel, ...]
    height: int = 7


@dataclass(frozen=True)
class Variable:
    """A choice at the top, from a label."""

    name: str
    label: str
    query: str
    multi: bool = True
    all_value: str = ".*"
    """What `All` stands for; nothing: the listed values, which others may have narrowed down."""


@dataclass(frozen=True)
class Board:
    """A whole dashboard."""

    uid: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    since: str
    annotation: Query | None = None

    @property
    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


def render(board: Board, others: Sequence[Board]) -> str:
    """The dashboard as JSON that Grafana imports; the same bytes each time."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags([TAG])
        .editable()
        .refresh("1m")
        .time(board.since, "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source")
                       .type("prometheus"))
    )  # fmt: skip
    for variable in board.variables:
        made.with_variable(_variable(variable))
    for other in others:
        if other.uid != board.uid:
            made.link(
                dashboard.DashboardLink(other.title)
                .type(model.DashboardLinkType.LINK)
                .url(f"/d/{other.uid}")
                .include_vars(True)
                .keep_time(True)
                .icon("dashboard")
            )
    if board.annotation is not None:
        made.annotation(_annotation(board.annotation))
    _lay_out(made, board.rows)
    text = JSONEncoder(sort_keys=True, indent=2).encode(made.build())
    return json.dumps({**json.loads(text), "id": None}, indent=2, sort_keys=True) + "\n"


def _lay_out(made: dashboard.Dashboard, rows: Sequence[Row]) -> None:
    """Gives each panel its place and number; nothing is left to placement by the importer."""
    y, number = 0, 1
    for row in rows:
        made.with_row(dashboard.Row(row.title).id(number).grid_pos(place(0, y, WIDTH, 1)))
        x, y, number = 0, y + 1, number + 1
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + row.height
            made.with_panel(_panel(panel).id(number).grid_pos(place(x, y, panel.width, row.height)))
            x, number = x + panel.width, number + 1
        y += row.height


def place(x: int, y: int, width: int, height: int) -> model.GridPos:
    return model.GridPos(x=x, y=y, w=width, h=height)


def _variable(variable: Variable) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query({"query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .definition(variable.query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(variable.multi)
        .include_all(True)
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )
    return made.all_value(variable.all_value) if variable.all_value else made


def _annotation(query: Query) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Restarts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("orange")
        .expr(query.expr)
        .title_format(query.legend)
        .step("60s")
    )


def _panel(panel: Panel) -> Any:
    """The builder of a panel, of its kind."""
    made: Any
    if panel.kind == "stat":
        made = (
            stat.Panel()
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
            .graph_mode(words.BigValueGraphMode.NONE)
            .color_mode(words.BigValueColorMode.VALUE)
            .text_mode(words.BigValueTextMode(panel.shown))
        )
    elif panel.kind == "table":
        made = _table(panel)
    else:
        made = _graph(panel)
    made.title(panel.title).description(panel.text).datasource(SOURCE).unit(panel.unit)
    made.no_value(panel.no_value or ("-" if panel.kind == "table" else "no data"))
    for optional, setter in ((panel.decimals, made.decimals), (panel.least, made.min),
                             (panel.most, made.max)):  # fmt: skip
        if optional is not None:
            setter(optional)
    if panel.names:
        results = {
            str(number): model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (number, (text, colour)) in enumerate(panel.names.items())
        }
        made.mappings([model.ValueMap(options=results)])
    made.thresholds(_thresholds(panel))
    for number, query in enumerate(panel.queries):
        made.with_target(_target(query, chr(ord("A") + number), panel.kind))
        if query.unit and panel.kind != "table":
            properties = [model.DynamicConfigValue(id_val="unit", value=query.unit)]
            made.override_by_query(chr(ord("A") + number), properties)
    return made


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=None, color="green" if panel.kind == "graph" else "text")]
    if panel.red_above is not None:
        yellow, red = panel.red_above
        steps = [model.Threshold(value=None, color="green"),
                 model.Threshold(value=yellow, color="yellow"),
                 model.Threshold(value=red, color="red")]  # fmt: skip
    if panel.red_below is not None:
        red, yellow = panel.red_below
        steps = [model.Threshold(value=None, color="red"),
                 model.Threshold(value=red, color="yellow"),
                 model.Threshold(value=yellow, color="green")]  # fmt: skip
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _graph(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .show_points(words.VisibilityMode.NEVER)
        .span_nulls(False)
        .line_width(1)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(words.TooltipDisplayMode.MULTI)
            .sort(words.SortOrder.DESCENDING)
        )
    )
    if panel.kind in ("stack", "bars"):
        made.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL).group("A"))
        made.fill_opacity(40)
    if panel.kind == "bars":
        made.draw_style(words.GraphDrawStyle.BARS).fill_opacity(70)
    if panel.kind == "steps":
        made.line_interpolation(words.LineInterpolation.STEP_AFTER)
    return made


def _table(panel: Panel) -> table.Panel:
    """Columns of several queries side by side, joined by the job."""
    names = {"training_job": "job", "budget": "budget", "model": "model"}
    letters = [chr(ord("A") + number) for number in range(len(panel.queries))]
    columns = {f"Value #{letter}": query.column
               for letter, query in zip(letters, panel.queries, strict=True)}  # fmt: skip
    labels = {name for query in panel.queries for name in re.findall(r"\b\w+\b", query.legend)}
    shown = [name for name in names if name in labels] + sorted(labels - set(names))
    made = (
        table.Panel()
        .with_transformation(model.DataTransformerConfig(
            id_val="joinByField", options={"byField": shown[0], "mode": "outer"}
        ))
        .with_transformation(model.DataTransformerConfig(
            id_val="filterFieldsByName",
            options={"include": {"names": [*shown, *columns]}},
        ))
        .with_transformation(model.DataTransformerConfig(
            id_val="organize",
            options={
                "renameByName": {**{key: names.get(key, key) for key in shown}, **columns},
                "indexByName": {name: at for at, name in enumerate([*shown, *columns])},
            },
        ))
    )  # fmt: skip
    if len(panel.queries) > 1 or panel.queries[0].column:
        made.sort_by([common.TableSortByFieldState().display_name(panel.queries[0].column)
                      .desc(True)])  # fmt: skip
    for query in panel.queries:
        told = {"unit": query.unit or None, "decimals": query.decimals}
        properties = [model.DynamicConfigValue(id_val=key, value=value)
                      for key, value in told.items() if value is not None]  # fmt: skip
        if properties:
            made.override_by_name(query.column, properties)
    if panel.link:
        url = f"/d/{panel.link}?var-training_job=${{__value.text}}&${{__url_time_range}}"
        value = [{"title": "Open the job", "url": url}]
        made.override_by_name("job", [model.DynamicConfigValue(id_val="links", value=value)])
    return made


def _target(query: Query, letter: str, kind: Kind) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE)
    if kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    if kind == "stat":
        return made.instant().legend_format(query.legend or "__auto")
    return made.range().legend_format(query.legend or "__auto")
