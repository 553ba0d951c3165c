"""The texts of a dataset, prepared and encoded."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import TextConfig
from trainer.data.records import texts_of_shard
from trainer.data.shards import Dataset
from trainer.pieces import Pieces, Span
from trainer.text.encoder import Encoder, encode_once
from trainer.text.prepare import prepare

logger = logging.getLogger(__name__)

VERSION = 2
"""Changes whenever the same texts would be prepared otherwise."""
FACTS = np.dtype([("words", "<u2"), ("query_words", "<u2"), ("source", "u1")])
"""Telling words, those of the query among them, and where the picture is from: see SOURCES."""
SOURCES = ("other", "google", "flickr")


def tells(facts: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) whether a text has a word beside the query's, as `Prepared.tells`. facts: (n,) with the
    columns of FACTS."""
    more: NDArray[np.bool_] = facts["words"] > facts["query_words"]
    return more


def text_pieces(out: str, dataset: Dataset, encoder: Encoder, config: TextConfig) -> Pieces:
    """The pieces of a dataset's texts: vectors (n, d) float16 and facts (n,) of FACTS."""
    made_of = [VERSION, dataset.sha256, encoder.name, encoder.dim, asdict(config)]
    return Pieces.of(out, "texts", made_of)


def encode_span(
    dataset: Dataset, span: Span, encoder: Encoder, config: TextConfig
) -> dict[str, NDArray[Any]]:
    """The arrays of one piece."""
    began = time.monotonic()
    records = [record for number in span.shards for record in texts_of_shard(dataset, number)]
    prepared = [prepare(record, config) for record in records]
    vectors = encode_once(encoder, [each.text for each in prepared]).astype(np.float16)
    facts = np.zeros(len(records), FACTS)
    facts["words"] = [min(each.num_words, 65535) for each in prepared]
    facts["query_words"] = [min(each.num_query_words, 65535) for each in prepared]
    facts["source"] = [_source(str(record.get("name") or "")) for record in records]
    different, rate = len({p.text for p in prepared}), len(records) / (time.monotonic() - began)
    logger.info(
        "texts from %d: %d, %d different, %.0f a second", span.first, len(records), different, rate
    )
    return {"vectors": vectors, "facts": facts}


def _source(name: str) -> int:
    return next((i for i, source in enumerate(SOURCES) if name.startswith(source)), 0)
