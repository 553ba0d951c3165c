"""What the recording rules would have recorded of generated series: Prometheus itself evaluates
them, moment by moment. (promtool's own way leaves rules on recorded series empty.)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.dashboards.history import COARSE_S, DAY_S, FINE_HOURS, FINE_S, HOUR_S, History, blocks
from tools.dashboards.server import RULES, Prometheus, prometheus


def recorded(history: History, folder: Path, port: int) -> None:
    """Adds blocks of the recorded series to those that `history` wrote into the folder."""
    left = {rule["record"]: rule["expr"] for rule in _rules() if "record" in rule}
    round_ = 0
    while left:
        ready = [name for name, expr in left.items()
                 if not any(other in expr for other in left if other != name)]  # fmt: skip
        assert ready, f"recording rules wait for each other: {sorted(left)}"
        path = folder / f"recorded-{round_}.om"
        with prometheus(folder, port) as server, path.open("w") as file:
            for name in ready:
                file.write(f"# TYPE {name} unknown\n")
                file.writelines(_samples(server, name, left.pop(name), history))
            file.write("# EOF\n")
        blocks(path, folder / "data")
        round_ += 1


def _rules() -> Iterator[dict[str, Any]]:
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def _samples(server: Prometheus, name: str, expr: str, history: History) -> Iterator[str]:
    now, fine = history.now, FINE_HOURS * HOUR_S
    found: dict[str, list[tuple[float, str]]] = {}
    coarse = (now - history.days * DAY_S, now - fine - FINE_S, COARSE_S)
    for start, end, step_s in (coarse, (now - fine, now - FINE_S, FINE_S)):
        for series in server.over(expr, start, end, step_s):
            labels = {key: value for key, value in series["metric"].items() if key != "__name__"}
            told = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            found.setdefault(told, []).extend(series["values"])
    for told, values in found.items():
        for at, value in values:
            yield f"{name}{{{told}}} {value} {at}\n"
