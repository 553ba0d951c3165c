"""An ensemble of two networks on the real node: a pod is lost, the answers are as here, counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster_runs import ClusterRun
from tests.e2e.ledgered import kept_ledger
from tests.e2e.losses import flags, gone_and_counted, lose_a_pod
from tests.e2e.runs import launcher
from tests.ensembles import COUNT, MANNER, House
from tests.servers import BUCKET, S3Server
from trainer.storage import open_store

NAME, BUDGET = "answers", "e2e-ensemble"
INDEXES = 4


def test_an_ensemble_survives_a_lost_pod_and_is_counted(
    make_cluster_run: Callable[..., ClusterRun],
    node_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_cluster_run(NAME)  # for its namespace; no training is submitted
    for name, value in node_s3.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/{run.namespace}"
    house = House(tmp_path / "house")
    house.upload(place)
    runs = [word for each in house.runs for word in ("--run", f"{place}/{each.name}")]
    given = (
        *("--data", f"{place}/val", *runs, "--crops", "10", "--crops", "144"),
        *("part_samples=20", "loader_processes=0", *MANNER),
    )
    here = tmp_path / "here"
    launcher(
        "ensemble", "run", *given, "--local", "--name", NAME, "--checkpoints", str(here), "--wait"
    )

    with kept_ledger(run, BUDGET, tmp_path, "--gpu-days", "10", "--mode", "soft") as ledger:
        launcher("ensemble", "run", *given, *flags(run, NAME, INDEXES, BUDGET, tmp_path))
        lose_a_pod(run, NAME)
        run.finished("300s")
        assert f"{INDEXES}/{INDEXES} indexes done" in run.tell()

        there = open_store(f"{place}/out/{NAME}")
        kept = sorted(e.key for e in there.list("members/") if e.key.endswith(".npy"))
        local = open_store(str(here / NAME))
        assert kept == sorted(e.key for e in local.list("members/") if e.key.endswith(".npy"))
        assert len({key.rpartition("/")[0] for key in kept}) == 4  # two networks, two crop sets
        for key in kept:
            assert there.get(key) == local.get(key), key
        found = launcher(
            "ensemble", "combine", f"{place}/out/{NAME}", "--crops", "144", "-o", "json"
        )
        assert json.loads(found.stdout)["num_read"] == COUNT

        gone_and_counted(run, NAME, "ensemble", ledger)
