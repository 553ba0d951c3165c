"""Small datasets for tests, written as pack writes them."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.write import Writer
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
    store = open_store(str(folder))
    writer = Writer(store, 8192, count)
    for sample in range(count):
        image = b"<html>not found</html>" if sample in broken else picture(sample)
        texts = {"name": f"{sample}.jpg", "query": 0, "title": "", "description": "", "tags": []}
        writer.add(image, zlib.crc32(image), sample % 3, texts)
    writer.commit(("a", "b", "c"), {"layout": "webvision-2.0", "split": "train"})
    writer.close(keep=True)
    return store.address
