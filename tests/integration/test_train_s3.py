"""A run whose data, checkpoints and metrics lie in a bucket of a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.integration.test_train import BATCH, OPTIONS, SAMPLES
from tests.raws import picture, write_dataset
from trainer.storage import open_store

EPOCHS = 30


def started(address: str, folder: Path) -> subprocess.Popen[str]:
    options = [
        *(option for option in OPTIONS if not option.startswith("checkpoint.every")),
        f"data.train={address}/data",
        f"data.cache_dir={folder}/cache",
        f"checkpoint.address={address}/run",
        "checkpoint.every_epochs=1",
        f"epochs={EPOCHS}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.train", *options],
        env=os.environ | {"RUN_CONFIG": "name: bucket\n"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(address: str) -> list[dict[str, Any]]:
    text = open_store(f"{address}/run").get("metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def committed(address: str) -> list[str]:
    entries = open_store(f"{address}/run").list("step-")
    return [entry.key for entry in entries if entry.key.endswith("/manifest.json")]


def test_a_killed_run_goes_on_from_the_bucket(s3_address: str, tmp_path: Path) -> None:
    write_dataset(f"{s3_address}/data", [picture(number) for number in range(SAMPLES)])
    process = started(s3_address, tmp_path)
    until = time.monotonic() + 200
    while not committed(s3_address) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = max(int(key[5:15]) for key in committed(s3_address))

    process = started(s3_address, tmp_path)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    start, *_, end = (line for line in lines(s3_address) if line["generation"] == 2)
    assert start["parent_update"] >= kept > 0
    assert (end["reason"], end["seen"]) == ("completed", EPOCHS * SAMPLES)
    assert end["update"] == EPOCHS * SAMPLES // BATCH
    # Nothing of the killed process's last upload is left to pay for, and no draft is visible.
    manifests = committed(s3_address)
    keys = [entry.key for entry in open_store(f"{s3_address}/run").list("step-")]
    states = [key for key in keys if key.endswith("/state.safetensors")]
    assert len(states) == len(manifests)


def test_a_bucket_that_is_not_there_is_one_line(s3_address: str, tmp_path: Path) -> None:
    process = started("s3://no-such-bucket/a", tmp_path)
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    last = said.strip().splitlines()[-1]
    assert "s3://no-such-bucket/a/data" in last
    assert not list(tmp_path.rglob("*.tar"))
