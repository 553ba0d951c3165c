"""The picture of an experiment: the methods at their ends, and over the epochs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.experiments.report import by_size, over_seeds, powers_of
from tools.experiments.results import Row
from tools.experiments.spec import SpecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(groups: dict[str, list[Row]], title: str, path: Path, sides: Mapping[str, int]) -> None:
    """Draws the rows of each method into an .svg file. Raises SpecError without matplotlib.

    sides: of the input in px, that each method was trained at last; GeM's power is drawn over it.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SpecError("the picture needs matplotlib; pip install '.[plot]'") from error

    with matplotlib.rc_context({"svg.hashsalt": "experiments"}):  # same rows, same file
        height = max(4.0, 1.5 + 0.4 * len(groups))
        sized = any(by_size(rows) for rows in groups.values())
        tuned = {name: sides[name] for name, rows in groups.items() if powers_of(rows)}
        count = 2 + sized + bool(tuned)
        figure = Figure(figsize=(1 + 5 * count, height), layout="constrained")
        panels = list(figure.subplots(1, count))
        ends, epochs = panels[:2]
        for number, (name, rows) in enumerate(groups.items()):
            _end(ends, len(groups) - 1 - number, rows, f"C{number % 10}")
            _mean_line(epochs, name, rows, f"C{number % 10}")
            if sized:
                _sizes(panels[2], name, rows, f"C{number % 10}")
            if name in tuned:
                _power(panels[-1], tuned[name], name, rows, f"C{number % 10}")
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
    """Mean and deviation of the seeds by input size."""
    found = {
        size: over_seeds([100 * top1 for top1 in tops]) for size, tops in by_size(rows).items()
    }
    means = [figure.mean for figure in found.values()]
    spreads = [figure.spread or 0.0 for figure in found.values()]
    panel.errorbar(list(found), means, yerr=spreads, color=color, label=name, marker="o", capsize=3)
    panel.set_xlabel("side of the input (px)")
    panel.set_ylabel("validation top-1 (%)")
    panel.legend(fontsize="small")


def _power(panel: Axes, side_px: int, name: str, rows: Sequence[Row], color: str) -> None:
    """GeM's power of each seed, and their mean, at the size that it was learnt at."""
    powers = powers_of(rows)
    figure = over_seeds(powers)
    panel.plot([side_px] * len(powers), powers, "o", color=color, alpha=0.4, markersize=5)
    panel.errorbar(
        side_px, figure.mean, yerr=figure.spread, color=color, label=name, fmt="D", capsize=5
    )
    panel.set_xlabel("side that it was trained at last (px)")
    panel.set_ylabel("power p of generalised-mean pooling")
    panel.legend(fontsize="small")


def _mean_line(panel: Axes, name: str, rows: Sequence[Row], color: str) -> None:
    """Each seed thinly, and the mean at the epochs that all of them have."""
    curves = [{epoch: 100 * top1 for epoch, top1 in row["curve"]} for row in rows]
    for curve in curves:
        panel.plot(list(curve), list(curve.values()), color=color, alpha=0.25, linewidth=1)
    shared = sorted(set(curves[0]).intersection(*curves))
    means = [statistics.fmean(curve[epoch] for curve in curves) for epoch in shared]
    panel.plot(shared, means, color=color, label=name, marker="o", markersize=4)
