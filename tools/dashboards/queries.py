"""Runs every query of a dashboard's JSON as Grafana would: variables chosen, macros filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.dashboards.server import Prometheus, Refused

POINTS = 240
"""Of a graph: about what a panel of its width asks for."""


@dataclass(frozen=True)
class Span:
    """The range of time that a dashboard shows, in Unix seconds, and how often is scraped."""

    start: float
    end: float
    scrape_s: float

    @property
    def step_s(self) -> float:
        return max(self.scrape_s, round((self.end - self.start) / POINTS))

    @property
    def rate_s(self) -> float:
        """Grafana's $__rate_interval: always enough samples for a rate."""
        return max(self.step_s + self.scrape_s, 4 * self.scrape_s)


@dataclass(frozen=True)
class Answer:
    """What a query of a panel gave."""

    panel: Mapping[str, Any]
    target: Mapping[str, Any]
    expr: str
    series: list[dict[str, Any]]
    error: str = ""

    @property
    def where(self) -> str:
        return f"{self.panel['title']} {self.target['refId']}"


def panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those that ask something; rows are headings."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def choose(server: Prometheus, board: Mapping[str, Any], span: Span) -> dict[str, str]:
    """What each variable stands for where everything is chosen, by its own query."""
    chosen: dict[str, str] = {}
    for variable in board["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = _filled(variable["query"]["query"], chosen, span)
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        options = server.get(
            f"/api/v1/label/{found[2]}/values",
            **{"match[]": found[1], "start": span.start, "end": span.end},
        )
        assert options, f"nothing to choose for {variable['name']}: {query}"
        listed = "|".join(re.escape(option) for option in options)
        chosen[variable["name"]] = variable.get("allValue") or f"({listed})"
    return chosen


def run(
    server: Prometheus, board: Mapping[str, Any], span: Span, chosen: Mapping[str, str]
) -> Iterator[Answer]:
    """Every query of every panel, at the end of the span or over it as the panel asks."""
    for panel in panels(board):
        for target in panel["targets"]:
            expr = _filled(target["expr"], chosen, span)
            try:
                if target.get("instant"):
                    series = server.instant(expr, span.end)
                else:
                    start = span.start - span.start % span.step_s
                    series = server.over(expr, start, span.end, span.step_s)
            except Refused as error:
                yield Answer(panel, target, expr, [], str(error))
            else:
                yield Answer(panel, target, expr, series)


def _filled(expr: str, chosen: Mapping[str, str], span: Span) -> str:
    macros = {
        "__rate_interval": f"{round(span.rate_s)}s",
        "__interval": f"{round(span.step_s)}s",
        "__range": f"{round(span.end - span.start)}s",
    }
    for name, value in {**macros, **chosen}.items():
        # A backslash is one in a PromQL string only when doubled.
        expr = re.sub(rf"\${name}\b", value.replace("\\", "\\\\\\\\"), expr)
    assert "$" not in expr, f"a variable is left in {expr}"
    return expr


FUNCTIONS = re.compile(r"[a-zA-Z_:][\w:]*(?=\s*\()")
KEYWORDS = {
    *("by", "on", "and", "or", "unless", "group_left", "group_right", "without", "ignoring"),
    *("bool", "offset", "inf", "nan"),
}


def metrics(expr: str) -> set[str]:
    """Names of the metrics in an expression: what is left without strings, labels, functions."""
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "", expr)
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+", " ", rest)
    lists = r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)"
    rest = re.sub(lists, " ", rest)
    rest = FUNCTIONS.sub(" ", rest)
    return {word for word in re.findall(r"[a-zA-Z_:][\w:]*", rest)
            if word.lower() not in KEYWORDS}  # fmt: skip
