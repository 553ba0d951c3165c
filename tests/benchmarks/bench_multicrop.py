"""Ten crops of a picture: ten forward passes as they are mostly written, against ours.

The peer normalises a crop, asks the network in fp32 as it comes (contiguous, eager, one crop a
pass) and averages the softmax; ours is what an ensemble does with what it finds the faster. Both
begin from the same uint8 crops, in turn; a row is the median of pairs after one to warm up. Dense
evaluation, another estimator, has rows of its own. The rows of AVX2 are of children that are denied
all later instructions. Networks of the speeds have random weights; MULTICROP_NETWORKS,
MULTICROP_PAIRS.

With MINI_WEBVISION set, a ResNet-50 is trained on it first (MULTICROP_EPOCHS at MULTICROP_PX, kept
and resumed under $XDG_STATE_HOME/launcher/benchmarks), and the answers of both ways about its
validation pictures are compared: how many agree in the first class, and the largest difference.

On a GPU, rows of the seven networks follow: one crop a picture at each one's own size, beside the
limit of that GPU (limits.py), and all of them together; MULTICROP_SINGLES.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from launcher.local.folder import state_root
from launcher.plan.networks import packaged_networks
from tests.benchmarks.limits import INFERENCE, limit
from tests.benchmarks.narrow import narrow, tell
from tests.benchmarks.table import Row
from trainer.config import DataConfig, EnsembleConfig, InputConfig, ModelConfig
from trainer.data.cache import cache_folder
from trainer.data.shards import Dataset, open_dataset
from trainer.infer.crops import CropSet, Views, crop_set
from trainer.infer.forward import Forward, Manner, choose
from trainer.infer.predictions import mean_answer
from trainer.infer.views import group_rows, groups
from trainer.learn import models
from trainer.learn.engine import normalise
from trainer.learn.placement import has_bf16, own_device
from trainer.runs import Source, open_run

NETWORKS = os.environ.get("MULTICROP_NETWORKS", "resnet50,seresnext50_32x4d").split(",")
PAIRS = int(os.environ.get("MULTICROP_PAIRS", "5"))
EPOCHS = os.environ.get("MULTICROP_EPOCHS", "6")
SIDE_PX = os.environ.get("MULTICROP_PX", "64")
SIZE_PX, RATIO, CLASSES = 224, 0.875, 1000
TARGETS = {"resnet50": ">= 9", "seresnext50_32x4d": ">= 6"}
AVX2_TARGET = ">= 1.8"
AGREEMENT = 0.995
SINGLES = os.environ.get("MULTICROP_SINGLES", ",".join(packaged_networks())).split(",")
SINGLE_TARGETS = {"resnext152d_32x4d": ">= 3000 img/s"}
SINGLE_PICTURES = 1024
PICTURES = 16
"""Of a call of ours: its passes are filled."""
MANY = 1 << 40
"""Views to come: compiling pays."""

Answer = Callable[[], Tensor]


def measure() -> list[Row]:
    """The rows of this processor, of AVX2 alone or a GPU's, and of how near the answers are."""
    on_gpu = own_device().type == "cuda"
    targets = {} if on_gpu else TARGETS
    fast = has_bf16(own_device())
    rows = [row for name in NETWORKS for row in speeds(name, fast, targets.get(name, ""))]
    rows += singles(SINGLES) if on_gpu else narrow(__name__)
    data = os.environ.get("MINI_WEBVISION")
    return rows + (nearness(data) if data else [])


def speeds(name: str, fast: bool, target: str, where: str = "") -> list[Row]:
    """Exact ten crops with a target, dense evaluation without."""
    torch.manual_seed(0)
    input = InputConfig(size_px=SIZE_PX, crop_ratio=RATIO)
    config = EnsembleConfig(precision="auto" if fast else "fp32")
    rows = []
    for crops in (crop_set("10", SIZE_PX, RATIO), crop_set("dense", SIZE_PX, RATIO)):
        exact = crops.name == "10"
        (kind,) = crops.views
        theirs = naive(models.build(ModelConfig(name=name), CLASSES), input)
        network = models.build(ModelConfig(name=name), CLASSES)
        manner = choose(network, input, config, kind.side_px, MANY, own_device())
        ours = fast_one(Forward(network, input, manner, own_device()), crops, kind)
        peer_s, our_s = in_turn(theirs, ours)
        label = "exact ten crops" if exact else "dense"
        what = f"{name}, {label} at {SIZE_PX} px{where}: {told(manner)}"
        wanted = target if exact else ""
        rows.append(Row(what, "ms/picture", "ten passes, fp32", 1e3 * peer_s, 1e3 * our_s, wanted))
    return rows


def told(manner: Manner) -> str:
    words = f"{manner.precision} {manner.layout} by {manner.batch}"
    return words if manner.compiled == "off" else f"{words} compiled"


