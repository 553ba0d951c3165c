"""A text filtering on the real node: a pod is lost, the output is as here, GPUs are counted."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.e2e.cluster_runs import ClusterRun
from tests.e2e.ledgered import kept_ledger
from tests.e2e.losses import flags, gone_and_counted, lose_a_pod
from tests.e2e.runs import launcher
from tests.raws import picture
from tests.servers import BUCKET, S3Server
from trainer.data.write import Writer
from trainer.storage import open_store

NAME, BUDGET = "texts", "e2e-texts"
CLASSES = ("heron", "excavator", "violin")
WORDS = ("wading bird of marshes", "digging machine with a bucket", "bowed string instrument")
NUM_SAMPLES = 26_000
"""Three pieces of texts: the fourth index finds none left."""
INDEXES = 4
OUTPUTS = ("scores.npy", "selection.npy", "weights.npy", "sampling.npy")


def write_texts(address: str) -> None:
    """Samples of one picture, whose texts name their class, or another one."""
    draw = np.random.default_rng(0)
    image = picture(0)
    writer = Writer(open_store(address), 4 << 20, NUM_SAMPLES)
    for number in range(NUM_SAMPLES):
        label = number % 3
        shown = label if draw.random() < 0.6 else int(draw.integers(3))
        texts = {
            "name": f"google/{number}.jpg",
            "query": CLASSES[label],
            "title": f"{CLASSES[shown]} {draw.choice(('at dawn', 'by the lake', 'for sale'))}",
            "description": WORDS[shown] if draw.random() < 0.5 else "",
            "tags": [f"tag{number % 97}"],
        }
        writer.add(image, zlib.crc32(image), label, texts)
    writer.commit(CLASSES, {"layout": "webvision-2.0", "split": "train"})
    writer.close(keep=True)


def test_a_filtering_survives_a_lost_pod_and_is_counted(
    make_cluster_run: Callable[..., ClusterRun],
    node_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_cluster_run(NAME)  # for its namespace; no training is submitted
    for name, value in node_s3.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/{run.namespace}"
    write_texts(f"{place}/webtexts")
    meanings = [
        {"names": [name], "description": words} for name, words in zip(CLASSES, WORDS, strict=True)
    ]
    open_store(place).put("classes.yaml", yaml.safe_dump(meanings).encode())
    given = (
        "--data",
        f"{place}/webtexts",
        "--model",
        "ngrams",
        f"classes.file={place}/classes.yaml",
    )

    here = tmp_path / "here"
    local = ("--local", "--name", NAME, "--checkpoints", str(here), "--wait")
    launcher("textfilter", "run", *given, *local)

    with kept_ledger(run, BUDGET, tmp_path, "--gpu-days", "10", "--mode", "soft") as ledger:
        launcher("textfilter", "run", *given, *flags(run, NAME, INDEXES, BUDGET, tmp_path))
        lose_a_pod(run, NAME)
        run.finished("300s")
        assert f"{INDEXES}/{INDEXES} indexes done" in run.tell()

        store = open_store(f"{place}/out/{NAME}")
        for output in OUTPUTS:
            assert store.get(output) == (here / NAME / output).read_bytes(), output
        summary = json.loads(store.get("summary.json"))
        assert summary["num_samples"] == NUM_SAMPLES
        scores = np.load(io.BytesIO(store.get("scores.npy")), allow_pickle=False)
        assert 0.6 < scores["probability"].mean() < 0.85  # 73 % of the labels are right

        gone_and_counted(run, NAME, "textfilter", ledger)
