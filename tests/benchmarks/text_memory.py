"""Peak memory of one half of judging, in a process of its own: a child of bench_textfilter.

    python -m tests.benchmarks.text_memory {measure,conclude} SAMPLES

measure: scores from vectors that are encoded already, piece by piece; vectors are drawn, pieces are
real ones in a folder. conclude: from drawn scores to the files that training takes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from trainer import textfilter
from trainer.config import ClassesConfig, EncoderConfig, TextfilterConfig
from trainer.data.shards import INDEX, Dataset, Shard
from trainer.pieces import spans
from trainer.text import parts
from trainer.text.classes import Meaning, Meanings
from trainer.text.measure import space_of
from trainer.text.mixture import blocks
from trainer.text.ngrams import Ngrams

DIM, NUM_CLASSES, BACKGROUND = 384, 5000, 256
SHARD_SAMPLES = 8192
BYTES_A_SAMPLE = textfilter.SCORES.itemsize + np.dtype(np.int64).itemsize
"""What measuring keeps: scores and label."""


class Drawn(Ngrams):
    """An encoder of vectors that mean nothing."""

    name, dim = "drawn", DIM

    def encode(self, texts: object) -> np.ndarray:
        draw = np.random.default_rng(0)
        found = draw.standard_normal((len(texts), DIM), np.float32)  # type: ignore[arg-type]
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def dataset_of(folder: Path, count: int) -> Dataset:
    """A dataset of an index alone."""
    index = np.lib.format.open_memmap(folder / "index.npy", "w+", INDEX, (count,))
    for part in blocks(count):
        index["label"][part] = np.arange(part.start, part.stop) % NUM_CLASSES
    sizes = [min(SHARD_SAMPLES, count - at) for at in range(0, count, SHARD_SAMPLES)]
    shards = tuple(Shard(f"{i}.tar", 1, "0" * 64, size) for i, size in enumerate(sizes))
    return Dataset(folder.as_uri(), "0" * 64, count, NUM_CLASSES, (), shards, folder / "index.npy")


def work_of(folder: Path, count: int) -> textfilter.Work:
    config = TextfilterConfig(
        data=folder.as_uri(),
        output=str(folder / "out"),
        encoder=EncoderConfig(model="drawn"),
        classes=ClassesConfig(background=0),
    )
    dataset = dataset_of(folder, count)
    every = spans(dataset)
    return textfilter.Work(config, dataset, folder, torch.device("cpu"), every, every, None)


def measure(work: textfilter.Work) -> None:
    encoder = Drawn()
    pieces = parts.text_pieces(work.config.output, work.dataset, encoder, work.config.text)
    draw = np.random.default_rng(1)
    for span in work.every:
        facts = np.zeros(span.rows, parts.FACTS)
        facts["words"] = draw.integers(0, 9, span.rows)
        vectors = draw.standard_normal((span.rows, DIM), np.float32).astype(np.float16)
        pieces.keep(span, {"vectors": vectors, "facts": facts})
    known = Meanings(
        tuple(Meaning(f"class {i}", (f"class {i}",)) for i in range(NUM_CLASSES)),
        tuple(f"thing {i}" for i in range(BACKGROUND)),
        tuple(str(i) for i in range(BACKGROUND)),
    )
    labels = work.dataset.index()["label"].astype(np.int64)
    textfilter.measured(work, labels, pieces, space_of(known, encoder), DIM)


def conclude(work: textfilter.Work) -> None:
    labels = work.dataset.index()["label"].astype(np.int64)
    scores = np.zeros(len(labels), textfilter.SCORES)
    draw = np.random.default_rng(1)
    for part in blocks(len(labels)):
        rows = scores[part]
        for name in ("own", "other", "sense", "background"):
            rows[name] = draw.standard_normal(len(rows), np.float32)
        rows["words"] = draw.integers(0, 10, len(rows))  # nine tenths tell something
    textfilter.conclude(work, "drawn", labels, scores, None, None)


def peak_bytes() -> int:
    """Of this process since it began to run this program."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    half, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        {"measure": measure, "conclude": conclude}[half](work_of(Path(name), count))
        print(peak_bytes())


if __name__ == "__main__":
    main()
