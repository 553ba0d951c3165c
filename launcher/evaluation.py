"""Runs at several input sizes: measured by the trainer's program, as rows and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError, UsageError
from launcher.programs import run_program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = dict[str, Any]
"""A run's name, and what `python -m trainer.evaluate` prints of it but for its schemaVersion."""

HEAD = ("RUN", "SIZE", "TOP-1", "TOP-5", "CLASS TOP-1", "CLASS TOP-5", "LOSS", "PICTURES")
RATIOS = ("top1", "top5", "class_top1", "class_top5")
SIZES_PX = (16, 2048)
"""Least and largest, as input.size_px allows."""


def check_sizes(text: str) -> None:
    """Raises UsageError unless it is empty or sizes by commas."""
    least, most = SIZES_PX
    for word in text.split(",") if text else ():
        if not word.strip().isdecimal() or not least <= int(word) <= most:
            raise UsageError(
                f"--image-size {text!r} holds {word.strip()!r}; give numbers from {least} to "
                f"{most}, as 224,288,320"
            )


def check_picture(path: str) -> None:
    """Raises UsageError or LauncherError where `draw` could not, before minutes are spent."""
    if not path.endswith((".png", ".svg")):
        raise UsageError(f"--out {path!r} must end in .png or .svg")
    if find_spec("matplotlib") is None:
        raise LauncherError("--out needs matplotlib; pip install '.[plot]'")


def measure(name: str, address: str, sizes: str, split: str, which: str) -> Document:
    """The results of one run, by a process of its own: the launcher never imports torch.

    name: what the run is called by whoever asks. sizes: by commas; empty: the run's own.
    Raises LauncherError without torch or where the trainer's program fails, UsageError where it
    says that what is asked cannot be.
    """
    options = ["--sizes", sizes, "--data", split, "--which", which]
    found: Document = json.loads(run_program("evaluate", "trainer.evaluate", [address, *options]))
    del found["schemaVersion"]
    return {"name": name, **found}


def rows(found: Iterable[Document]) -> Iterator[tuple[str, ...]]:
    """A row of the table for each run and size; ratios in percent."""
    for document in found:
        for result in document["results"]:
            yield (
                document["name"],
                str(result["size_px"]),
                *(f"{100 * result[key]:.2f}%" for key in RATIOS),
                f"{result['loss']:.4f}",
                f"{result['num_samples']:,}",
            )


def draw(found: Sequence[Document], out: str) -> None:
    """Draws accuracy against input size into a .png or .svg file, a colour a run.

    Raises LauncherError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    fill(figure, found)
    try:
        figure.savefig(Path(out), dpi=120)
    except OSError as error:
        raise LauncherError(f"cannot write {out}: {error.strerror or error}") from error


def fill(figure: Figure, found: Sequence[Document]) -> None:
    """One panel: a run's top-1, and dashed its mean over classes; a ring where it was trained."""
    panel = figure.subplots()
    for number, document in enumerate(found):
        results = sorted(document["results"], key=lambda result: int(result["size_px"]))
        sizes = [result["size_px"] for result in results]
        color = f"C{number % 10}"
        label = legend(document)
        tops = [100 * result["top1"] for result in results]
        panel.plot(sizes, tops, color=color, marker="o", label=f"{label}, top-1")
        means = [100 * result["class_top1"] for result in results]
        panel.plot(sizes, means, color=color, linestyle="--", label=f"{label}, mean of classes")
        at_home = [
            (size, top)
            for size, top in zip(sizes, tops, strict=True)
            if size == document["trained_at_px"]
        ]
        for size, top in at_home:
            panel.plot([size], [top], color=color, marker="o", markersize=12, fillstyle="none")
    panel.set_xlabel("side of the input (px); ringed: trained at")
    panel.set_ylabel("accuracy (%)")
    panel.set_xticks(sorted({r["size_px"] for document in found for r in document["results"]}))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")


def legend(document: Document) -> str:
    """A run's name with its network, and GeM's power where it has one."""
    power = "" if document["p"] is None else f", p {document['p']:.2f}"
    return f"{document['name']} ({document['model']}{power})"
