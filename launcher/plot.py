"""One picture of a run: loss, accuracy, throughput and world size over the samples seen."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import errors
from launcher.progress import METRICS_KEY
from trainer import storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")

Line = dict[str, Any]


def plot_run(address: str, out: str | Path) -> None:
    """Draws the run under that address into a .png or .svg file.

    Raises NotFound where the run has no metrics, UsageError for another kind of file, and
    LauncherError without matplotlib or where the store or the file fails.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise errors.UsageError(f"picture {str(out)!r} must end in {' or '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.LauncherError("plot needs matplotlib; pip install '.[plot]'") from error
    try:
        text = storage.open_store(address).get(METRICS_KEY).decode(errors="replace")
    except storage.NotFound as error:
        raise errors.NotFound(
            f"no {METRICS_KEY} under {address}; a run writes it with its first update"
        ) from error
    except storage.StorageError as error:
        raise errors.LauncherError(str(error)) from error
    lines = read_metrics(text)
    if not any(line["event"] in ("train", "evaluate") for line in lines):
        raise errors.NotFound(f"no update is told of in {METRICS_KEY} under {address} yet")
    figure = Figure(figsize=(8, 10), layout="constrained")
    draw(figure, lines, title=address.rstrip("/").rpartition("/")[2])
    try:
        figure.savefig(out, dpi=120)
    except OSError as error:
        raise errors.LauncherError(f"cannot write {out}: {error.strerror or error}") from error


def read_metrics(text: str) -> list[Line]:
    """The lines of metrics.jsonl that the run's final weights contain, in the file's order.

    A generation that goes on from update U has undone what earlier generations did beyond it, so
    their later lines are dropped. So is a line that is torn or lacks what every line has.
    """
    lines = [line for each in text.splitlines() if (line := _parse(each)) is not None]
    undone_beyond: dict[int, int] = {}
    for line in lines:
        if line["event"] == "start" and isinstance(line.get("parent_update"), int):
            generation, parent = line["generation"], line["parent_update"]
            undone_beyond[generation] = min(parent, undone_beyond.get(generation, parent))
    kept_until: dict[int, float] = {}
    lowest = math.inf
    for generation in sorted({line["generation"] for line in lines}, reverse=True):
        kept_until[generation] = lowest
        lowest = min(lowest, undone_beyond.get(generation, math.inf))
    return [line for line in lines if line["update"] <= kept_until[line["generation"]]]


def _parse(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return None
    numbers = (line.get("generation"), line.get("update"), line.get("seen"))
    is_whole = all(isinstance(each, int) for each in numbers)
    return line if is_whole else None


def draw(figure: Figure, lines: Sequence[Line], title: str) -> None:
    """Four panels over one axis; dotted lines are where a new generation went on."""
    from matplotlib.ticker import MaxNLocator

    train = [line for line in lines if line["event"] == "train"]
    evaluate = [line for line in lines if line["event"] == "evaluate"]
    panels: list[Axes] = list(figure.subplots(4, sharex=True, height_ratios=(3, 3, 2, 1)))
    loss, accuracy, throughput, world = panels

    _curve(loss, train, "loss", "training")
    _curve(loss, evaluate, "loss", "validation", marker="o")
    loss.set_ylabel("loss")
    _curve(accuracy, train, "top1", "training top-1", alpha=0.5)
    for key, label in (
        ("top1", "validation top-1"),
        ("top5", "validation top-5"),
        ("class_top1", "top-1, mean of classes"),
        ("class_top5", "top-5, mean of classes"),
    ):
        style = "--" if key.startswith("class") else "-"
        _curve(accuracy, evaluate, key, label, marker="o", linestyle=style)
    accuracy.set_ylabel("accuracy (ratio)")
    accuracy.set_ylim(0, 1)
    _curve(throughput, train, "samples_per_s", "")
    throughput.set_ylabel("samples/s")
    throughput.set_ylim(bottom=0)
    _curve(world, train, "world", "", drawstyle="steps-post")
    world.set_ylabel("world size")
    world.set_ylim(bottom=0)
    world.yaxis.set_major_locator(MaxNLocator(integer=True))
    world.set_xlabel("samples seen")

    starts = [line["seen"] for line in lines if line["event"] == "start"][1:]
    for panel in panels:
        panel.grid(alpha=0.3)
        for seen in starts:
            panel.axvline(seen, color="grey", linestyle=":", linewidth=1)
    for panel in (loss, accuracy):
        if panel.get_lines():
            panel.legend(fontsize="small")
    epoch_samples = _epoch_samples(lines)
    if epoch_samples:

        def epochs_of(seen: Any) -> Any:
            return seen / epoch_samples

        def seen_of(epochs: Any) -> Any:
            return epochs * epoch_samples

        epochs = loss.secondary_xaxis("top", functions=(epochs_of, seen_of))
        epochs.set_xlabel("epochs")
    figure.suptitle(title)


def _curve(panel: Axes, lines: Sequence[Line], key: str, label: str, **style: Any) -> None:
    """Draws one value over the samples seen; gaps where it was not finite."""
    if any(line.get(key) is not None for line in lines):
        values = [math.nan if line.get(key) is None else line[key] for line in lines]
        panel.plot([line["seen"] for line in lines], values, label=label, **style)


def _epoch_samples(lines: Sequence[Line]) -> float:
    """Samples of an epoch; 0 where no line tells."""
    for line in reversed(lines):
        if line.get("epoch_samples"):
            return float(line["epoch_samples"])
        if line.get("epoch") and line["seen"]:
            return float(line["seen"] / line["epoch"])
    return 0.0
