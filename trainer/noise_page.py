"""The page that shows label noise: one HTML file without scripts, its pictures inside."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.cache import Reader
from trainer.data.shards import Dataset
from trainer.learn.confident import UNCLEAR, Noise, Opinions
from trainer.pages import CACHE_BYTES, STYLE, class_name, picture, texts_of, told

MOST_PAIRS = 20
MOST_CLASSES = 200


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
        return class_name(self.dataset, label)


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
            f"<figure>{picture(reader, number)}<figcaption><b>{page.name(label)}</b>"
            f" ({page.opinions.own[number]:.1%})<br>rather {page.name(confident)}"
            f" ({_likelihood(page.opinions, number, confident):.1%})<br>{facts}"
            f"<div class=text>{told(text)}</div></figcaption></figure>"
        )
    yield "</div>"
    reader.close()


def _likelihood(opinions: Opinions, number: int, label: int) -> float:
    found = opinions.probabilities[number][opinions.classes[number] == label]
    return float(found[0]) if len(found) else 0.0
