"""Finished runs as rows of docs/results/NAME.json, made of what the trainer has left."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launcher.plot import Line, read_metrics
from launcher.progress import METRICS_KEY
from tools.experiments import resolution
from tools.experiments.cells import Cell, Chain
from tools.experiments.places import ROOT
from tools.experiments.spec import SpecError
from trainer.config import SUMMARY_KEY

Row = dict[str, Any]
KEYS = (
    *("method", "seed", "top1", "top5", "class_top1", "train_top1", "seconds", "samples"),
    *("curve", "config", "data", "commit", "machine"),
)


class Incomplete(Exception):
    """A run that says it is done has no validation at its end."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file. Raises SpecError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        whole = all(key in row for row in rows for key in KEYS)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise SpecError(f"cannot read {path}: {error}") from error
    if not whole:
        raise SpecError(f"a row in {path} lacks one of {', '.join(KEYS)}; remove the row")
    return list(rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replaces the file by these rows, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    draft.replace(path)


def with_row(rows: Sequence[Row], row: Row) -> list[Row]:
    """The rows with this one, in place of an older one of the same method and seed."""
    others = [each for each in rows if key_of(each) != key_of(row)]
    return sorted([*others, row], key=key_of)


def key_of(row: Row) -> tuple[str, int]:
    return row["method"], row["seed"]


def is_of(row: Row, chain: Chain, sizes: Sequence[int] = ()) -> bool:
    """Whether the row is what running the chain, and evaluating it at the sizes, would give."""
    have = (*key_of(row), row["config"], row["data"])
    measured = [size for size, _ in row.get("by_size", [])]
    return have == (chain.method, chain.seed, chain.config, chain.data) and (
        measured == list(sizes) or not sizes
    )


def is_done(cell: Cell) -> bool:
    """Whether the trainer has ended the run. Raises Incomplete where its validation was lost."""
    if cell.is_filter:
        return (cell.run / SUMMARY_KEY).exists()
    lines = read_metrics(_text(cell))
    if not lines or (lines[-1]["event"], lines[-1].get("reason")) != ("end", "completed"):
        return False
    seen = lines[-1]["seen"]
    if not any(line["event"] == "evaluate" and line["seen"] == seen for line in lines):
        raise Incomplete(f"{cell.run / METRICS_KEY} has no validation at its end")
    return True


def row_of(chain: Chain, commit: str, machine: str, sizes: Sequence[int] = ()) -> Row:
    """The row of a chain whose runs are all done; its last is evaluated at the sizes."""
    trained = [cell for cell in chain.cells if not cell.is_filter]
    runs = [read_metrics(_text(cell)) for cell in trained]
    final = next(line for line in reversed(runs[-1]) if line["event"] == "evaluate")
    curve: list[tuple[float, float]] = []
    epochs = 0.0
    for lines in runs:
        curve += [
            (round(epochs + line["epoch"], 4), line["top1"])
            for line in lines
            if line["event"] == "evaluate"
        ]
        epochs += lines[-1]["epoch"]
    return {
        "method": chain.method,
        "seed": chain.seed,
        "top1": final["top1"],
        "top5": final["top5"],
        "class_top1": final["class_top1"],
        "train_top1": train_top1(runs[-1]),
        "seconds": round(sum(seconds_of(_text(cell)) for cell in trained), 1),
        "samples": sum(lines[-1]["seen"] for lines in runs),
        **resolution.measure(chain.cells[-1], sizes),
        "curve": curve,
        "config": chain.config,
        "data": chain.data,
        "commit": commit,
        "machine": machine,
    }


def train_top1(lines: Sequence[Line]) -> float | None:
    """Training accuracy in the last epoch: of noisy labels and under augmentation.

    A line tells of the samples since the line before it, so lines weigh by those.
    """
    correct = covered = 0.0
    began, last = 0, lines[-1]["epoch"]
    for line in lines:
        if line["event"] == "train":
            samples, top1 = line["seen"] - began, line["top1"]
            if line["epoch"] > last - 1 and top1 is not None:
                correct, covered = correct + top1 * samples, covered + samples
        if line["event"] in ("start", "train"):
            began = line["seen"]
    return round(correct / covered, 6) if covered else None


def seconds_of(metrics: str) -> float:
    """How long a run took, from the first to the last line of each of its generations."""
    moments: dict[int, list[float]] = defaultdict(list)
    for text in metrics.splitlines():
        line = json.loads(text)
        moments[line["generation"]].append(line["at"])
    return sum(max(each) - min(each) for each in moments.values())


def _text(cell: Cell) -> str:
    try:
        return (cell.run / METRICS_KEY).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def commit() -> str:
    """The short name of the commit, with + where files other than results differ from it."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "-uno", "--", ".", ":!docs/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
