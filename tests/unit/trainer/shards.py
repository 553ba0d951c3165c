"""Small datasets for tests, written as pack writes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.raws import write_dataset
from trainer.storage import open_store


def picture(seed: int, side: int = 24) -> bytes:
    """A JPEG of smooth random colours."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def write_shards(folder: Path, *, count: int, broken: tuple[int, ...] = ()) -> str:
    """A dataset of `count` samples in three classes; the broken ones are no pictures."""
    images = [b"<html>not found</html>" if i in broken else picture(i) for i in range(count)]
    write_dataset(str(folder), images)
    return open_store(str(folder)).address
