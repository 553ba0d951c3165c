"""What runs see in pictures, drawn: each picture with its likeliest classes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError

ROW_INCHES = 2.2
NAME_MOST = 40
"""Characters of a class's name."""


def draw(items: Sequence[dict[str, Any]], out: str) -> None:
    """Draws into a .png or .svg file. Raises LauncherError where it cannot be written."""
    from matplotlib.figure import Figure

    seen = [item for item in items if not item["error"]]
    if not seen:
        raise LauncherError(f"nothing is drawn into {out}: no picture can be read")
    figure = Figure(figsize=(8, ROW_INCHES * len(seen)), layout="constrained")
    for row, item in zip(figure.subplots(len(seen), 2, squeeze=False), seen, strict=True):
        _fill(row, item)
    try:
        figure.savefig(Path(out), dpi=120)
    except OSError as error:
        raise LauncherError(f"cannot write {out}: {error.strerror or error}") from error


def _fill(row: Any, item: dict[str, Any]) -> None:
    from PIL import Image

    picture, bars = row
    with Image.open(item["image"]) as image:
        picture.imshow(image.convert("RGB"))
    picture.set_title(Path(item["image"]).name, fontsize="small")
    picture.axis("off")
    names = [each["name"][:NAME_MOST] for each in item["classes"]]
    bars.barh(range(len(names)), [100 * each["probability"] for each in item["classes"]])
    bars.set_yticks(range(len(names)), names, fontsize="small")
    bars.invert_yaxis()
    bars.set_xlim(0, 100)
    bars.set_xlabel("probability (%)", fontsize="small")
