"""The page of a text filtering: one HTML file without scripts, its pictures inside."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.cache import Reader
from trainer.data.shards import Dataset
from trainer.pages import CACHE_BYTES, STYLE, class_name, picture, texts_of, told
from trainer.text.parts import SOURCES, tells

BINS = 20
MOST_CLASSES = 200
BAR_PX = 60
MORE_STYLE = """
svg rect.kept { fill: #2a7; } svg rect.dropped { fill: #c44; } svg { background: #fafafa; }
"""


@dataclass(frozen=True)
class Found:
    """What the page shows."""

    summary: dict[str, Any]
    scores: NDArray[Any]
    """(N,) of trainer.textfilter.SCORES"""
    selection: NDArray[np.int64]
    dataset: Dataset
    quality: dict[str, Any] | None
    """Against verified labels."""
    num_pictures: int

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """(N,) who is in the selection."""
        kept = np.zeros(len(self.scores), np.bool_)
        kept[self.selection] = True
        return kept

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,)"""
        return self.dataset.index()["label"].astype(np.int64)

    def expected(self) -> dict[str, float]:
        """Share of right labels to expect, by the probabilities: of everything that is trained on,
        of the selection, and under weights, where a sample counts as its probability."""
        probability = self.scores["probability"].astype(np.float64)
        recall = probability[self.kept].sum() / max(probability.sum(), 1e-12)
        return {
            "full": round(float(probability.mean()), 4),
            "selection": round(float(probability[self.kept].sum() / max(1, self.kept.sum())), 4),
            "selection_recall": round(float(recall), 4),
            "weights": round(float((probability**2).sum() / probability.sum()), 4),
        }


def write_page(found: Found, out: Path, cache_dir: Path) -> None:
    """Writes the page into a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        "<!doctype html><meta charset=utf-8><title>Labels judged by their texts</title>",
        f"<style>{STYLE}{MORE_STYLE}</style>",
        *_summary(found),
        *_quality(found),
        *_sources(found),
        *_classes(found),
        *_pictures(found, cache_dir),
    ]
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _summary(found: Found) -> Iterator[str]:
    summary, expected = found.summary, found.expected()
    yield "<h1>Labels judged by their texts</h1>"
    yield f"<p>{html.escape(summary['data'])}, texts by {html.escape(summary['encoder'])}</p>"
    yield (
        f"<p>Of {summary['num_samples']:,} samples {summary['num_telling']:,} have texts that tell"
        f" more than the query, {summary['num_empty']:,} have none.</p>"
    )
    yield "<table><tr><th>trained on<th class=n>samples<th class=n>labels expected right"
    rows = (
        ("everything", summary["num_samples"], expected["full"]),
        ("the selection", len(found.selection), expected["selection"]),
        ("everything, weighted", summary["num_samples"], expected["weights"]),
    )
    for name, count, share in rows:
        yield f"<tr><td>{name}<td class=n>{count:,}<td class=n>{share:.1%}"
    yield "</table>"
    yield (
        f"<p>The selection holds {expected['selection_recall']:.1%} of the labels expected right;"
        " weights leave none out, and let what is doubtful count less.</p>"
    )


def _quality(found: Found) -> Iterator[str]:
    quality = found.quality
    if quality is None:
        return
    yield f"<h2>Against {quality['num_verified']:,} verified labels</h2>"
    if quality["auc"] is not None:
        yield (
            f"<p>A right label is more probable than a wrong one in <b>{quality['auc']:.1%}</b> of"
            f" pairs (area under the ROC curve); by texts alone in {quality['auc_texts']:.1%}.</p>"
        )
    yield "<table><tr><th class=n>from<th class=n>kept<th class=n>precision<th class=n>recall"
    for row in quality["thresholds"]:
        cells = (row["kept"], row["precision"], row["recall"])
        shown = "".join(f"<td class=n>{'-' if v is None else f'{v:.1%}'}" for v in cells)
        yield f"<tr><td class=n>{row['threshold']}{shown}"
    yield "</table>"


def _sources(found: Found) -> Iterator[str]:
    yield "<h2>Sources</h2><table><tr><th>source<th class=n>samples<th class=n>texts that tell"
    yield "<th class=n>nearest to their class<th class=n>probability<th class=n>kept<th>"
    scores = found.scores
    for number, name in enumerate(SOURCES):
        mine = scores["source"] == number
        if not mine.any():
            continue
        told_more = tells(scores[mine])
        agree = (scores["rank"][mine] == 1)[told_more]
        cells = (
            told_more.mean(),
            agree.mean() if len(agree) else 0.0,
            scores["probability"][mine].mean(),
            found.kept[mine].mean(),
        )
        shown = "".join(f"<td class=n>{value:.1%}" for value in cells)
        bars = _histogram(scores["probability"][mine], found.kept[mine])
        yield f"<tr><td>{name}<td class=n>{int(mine.sum()):,}{shown}<td>{bars}"
    yield "</table>"


def _classes(found: Found) -> Iterator[str]:
    counts = np.bincount(found.labels, minlength=found.dataset.num_classes)
    means = np.bincount(
        found.labels, found.scores["probability"], found.dataset.num_classes
    ) / np.maximum(counts, 1)
    order = np.argsort(means, kind="stable")
    order = order[counts[order] > 0][:MOST_CLASSES]
    yield "<h2>Classes</h2><p>Probability that the label is right, from 0 to 1; red is dropped."
    if len(order) < (counts > 0).sum():
        yield f" The {len(order)} of {(counts > 0).sum():,} classes with the least."
    yield "</p><table><tr><th>class<th class=n>samples<th class=n>expected right"
    yield "<th class=n>kept<th>"
    for label in order.tolist():
        mine = found.labels == label
        bars = _histogram(found.scores["probability"][mine], found.kept[mine])
        yield (
            f"<tr><td>{class_name(found.dataset, label)}<td class=n>{counts[label]:,}<td class=n>"
            f"{means[label]:.1%}<td class=n>{found.kept[mine].mean():.1%}<td>{bars}"
        )
    yield "</table>"


def _histogram(values: NDArray[np.float32], kept: NDArray[np.bool_]) -> str:
    edges = np.linspace(0, 1, BINS + 1)
    of_kept, of_dropped = (np.histogram(values[which], edges)[0] for which in (kept, ~kept))
    most = max(1, int((of_kept + of_dropped).max()))
    bars = []
    for place, (high, low) in enumerate(zip(of_kept.tolist(), of_dropped.tolist(), strict=True)):
        up = BAR_PX * high / most
        down = BAR_PX * low / most
        for css, height, top in (
            ("kept", up, BAR_PX - up),
            ("dropped", down, BAR_PX - up - down),
        ):
            if height:
                bars.append(
                    f"<rect class={css} x={8 * place} y={top:.1f} width=7 height={height:.1f} />"
                )
    return f"<svg width={8 * BINS} height={BAR_PX}>{''.join(bars)}</svg>"


def _pictures(found: Found, cache_dir: Path) -> Iterator[str]:
    reader = Reader(found.dataset, cache_dir, CACHE_BYTES)
    telling = tells(found.scores)
    probability = found.scores["probability"]
    kinds = (
        ("Dropped with the least probability", ~found.kept & telling, probability),
        ("Dropped by a little", ~found.kept & telling, -probability),
        ("Kept by a little", found.kept & telling, probability),
        ("Kept with the most probability", found.kept & telling, -probability),
        ("Texts that tell nothing", ~telling, probability),
    )
    for title, among, rank in kinds:
        ids = np.flatnonzero(among)
        ids = _spread(ids[np.argsort(rank[ids], kind="stable")], found.labels, found.num_pictures)
        yield f"<h2>{title}</h2><div class=grid>"
        for number, text in zip(ids.tolist(), texts_of(found.dataset, ids), strict=True):
            yield _figure(found, reader, number, text)
        yield "</div>"
    reader.close()


def _spread(ids: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` ids, taken class by class in turn: else one class would fill the page."""
    turn: dict[int, int] = {}
    turns = []
    for label in labels[ids].tolist():
        turns.append(turn.get(label, 0))
        turn[label] = turns[-1] + 1
    return ids[np.argsort(turns, kind="stable")][:count]


def _figure(found: Found, reader: Reader, number: int, text: dict[str, Any]) -> str:
    score = found.scores[number]
    own, other = (
        class_name(found.dataset, int(label))
        for label in (found.labels[number], score["other_class"])
    )
    facts = (
        f"id {number}, probability {score['probability']:.2f}, by texts {score['text']:.2f}<br>"
        f"own {score['own']:.2f}, nearest other class {other}"
        f" {score['other']:.2f}, other sense {score['sense']:.2f}, something else"
        f" {score['background']:.2f}"
    )
    return (
        f"<figure>{picture(reader, number)}<figcaption><b>{own}"
        f"</b><br>{facts}<div class=text>{told(text)}</div></figcaption></figure>"
    )
