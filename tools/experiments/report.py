"""What the finished runs of an experiment come to: a table in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.experiments.cells import config_of
from tools.experiments.results import Row
from tools.experiments.spec import Experiment, SpecError

HEAD = ("method", "top-1 (%)", "class top-1 (%)", "difference", "train top-1 (%)", "n", "minutes")


@dataclass(frozen=True)
class Figure:
    """A mean with its spread."""

    mean: float
    spread: float | None
    """None where there is too little to tell it from."""

    def told(self, *, signed: bool = False) -> str:
        """In percent: 65.13 ± 0.42."""
        sign = "+" if signed else ""
        spread = "-" if self.spread is None else f"{100 * self.spread:.2f}"
        return f"{100 * self.mean:{sign}.2f} ± {spread}"


def over_seeds(values: Sequence[float]) -> Figure:
    """Mean and sample standard deviation; None for the latter of one value."""
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def difference(values: Sequence[float], first: Sequence[float]) -> Figure:
    """Difference of the means and its standard error, sqrt(s1²/n1 + s2²/n2) (Welch)."""
    ours, theirs = over_seeds(values), over_seeds(first)
    error = None
    if ours.spread is not None and theirs.spread is not None:
        error = math.sqrt(ours.spread**2 / len(values) + theirs.spread**2 / len(first))
    return Figure(ours.mean - theirs.mean, error)


def chosen(experiment: Experiment, rows: Sequence[Row], source: str) -> dict[str, list[Row]]:
    """By method, in the file's order, the rows that are of the experiment as it is now.

    Raises SpecError where they are of more than one data set.
    """
    groups: dict[str, list[Row]] = {}
    for method in experiment.methods:
        configs = {seed: config_of(method, seed) for seed in experiment.seeds}
        fits = [
            row
            for row in rows
            if row["method"] == method.name and configs.get(row["seed"]) == row["config"]
        ]
        if fits:
            groups[method.name] = fits
    data = {row["data"] for group in groups.values() for row in group}
    if len(data) > 1:
        raise SpecError(
            f"rows in {source} are of {len(data)} data sets; run {experiment.name} to its end with"
            " one of them, or remove the other's rows"
        )
    return groups


def markdown(experiment: Experiment, groups: dict[str, list[Row]], picture: str) -> str:
    """The page of an experiment."""
    every = [row for group in groups.values() for row in group]
    wanted = len(experiment.methods) * len(experiment.seeds)
    missing = f"; {wanted - len(every)} of {wanted} runs are missing" if len(every) < wanted else ""
    first = next(iter(groups))
    lines = [
        f"# {experiment.name}",
        "",
        experiment.what.rstrip(".") + ".",
        "",
        f"Made by `make experiment NAME={experiment.name}` at commit {_listed(every, 'commit')} on"
        f" {_listed(every, 'machine')}{missing}.",
        "",
        *_table(groups, first),
        "",
        *_sizes_table(groups),
        f"![Validation top-1 of each method, at the end and over the epochs]({picture})",
        "",
        "Accuracies are of the averaged weights on the validation set at the end of the run, as"
        " mean ± standard deviation over n seeds; class top-1 is the mean over the classes. The"
        f" difference in top-1 is to {first}, ± its standard error √(s₁²/n₁ + s₂²/n₂). Train top-1"
        " is of the training labels, noise included, under augmentation, over the last epoch."
        " Minutes are those of one run.",
        "",
    ]
    return "\n".join(lines)


def _table(groups: dict[str, list[Row]], first: str) -> list[str]:
    lines = [HEAD, ("---",) * len(HEAD)]
    for name, rows in groups.items():
        top1 = _values(rows, "top1")
        train = _values(rows, "train_top1")
        against = difference(top1, _values(groups[first], "top1")).told(signed=True)
        lines.append(
            (
                name,
                over_seeds(top1).told(),
                over_seeds(_values(rows, "class_top1")).told(),
                "" if name == first else against,
                over_seeds(train).told() if train else "",
                str(len(rows)),
                f"{statistics.fmean(_values(rows, 'seconds')) / 60:.1f}",
            )
        )
    return rows_of(lines)


def rows_of(lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of cells as those of a table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in lines]


def _sizes_table(groups: dict[str, list[Row]]) -> list[str]:
    """Top-1 by input size, where runs were evaluated at several."""
    measured = {name: by_size(rows) for name, rows in groups.items()}
    sizes = sorted({size for found in measured.values() for size in found})
    if not sizes:
        return []
    head = ("top-1 (%) at", *(f"{size} px" for size in sizes), "p")
    lines = [head, ("---",) * len(head)]
    for name, found in measured.items():
        values = (over_seeds(found[size]).told() if size in found else "" for size in sizes)
        powers = powers_of(groups[name])
        power = f"{statistics.fmean(powers):.2f}" if powers else ""
        lines.append((name, *values, power))
    return [*rows_of(lines), ""]


def by_size(rows: Sequence[Row]) -> dict[int, list[float]]:
    """Top-1 of each seed by input size."""
    found: dict[int, list[float]] = {}
    for row in rows:
        for size, top1 in row.get("by_size", []):
            found.setdefault(size, []).append(top1)
    return found


def powers_of(rows: Sequence[Row]) -> list[float]:
    """GeM's mean power of each seed that has one."""
    return [row["p"] for row in rows if row.get("p") is not None]


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _listed(rows: Sequence[Row], key: str) -> str:
    return ", ".join(sorted({row[key] for row in rows}))
