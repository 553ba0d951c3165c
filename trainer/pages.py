"""What HTML pages of samples share: one file without scripts, its pictures inside."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.cache import DamagedSample, Reader
from trainer.data.records import read_record
from trainer.data.shards import Dataset
from trainer.storage import StorageError, open_store

SIDE_PX = 160
"""Longer side of a picture on a page."""
CACHE_BYTES = 4 << 30
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left; }
td.n, th.n { text-align: right; } tr:nth-child(even) { background: #f4f4f4; }
.bar { background: #c44; display: inline-block; height: .7em; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
figure { border: 1px solid #ddd; margin: 0; padding: .6rem; overflow-wrap: anywhere; }
figure img { max-height: 10rem; max-width: 100%; } figcaption { font-size: .85rem; }
.text { color: #555; }
"""


def picture(reader: Reader, number: int) -> str:
    """A sample's picture, small, as an element that holds it."""
    try:
        with Image.open(io.BytesIO(reader.read(number))) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE_PX, SIDE_PX))
    except (DamagedSample, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "<i>no picture</i>"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img alt='sample {number}' src='data:image/jpeg;base64,{data}'>"


def told(text: dict[str, Any]) -> str:
    """Query, title, description and tags, escaped and cut."""
    words = [str(text.get(key) or "") for key in ("query", "title", "description")]
    tags = text.get("tags") or ""
    words.append(", ".join(map(str, tags)) if isinstance(tags, list) else str(tags))
    return "<br>".join(html.escape(each[:200]) for each in words if each)


def texts_of(dataset: Dataset, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The texts of these samples; {} where the dataset has none that can be read."""
    index = dataset.index()
    store = open_store(dataset.address)
    lines: dict[int, list[bytes]] = {}
    found = []
    for number in ids.tolist():
        shard = int(index["shard"][number])
        if shard not in lines:
            kept = dataset.shards[shard].texts
            try:
                lines[shard] = store.get(kept.key).split(b"\n") if kept else []
            except StorageError:
                lines[shard] = []
        first = int(np.argmax(index["shard"] == shard))
        at = number - first
        found.append(read_record(lines[shard][at]) if at < len(lines[shard]) else {})
    return found


def class_name(dataset: Dataset, label: int) -> str:
    """A class in words, escaped."""
    known = dataset.classes
    return html.escape(known[label] if known else f"class {label}")
