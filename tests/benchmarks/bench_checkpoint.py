"""Seconds that training stands still for a checkpoint of 1.4 GB: ours, and torch.save + upload.

Both write SENet-154's weights, averages and momenta (115 M values each) to the same S3 server on
loopback, in turn. The peer is what a training script does without a library: torch.save to a local
file, then boto3's managed upload, and only then the next step. Ours copies the state to host memory
and returns; hashing and upload run beside the training, whose speed meanwhile is measured too. The
disk, the server and the training share this machine: the last two rows are a worst case.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.table import Row
from tests.servers import BUCKET, S3Server, s3_server
from trainer.checkpoint import Keeper
from trainer.config import ModelConfig
from trainer.learn import models
from trainer.storage import open_store

ROUNDS = 3
COPY_GB_PER_S = 10.0
STAND_STILL_S = 0.25
"""The target where memory copies COPY_GB_PER_S."""
DEADLINE_S = 300.0
WORK = 768
"""Rows of the matrices whose products stand for training."""
WORK_S = 5.0

Products = tuple[int, float]
"""Matrix products done, and seconds they took."""


def measure() -> list[Row]:
    """Medians of the rounds."""
    state = senet154_state()
    size = sum(tensor.nbytes for tensor in state.values())
    with s3_server() as server:
        os.environ.update(server.environment())
        keeper = make_keeper()
        keeper.prepare(state)
        calm = products_until(lambda taken_s: taken_s >= WORK_S)
        stills, durables, losses, peers = [], [], [], []
        for update in range(1, ROUNDS + 1):
            peers.append(save_and_upload(state, server))
            still_s, durable_s, beside = save_beside(keeper, state, update)
            stills.append(still_s)
            durables.append(durable_s)
            losses.append(durable_s - beside[0] / rate(calm))
        keeper.close()
    copy = copy_gb_per_s(size)
    allowed_s = STAND_STILL_S * COPY_GB_PER_S / copy
    peer, still = statistics.median(peers), statistics.median(stills)
    title = f"stands still for {size / 1e9:.2f} GB"
    saved = "torch.save + upload"
    return [
        Row(title, "s", saved, peer, still, ">= 20 x shorter"),
        Row(
            f"{title}, memory copies {copy:.1f} GB/s",
            "s",
            f"{STAND_STILL_S} s at {COPY_GB_PER_S:.0f} GB/s",
            allowed_s,
            still,
            "<= peer's",
        ),
        Row("until it is committed", "s", saved, peer, statistics.median(durables), ""),
        Row(
            "training time lost, slower steps during the upload included",
            "s",
            saved,
            peer,
            statistics.median(losses),
            "",
        ),
    ]


def senet154_state() -> dict[str, Tensor]:
    """What a checkpoint of SENet-154 holds, on the CPU."""
    network = models.build(ModelConfig(name="senet154"), num_classes=5000)
    weights = network.state_dict()
    state = {f"model.{name}": value for name, value in weights.items()}
    state |= {f"ema.{name}": value.clone() for name, value in weights.items()}
    state |= {f"momentum.{name}": torch.rand_like(p) for name, p in network.named_parameters()}
    return {name: value.detach() for name, value in state.items()}


def make_keeper() -> Keeper:
    """A keeper of one checkpoint in the bucket."""
    store = open_store(f"s3://{BUCKET}/ours")
    keeper = Keeper(store, "bench", {"seed": 0}, "0" * 64, 1, 0, DEADLINE_S)
    keeper.claim()
    keeper.fence(None)
    return keeper


def save_beside(
    keeper: Keeper, state: Mapping[str, Tensor], update: int
) -> tuple[float, float, Products]:
    """Seconds that the save blocks, seconds until it is committed, and products meanwhile."""
    began_s = time.perf_counter()
    assert keeper.save(state, update=update, seen=update, epoch=0, facts={})
    still_s = time.perf_counter() - began_s
    beside = products_until(lambda _: keeper.flush(0))
    durable_s = time.perf_counter() - began_s
    assert keeper.last_update == update, "the save failed"
    return still_s, durable_s, beside


def save_and_upload(state: Mapping[str, Tensor], server: S3Server) -> float:
    """Seconds of torch.save to a local file and boto3's upload of it."""
    client = server.client()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        began_s = time.perf_counter()
        torch.save(dict(state), path)
        client.upload_file(str(path), BUCKET, "peer/state.pt")
        taken_s = time.perf_counter() - began_s
    client.delete_object(Bucket=BUCKET, Key="peer/state.pt")
    return taken_s


def products_until(done: Callable[[float], bool]) -> Products:
    """Multiplies matrices until `done`, which is given the seconds since the start."""
    left, right = torch.rand(WORK, WORK), torch.rand(WORK, WORK)
    count, began_s = 0, time.perf_counter()
    while not done(taken_s := time.perf_counter() - began_s):
        torch.mm(left, right)
        count += 1
    return count, taken_s


def rate(products: Products) -> float:
    return products[0] / products[1]


def copy_gb_per_s(size: int) -> float:
    """What one copy of so many bytes between two warm blocks of memory reaches."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    best_s = float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        target.copy_(source)
        best_s = min(best_s, time.perf_counter() - began_s)
    return size / 1e9 / best_s
