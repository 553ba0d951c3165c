"""WebVision's submission, made: predictions.txt, and a zip that holds it alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence

from trainer.config import SUBMISSION_FILE


def lines_of(names: Sequence[str], labels: Iterable[Sequence[int]]) -> Iterator[str]:
    """The lines of a submission. labels: of each name five, the likeliest first."""
    for name, five in zip(names, labels, strict=True):
        yield f"{name} {' '.join(map(str, five))}\n"


def zipped(text: str) -> bytes:
    """A zip with predictions.txt, the same for the same text whenever it is made."""
    whole = io.BytesIO()
    info = zipfile.ZipInfo(SUBMISSION_FILE, (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr(info, text, zipfile.ZIP_DEFLATED)
    return whole.getvalue()