def random_views(kind: Views, pictures: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    shape = (pictures, kind.number, 3, kind.side_px, kind.side_px)
    return torch.randint(256, shape, generator=draw, dtype=torch.uint8)


def naive(network: nn.Module, input: InputConfig) -> Answer:
    """One picture's ten crops, one after the other."""
    (kind,) = crop_set("10", SIZE_PX, RATIO).views
    views = random_views(kind, 1)[0]
    placed = network.to(own_device()).eval()
    return lambda: ten_passes(placed, views, input)


@torch.no_grad()
def ten_passes(network: nn.Module, views: Tensor, input: InputConfig) -> Tensor:
    """(K,) mean probabilities of five views and their mirror images. views: (5, 3, s, s) uint8."""
    total = torch.zeros(())
    for each in (*views, *views.flip(-1)):
        logits = network(normalise(each[None], input, own_device(), "nchw"))
        total = total + logits.softmax(1)[0].cpu()
    return total / (2 * len(views))


def fast_one(forward: Forward, crops: CropSet, kind: Views) -> Answer:
    """PICTURES pictures at once."""
    views = random_views(kind, PICTURES)
    return lambda: mean_answer(forward, crops, {kind: views}, "probabilities")


def in_turn(theirs: Answer, ours: Answer) -> tuple[float, float]:
    """Median seconds a picture of each."""
    peer, our = [], []
    for number in range(PAIRS + 1):
        first, second = timed(theirs), timed(ours) / PICTURES
        if number:
            peer.append(first)
            our.append(second)
    return statistics.median(peer), statistics.median(our)


def timed(answer: Answer) -> float:
    began = time.perf_counter()
    answer()
    return time.perf_counter() - began


def singles(names: list[str]) -> list[Row]:
    """One crop a picture: a row of each network, and one of all."""
    rows = [single(name) for name in names]
    ours = 1 / sum(1 / row.value for row in rows)
    most = 1 / sum(1 / row.peer_value for row in rows)
    what = f"{len(rows)} networks one after the other, one crop each"
    return [*rows, Row(what, "img/s", rows[0].peer, most, ours, "", more_is_better=True)]


def single(name: str) -> Row:
    size_px, device = packaged_networks()[name].size_px, own_device()
    torch.manual_seed(0)
    input = InputConfig(size_px=size_px, crop_ratio=RATIO)
    network = models.build(ModelConfig(name=name), CLASSES)
    manner = choose(network, input, EnsembleConfig(), size_px, MANY, device)
    crops = crop_set("1", size_px, RATIO)
    (kind,) = crops.views
    views = {kind: random_views(kind, SINGLE_PICTURES).pin_memory()}
    forward = Forward(network, input, manner, device)
    times = [
        timed(lambda: mean_answer(forward, crops, views, "probabilities")) for _ in range(PAIRS + 1)
    ]
    rate = SINGLE_PICTURES / statistics.median(times[1:])
    what = f"{name}, one crop of {size_px} px: {told(manner)}"
    most, target = limit(name, INFERENCE), SINGLE_TARGETS.get(name, "")
    peer = f"fitted limit of {torch.cuda.get_device_name()}"
    return Row(what, "img/s", peer, most, rate, target, more_is_better=True)


def nearness(data: str) -> list[Row]:
    """How near our answers are to the peer's, of a network that was trained on real pictures."""
    source, dataset = trained(data)
    input, network = source.config.input, source.network()
    crops = crop_set("10", input.size_px, input.crop_ratio)
    (kind,) = crops.views
    manner = choose(network, input, EnsembleConfig(), input.size_px, MANY, own_device())
    forward = Forward(network, input, manner, own_device())
    plain = source.network().to(own_device()).eval()
    same, largest = 0, 0.0
    rows = group_rows(kind.number, own_device())
    every = [slice(0, dataset.num_samples)]
    loading = DataConfig(loader_processes=0)
    for group in groups(dataset, loading, [kind], every, rows, cache_folder(), pin=False):
        ours = mean_answer(forward, crops, group.views, "probabilities")
        theirs = torch.stack([ten_passes(plain, each, input) for each in group.views[kind]])
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        largest = max(largest, float((ours - theirs).abs().max()))
    agreed = same / dataset.num_samples
    name = f"resnet50 trained at {input.size_px} px, {dataset.num_samples} pictures"
    alike, apart = (
        f"{name}: same first class, {told(manner)}",
        f"{name}: largest difference of a probability",
    )
    return [
        Row(alike, "share", "least allowed", AGREEMENT, agreed, f">= {AGREEMENT}", True),
        Row(apart, "1", "certainty", 1.0, largest, ""),
    ]


def trained(data: str) -> tuple[Source, Dataset]:
    """The run of a ResNet-50 on the packed or raw data, trained where it is not yet."""
    state = state_root().parent / "benchmarks" / "multicrop"
    sets = {split: packed(Path(data), state, split) for split in ("train", "val")}
    run = state / f"resnet50-{SIDE_PX}-{EPOCHS}"
    options = [
        f"checkpoint.address={run}", f"data.train={sets['train']}", f"data.val={sets['val']}",
        "model.name=resnet50", f"epochs={EPOCHS}", f"input.size_px={SIDE_PX}", "data.lanes=48",
        "input.scale_least=0.4", "update.global_batch=48", "update.micro_batch=48", "optim.lr=0.1",
        "update.mixup=0", "optim.warmup_epochs=1", "checkpoint.every_epochs=1",
        "evaluate.every_epochs=2", "log.metrics_port=0", "update.ema_half_life_epochs=0.5",
    ]  # fmt: skip
    environment = os.environ | {"RUN_CONFIG": "name: multicrop\n"}
    subprocess.run([sys.executable, "-m", "trainer.train", *options], env=environment, check=True)
    return open_run(str(run)), open_dataset(sets["val"], cache_folder())


def packed(data: Path, state: Path, split: str) -> str:
    """The address of a split, packed into the state's folder where it is raw."""
    if (data / split / "manifest.json").exists():
        return str(data / split)
    target = state / split
    if not (target / "manifest.json").exists():
        command = [sys.executable, "-m", "trainer.pack", str(data), str(target), "--split", split]
        subprocess.run(command, check=True)
    return str(target)


if __name__ == "__main__":
    tell([row for name in NETWORKS for row in speeds(name, False, AVX2_TARGET, ", AVX2 alone")])
