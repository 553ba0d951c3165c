"""The page that shows label noise: one HTML file without scripts, its pictures inside."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.cache import DamagedSample, Reader
from trainer.data.shards import Dataset
from trainer.learn.confident import UNCLEAR, Noise, Opinions
from trainer.storage import StorageError, open_store

SIDE_PX = 160
"""Longer side of a picture on the page."""
MOST_PAIRS = 20
MOST_CLASSES = 200
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


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    runs: Sequence[str]
    dataset: Dataset
    opinions: Opinions
    noise: Noise
    margins: NDArray[np.float32] | None
    worst: NDArray[np.int64]
    """The ids whose pictures are shown."""

    def name(self, label: int) -> str:
        """A class in words, escaped."""
        if label == UNCLEAR:
            return "unclear"
        known = self.dataset.classes
        return html.escape(known[label] if known else f"class {label}")


def write_page(page: Page, out: Path, cache_dir: Path) -> None:
    """Writes the page into a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Label noise</title><style>{STYLE}</style>",
        *_summary(page),
        *_classes(page),
        *_pairs(page),
        *_pictures(page, cache_dir),
    ]
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _summary(page: Page) -> Iterator[str]:
    suspects = int((page.noise.weights < 1).sum())
    unread = int((~page.opinions.seen).sum())
    yield "<h1>Label noise</h1>"
    yield f"<p>{html.escape(page.dataset.address)}, by {html.escape(', '.join(page.runs))}</p>"
    yield (
        f"<p>Of {page.dataset.num_samples:,} labels, an estimated <b>{page.noise.rate():.1%}</b>"
        f" are wrong; {suspects:,} samples are confidently of another class. {unread:,} pictures"
        " could not be read.</p>"
    )


def _classes(page: Page) -> Iterator[str]:
    rates, totals = page.noise.rates(), page.noise.joint.sum(1)
    order = np.argsort(-rates, kind="stable")[:MOST_CLASSES]
    yield "<h2>Classes</h2>"
    if len(order) < len(rates):
        yield f"<p>The {len(order)} of {len(rates):,} classes with the most wrong labels.</p>"
    yield "<table><tr><th>class<th class=n>samples<th class=n>wrong<th><th>most often really"
    for label in order.tolist():
        others = page.noise.joint[label].copy()
        others[label] = 0
        most = int(others.argmax())
        really = f"{page.name(most)} ({others[most]:,.0f})" if others[most] else ""
        yield (
            f"<tr><td>{page.name(label)}<td class=n>{totals[label]:,.0f}"
            f"<td class=n>{rates[label]:.1%}"
            f"<td><span class=bar style='width:{100 * rates[label]:.0f}px'></span><td>{really}"
        )
    yield "</table>"


def _pairs(page: Page) -> Iterator[str]:
    """The largest entries of the confusion."""
    off = page.noise.joint.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    yield "<h2>Confusion</h2><table><tr><th>label<th>really<th class=n>samples"
    for place in order.tolist():
        label, really = divmod(place, off.shape[1])
        if off[label, really]:
            names = f"<td>{page.name(label)}<td>{page.name(really)}"
            yield f"<tr>{names}<td class=n>{off[label, really]:,.0f}"
    yield "</table>"


def _pictures(page: Page, cache_dir: Path) -> Iterator[str]:
    yield "<h2>Worst pictures</h2><div class=grid>"
    reader = Reader(page.dataset, cache_dir, CACHE_BYTES)
    texts = texts_of(page.dataset, page.worst)
    for number, text in zip(page.worst.tolist(), texts, strict=True):
        label, confident = int(page.opinions.labels[number]), int(page.noise.confident[number])
        facts = f"id {number}, weight {page.noise.weights[number]:.3f}"
        if page.margins is not None:
            facts += f", mean margin {page.margins[number]:.2f}"
        yield (
            f"<figure>{_picture(reader, number)}<figcaption><b>{page.name(label)}</b>"
            f" ({page.opinions.own[number]:.1%})<br>rather {page.name(confident)}"
            f" ({_likelihood(page.opinions, number, confident):.1%})<br>{facts}"
            f"<div class=text>{_told(text)}</div></figcaption></figure>"
        )
    yield "</div>"
    reader.close()


def _likelihood(opinions: Opinions, number: int, label: int) -> float:
    found = opinions.probabilities[number][opinions.classes[number] == label]
    return float(found[0]) if len(found) else 0.0


def _picture(reader: Reader, number: int) -> str:
    try:
        with Image.open(io.BytesIO(reader.read(number))) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE_PX, SIDE_PX))
    except (DamagedSample, OSError, ValueError):
        return "<i>no picture</i>"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img alt='sample {number}' src='data:image/jpeg;base64,{data}'>"


def _told(text: dict[str, Any]) -> str:
    """Query, title, description and tags, escaped and cut."""
    words = [str(text.get(key) or "") for key in ("query", "title", "description")]
    words.append(", ".join(map(str, text.get("tags") or ())))
    return "<br>".join(html.escape(each[:200]) for each in words if each)


def texts_of(dataset: Dataset, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The texts of these samples; {} where the dataset has none."""
    index = dataset.index()
    store = open_store(dataset.address)
    lines: dict[int, list[bytes]] = {}
    found = []
    for number in ids.tolist():
        shard = int(index["shard"][number])
        if shard not in lines:
            key = dataset.shards[shard].key.removesuffix(".tar") + ".texts.jsonl"
            try:
                lines[shard] = store.get(key).splitlines()
            except StorageError:
                lines[shard] = []
        first = int(np.argmax(index["shard"] == shard))
        at = number - first
        found.append(json.loads(lines[shard][at]) if at < len(lines[shard]) else {})
    return found
