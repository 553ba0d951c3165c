"""Judges labels by their texts: which pictures to train on, and how much each counts.

    python -m trainer.textfilter [run.yaml] [key=value ...]     or RUN_CONFIG, as in a pod

Reads the texts of a packed dataset in pieces. Of RUN_INDEXES processes each encodes the pieces of
its JOB_COMPLETION_INDEX; whoever finds all of them there judges, so the last one does. What is
there is never encoded again, so a killed process goes on where it was.

    <output>/scores.npy       SCORES by id               <output>/selection.npy   for data.selection
    <output>/weights.npy      for data.weights           <output>/sampling.npy    for data.sampling
    <output>/summary.json     written last: what was found, and the SHA-256 of these files
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import SUMMARY_KEY, TextfilterConfig
from trainer.data.cache import cache_folder
from trainer.data.selection import load_probabilities
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import run_entry
from trainer.exits import leave_on_sigterm
from trainer.learn.placement import own_device
from trainer.pieces import Pieces, Span, keep_array, share, spans
from trainer.storage import open_store
from trainer.text import parts
from trainer.text.classes import Meanings, meanings
from trainer.text.encoder import Encoder, open_encoder
from trainer.text.graph import Gathered
from trainer.text.judge import Evidence, Verdict, by_source, judge
from trainer.text.measure import MEASURES, Space, margins, measure, space_of
from trainer.text.select import loss_weights, sampling_weights, select

if TYPE_CHECKING:
    from trainer.runs import Source  # with timm a second and 250 MB, which texts alone do not need

logger = logging.getLogger(__name__)

SCORES = np.dtype([*MEASURES.descr, *parts.FACTS.descr, ("text", "<f4"), ("probability", "<f4")])
"""By id: trainer.text.measure.MEASURES, trainer.text.parts.FACTS, the probability that the label
is right by the texts, and by everything."""


@dataclass(frozen=True)
class Work:
    """What one process has to do."""

    config: TextfilterConfig
    dataset: Dataset
    cache_dir: Path
    device: torch.device
    every: Sequence[Span]
    mine: Sequence[Span]
    noise: NDArray[np.float32] | None
    """A network's probabilities of the labels, by id."""


def textfilter(config: TextfilterConfig) -> None:
    """Encodes this process's pieces; judges where no piece is missing any more."""
    leave_on_sigterm()
    cache_dir = cache_folder(config.cache_dir)
    dataset = open_dataset(config.data, cache_dir)
    device = own_device()
    every = spans(dataset)
    mine = share(every)
    # What is needed last is read first: it fails before hours of encoding.
    noise = load_probabilities(config.judge.noise, dataset.num_samples)
    known = meanings(dataset.classes, dataset.num_classes, config.classes)
    work = Work(config, dataset, cache_dir, device, every, mine, noise)
    encoder = open_encoder(config.encoder, cache_dir, device, sum(span.rows for span in mine))
    texts = parts.text_pieces(config.output, dataset, encoder, config.text)
    features = config.judge.features
    source = _open_source(features) if features else None
    pictures = None if source is None else _picture_pieces(work, source)
    _fill(texts, work, encoder)
    if source is not None and pictures is not None:
        _fill_pictures(pictures, work, source)
    left = texts.missing(every) + (pictures.missing(every) if pictures is not None else [])
    if left:
        logger.info("%d pieces of others are missing; the last of them judges", len(left))
        return
    finish(work, encoder, known, texts, pictures)


def _fill(pieces: Pieces, work: Work, encoder: Encoder) -> None:
    missing = pieces.missing(work.mine)
    logger.info("%d of %d pieces of texts are there", len(work.mine) - len(missing), len(work.mine))
    for span in missing:
        pieces.keep(span, parts.encode_span(work.dataset, span, encoder, work.config.text))


def _open_source(address: str) -> Source:
    from trainer.runs import open_named

    return open_named("judge.features", address)


def _picture_pieces(work: Work, source: Source) -> Pieces:
    """The pieces of the pictures' features by a run."""
    made_of = [work.dataset.sha256, source.config.model.name, source.manifest.objects[0].sha256]
    return Pieces.of(work.config.output, "features", made_of)


