"""A run on a real node fine-tuned at a larger input, a pod lost meanwhile, counted by its stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.controllers import until
from tests.cluster.ledgers import CLUSTER
from tests.e2e.accounts import exactly_once
from tests.e2e.chaos import calm, lose_worker
from tests.e2e.cluster_runs import ClusterRun
from tests.e2e.ledgered import kept_ledger
from tests.e2e.runs import launcher
from tests.servers import S3Server
from trainer.config import FinetuneConfig, parse

BUDGET = "e2e-stages"
EPOCHS = 5


def test_a_run_is_fine_tuned_through_a_loss_and_counted_by_its_stage(
    make_cluster_run: Callable[..., ClusterRun],
    node_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = f"--budget={BUDGET}"
    first = make_cluster_run("first", budget, workers=(1, 1, 1), epochs=2)
    tuned = make_cluster_run("tuned", budget, workers=(2, 2, 2), epochs=EPOCHS)
    for name, value in node_s3.environment().items():
        monkeypatch.setenv(name, value)  # the new run is made of what the bucket holds
    limits = ("--gpu-days", "10", "--mode", "soft")
    with kept_ledger(first, BUDGET, tmp_path, *limits) as ledger:
        first.submit()
        first.finished("200s")
        tuned.finetune(first.name, "--image-size", "40", "--pool", "gem", "--statistics", "192")
        calm(tuned, 2)
        lose_worker(tuned)
        tuned.finished("200s")
        assert tuned.status()["state"] == "Succeeded"
        exactly_once(tuned, EPOCHS)
        assert tuned.generation() > 1

        run = parse(FinetuneConfig, tuned.stored("run.yaml"), source="run.yaml")
        assert run.start.address == first.status()["checkpoints"]
        assert (run.input.size_px, run.model.pool, run.model.width) == (40, "gem", 0.25)
        losses = [line["loss"] for line in tuned.metrics() if line["event"] == "train"]
        begun = next(line["loss"] for line in first.metrics() if line["event"] == "train")
        assert losses[0] < begun, "it began with what the first had learnt"

        def used() -> dict[str, int]:
            flags = ("--by", "stage", "--ledger", str(ledger), "--cluster", CLUSTER, "-o", "json")
            found = json.loads(launcher("usage", *flags).stdout)
            return {each["stage"]: each["gpu_ms"] for each in found["rows"]}

        def counted() -> bool:
            return {"train", "finetune"} <= used().keys() and not tuned.pods()

        tuned.kubectl("delete", "pytorchjobs", "--all", "--timeout=60s")
        until(counted, "both stages are in the ledger", 90)
        print(used())
        assert min(used().values()) > 0
