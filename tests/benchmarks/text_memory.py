"""Judges so many samples whose texts are encoded already, and tells its peak memory: a child of
bench_textfilter. Vectors are drawn, pieces are real ones in a folder."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.bench_textfilter import peak_bytes
from trainer import textfilter
from trainer.config import ClassesConfig, EncoderConfig, TextfilterConfig
from trainer.data.shards import INDEX, Dataset, Shard
from trainer.pieces import spans
from trainer.text import parts
from trainer.text.classes import Meaning, Meanings
from trainer.text.ngrams import Ngrams

SIZES = (500_000, 1_500_000)
DIM, NUM_CLASSES, BACKGROUND = 384, 5000, 256
SHARD_SAMPLES = 8192


class Drawn(Ngrams):
    """An encoder of vectors that mean nothing."""

    name, dim = "drawn", DIM

    def encode(self, texts: object) -> np.ndarray:
        draw = np.random.default_rng(0)
        found = draw.standard_normal((len(texts), DIM), np.float32)  # type: ignore[arg-type]
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def dataset_of(folder: Path, count: int) -> Dataset:
    """A dataset of an index alone."""
    index = np.zeros(count, INDEX)
    index["label"] = np.arange(count) % NUM_CLASSES
    np.save(folder / "index.npy", index)
    sizes = [min(SHARD_SAMPLES, count - at) for at in range(0, count, SHARD_SAMPLES)]
    shards = tuple(Shard(f"{i}.tar", 1, "0" * 64, size) for i, size in enumerate(sizes))
    return Dataset(folder.as_uri(), "0" * 64, count, NUM_CLASSES, (), shards, folder / "index.npy")


def main() -> None:
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = dataset_of(folder, count)
        config = TextfilterConfig(
            data=folder.as_uri(),
            output=str(folder / "out"),
            encoder=EncoderConfig(model="drawn"),
            classes=ClassesConfig(background=0),
        )
        encoder = Drawn()
        every = spans(dataset)
        pieces = parts.text_pieces(config.output, dataset, encoder, config.text)
        draw = np.random.default_rng(1)
        for span in every:
            facts = np.zeros(span.rows, parts.FACTS)
            facts["words"] = draw.integers(0, 9, span.rows)
            vectors = draw.standard_normal((span.rows, DIM), np.float32).astype(np.float16)
            pieces.keep(span, {"vectors": vectors, "facts": facts})
        known = Meanings(
            tuple(Meaning(f"class {i}", (f"class {i}",)) for i in range(NUM_CLASSES)),
            tuple(f"thing {i}" for i in range(BACKGROUND)),
            tuple(str(i) for i in range(BACKGROUND)),
        )
        work = textfilter.Work(config, dataset, folder, torch.device("cpu"), every, every, None)
        textfilter.finish(work, encoder, known, pieces, None)
        print(peak_bytes())


if __name__ == "__main__":
    main()