def _fill_pictures(pieces: Pieces, work: Work, source: Source) -> None:
    missing = pieces.missing(work.mine)
    if not missing:
        return
    from trainer.learn.features import features_of

    network = source.network().to(work.device).eval()
    for span in missing:
        found = features_of(
            network,
            work.dataset,
            span.ids,
            source.config.data,
            source.config.input,
            work.device,
            work.cache_dir,
        )
        pieces.keep(span, {"features": found})
        logger.info("features of %d pictures from %d", span.rows, span.first)


def finish(
    work: Work, encoder: Encoder, known: Meanings, texts: Pieces, pictures: Pieces | None
) -> None:
    """Judges all samples and writes what training takes."""
    labels = work.dataset.index()["label"].astype(np.int64)
    scores, gathered = measured(work, labels, texts, space_of(known, encoder), encoder.dim)
    near = None if pictures is None else _gathered(pictures, work)
    conclude(work, encoder.name, labels, scores, gathered, near)


def conclude(
    work: Work,
    encoder: str,
    labels: NDArray[np.int64],
    scores: NDArray[Any],
    texts: Gathered | None,
    pictures: Gathered | None,
) -> None:
    """From what was measured to what training takes. scores: (N,) SCORES, to be completed."""
    evidence = Evidence(
        labels, margins(scores), parts.tells(scores), texts, pictures, network=work.noise
    )
    verdict = judge(evidence, work.dataset.num_classes, work.config.judge)
    del evidence  # of 16 M samples it would be in the way
    scores["text"], scores["probability"] = verdict.text, verdict.probability
    _write(work, encoder, labels, scores, verdict)


def measured(
    work: Work, labels: NDArray[np.int64], pieces: Pieces, space: Space, dim: int
) -> tuple[NDArray[Any], Gathered | None]:
    """SCORES of all samples, probabilities not yet; and the vectors, where they are needed."""
    dataset = work.dataset
    scores = np.zeros(dataset.num_samples, SCORES)
    gathered = Gathered(dataset.num_samples, dim) if work.config.judge.neighbours else None
    for span in work.every:
        piece = pieces.read(span)
        if gathered is not None:
            gathered.fill(span.ids, piece["vectors"])
        vectors = piece["vectors"].astype(np.float32)
        found = measure(vectors, labels[span.ids], space)
        for part in (found, piece["facts"]):
            for name in part.dtype.names or ():
                scores[name][span.ids] = part[name]
    return scores, gathered


def _gathered(pieces: Pieces, work: Work) -> Gathered:
    first = pieces.read(work.every[0])["features"]
    gathered = Gathered(work.dataset.num_samples, first.shape[1])
    for span in work.every:
        gathered.fill(span.ids, pieces.read(span)["features"])
    return gathered


def _write(
    work: Work, encoder: str, labels: NDArray[np.int64], scores: NDArray[Any], verdict: Verdict
) -> None:
    config, dataset, probability = work.config, work.dataset, verdict.probability
    store = open_store(config.output)
    selection = select(probability, labels, dataset.num_classes, config.select)
    # One after the other: of 16 M samples none is small.
    files = {
        "scores.npy": keep_array(store, "scores.npy", scores),
        "selection.npy": keep_array(store, "selection.npy", selection),
        "weights.npy": keep_array(store, "weights.npy", loss_weights(probability, config.select)),
        "sampling.npy": keep_array(
            store, "sampling.npy", sampling_weights(probability, labels, config.select)
        ),
    }
    summary = {
        "schemaVersion": 1,
        "data": dataset.address,
        "dataset_sha256": dataset.sha256,
        "num_samples": dataset.num_samples,
        "encoder": encoder,
        "config": asdict(config),
        "num_telling": int(parts.tells(scores).sum()),
        "num_empty": int((scores["words"] == 0).sum()),
        "mean_probability": round(float(probability.mean()), 4),
        "num_selected": len(selection),
        "class_right_rates": verdict.right.round(4).tolist(),
        "sources": by_source(probability, scores, parts.SOURCES),
        "files": files,
    }
    store.put(SUMMARY_KEY, (json.dumps(summary, indent=1) + "\n").encode())
    print(json.dumps({key: summary[key] for key in TOLD} | {"out": store.address}), flush=True)


TOLD = ("schemaVersion", "num_samples", "num_telling", "num_selected", "mean_probability")


if __name__ == "__main__":
    run_entry(TextfilterConfig, textfilter)
