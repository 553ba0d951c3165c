"""The picture of an experiment: the methods at their ends, and over the epochs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.experiments.report import by_size, over_seeds
from tools.experiments.results import Row
from tools.experiments.spec import SpecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(groups: dict[str, list[Row]], title: str, path: Path) -> None:
    """Draws the rows of each method into an .svg file. Raises SpecError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SpecError("the picture needs matplotlib; pip install '.[plot]'") from error

    with matplotlib.rc_context({"svg.hashsalt": "experiments"}):  # same rows, same file
        height = max(4.0, 1.5 + 0.4 * len(groups))
        sized = any(by_size(rows) for rows in groups.values())
        figure = Figure(figsize=(16 if sized else 11, height), layout="constrained")
        panels = list(figure.subplots(1, 3 if sized else 2))
        ends, epochs = panels[:2]
        for number, (name, rows) in enumerate(groups.items()):
            _end(ends, len(groups) - 1 - number, rows, f"C{number % 10}")
            _mean_line(epochs, name, rows, f"C{number % 10}")
            if sized:
                _sizes(panels[2], name, rows, f"C{number % 10}")
        ends.set_yticks(range(len(groups) - 1, -1, -1), list(groups))
        ends.set_ylim(-0.5, len(groups) - 0.5)
        ends.set_xlabel("validation top-1 at the end (%): mean ± std, and each seed")
        epochs.set_xlabel("epochs")
        epochs.set_ylabel("validation top-1 (%)")
        epochs.legend(fontsize="small")
        for panel in panels:
            panel.grid(alpha=0.3)
        figure.suptitle(title)
        draft = path.with_name(f".{path.name}")
        figure.savefig(draft, format="svg", metadata={"Date": None})
        draft.replace(path)


def _end(panel: Axes, place: int, rows: Sequence[Row], color: str) -> None:
    values = [100 * row["top1"] for row in rows]
    figure = over_seeds(values)
    panel.plot(values, [place] * len(values), "o", color=color, alpha=0.4, markersize=5)
    panel.errorbar(
        figure.mean, place, xerr=figure.spread, color=color, fmt="D", capsize=5, markersize=7
    )


def _sizes(panel: Axes, name: str, rows: Sequence[Row], color: str) -> None:
    """Mean and deviation of the seeds by input size, GeM's p in the legend."""
    found = {
        size: over_seeds([100 * top1 for top1 in tops]) for size, tops in by_size(rows).items()
    }
    powers = [row["p"] for row in rows if row.get("p") is not None]
    label = f"{name}, p {statistics.fmean(powers):.2f}" if powers else name
    means = [figure.mean for figure in found.values()]
    spreads = [figure.spread or 0.0 for figure in found.values()]
    panel.errorbar(
        list(found), means, yerr=spreads, color=color, label=label, marker="o", capsize=3
    )
    panel.set_xlabel("side of the input (px)")
    panel.set_ylabel("validation top-1 (%)")
    panel.legend(fontsize="small")


def _mean_line(panel: Axes, name: str, rows: Sequence[Row], color: str) -> None:
    """Each seed thinly, and the mean at the epochs that all of them have."""
    curves = [{epoch: 100 * top1 for epoch, top1 in row["curve"]} for row in rows]
    for curve in curves:
        panel.plot(list(curve), list(curve.values()), color=color, alpha=0.25, linewidth=1)
    shared = sorted(set(curves[0]).intersection(*curves))
    means = [statistics.fmean(curve[epoch] for curve in curves) for epoch in shared]
    panel.plot(shared, means, color=color, label=name, marker="o", markersize=4)
