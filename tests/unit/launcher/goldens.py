"""Golden files: what each recipe renders to. `python -m tests.unit.launcher.goldens` rewrites.

They are meant for review: a change of rendering shows as a difference of these files.
"""

from __future__ import annotations

from pathlib import Path

from launcher.indexed import resolve_indexed
from launcher.render import render, to_yaml
from launcher.request import IndexedRequest, Request, Work
from launcher.resolve import recipes, resolve
from launcher.settings import KEYS, Setting, Settings
from launcher.spec import IndexedSpec, JobSpec
from launcher.tuning import Wishes, tuned_run
from tests import parts
from trainer.config import StartConfig

FOLDER = Path(__file__).parent / "golden"
NOTHING_SET = Settings({key: Setting("", "built-in") for key in KEYS}, ())
GIVEN = {
    "image": "registry.example/trainer@sha256:" + "0" * 64,
    "data": "s3://webvision/train",
    "val": "s3://webvision/val",
    "checkpoints": "s3://webvision/runs",
}


def spec(request: Request) -> JobSpec:
    """The job of a request where nothing but it is set."""
    return resolve(request, NOTHING_SET, lambda name: f"file:///runs/{name}").spec


def requests() -> dict[str, Request]:
    """A request for each golden file."""
    every = {
        name: Request(model=name, name=f"{name.replace('_', '-')}-golden", **GIVEN)
        for name in recipes()
    }
    every["resnet18-local"] = Request(
        model="resnet18", name="local", local=True, data="file:///shards", max_workers=3
    )
    every["senet154-elastic"] = Request(
        model="senet154",
        name="elastic",
        gpus=64,
        min_gpus=8,
        max_gpus=96,
        namespace="ml",
        budget="webvision",
        stage="finetune",
        queue="train",
        overrides=(
            "job.s3_secret=s3",
            "job.priority_class=train-normal",
            "job.gpu_product=NVIDIA-H100-80GB-HBM3",
            "log.metrics_port=0",
        ),
        **GIVEN,
    )
    platform = (
        "job.image_pull_secrets=[registry]",
        "job.service_account=trainer",
        "job.ca_bundle=trust",
        "job.proxy.https=http://proxy.example:3128",
        "job.env.NCCL_DEBUG=INFO",
        "job.env_secrets=[tokens]",
        "job.tolerations=[team=vision:NoSchedule]",
        "job.gpu_product=NVIDIA-H200,NVIDIA-H100-80GB-HBM3",
        "job.fabric.kind=rdma",
        "job.deadline_s=172800",
    )
    every["senet154-platform"] = Request(
        model="senet154",
        name="platform",
        gpus=64,
        queue="train",
        overrides=(
            *platform,
            "job.kueue.priority_class=high",
            "job.kueue.topology=preferred",
            "job.kueue.topology_level=cloud.provider.com/topology-block",
        ),
        **GIVEN,
    )
    every["senet154-trainjob"] = Request(
        model="senet154",
        name="fixed",
        gpus=64,
        backend="trainjob",
        overrides=(*platform, "job.gang.scheduler=volcano", "job.gang.queue=vision"),
        **GIVEN,
    )
    source = spec(every["senet154"]).run
    wishes = Wishes(320, "gem", StartConfig(frozen_stages=1))
    tuned, _ = tuned_run(source, source.checkpoint.address, wishes)
    every["senet154-finetune"] = Request(
        model="senet154", name="tuned", stage="finetune", tuned=tuned, **GIVEN
    )
    return every


def indexed(request: IndexedRequest, work: Work) -> IndexedSpec:
    """The job of independent parts of a request where nothing but it is set."""
    return resolve_indexed(request, work, NOTHING_SET, lambda name: f"file:///runs/{name}").spec


def indexed_specs() -> dict[str, IndexedSpec]:
    """What each golden file of an Indexed Job is made of."""
    given = {"image": GIVEN["image"], "checkpoints": GIVEN["checkpoints"]}
    platform = IndexedRequest(
        **given,
        name="parts-of-gpus",
        gpus=2,
        parallelism=16,
        namespace="ml",
        budget="webvision",
        deadline_s=7200,
        queue="train",
        overrides=("trouble=once", "job.s3_secret=s3", "job.ledger=true", "job.ca_bundle=trust"),
    )
    return {
        "parts": indexed(IndexedRequest(**given, name="parts"), parts.work(4)),
        "parts-gpus": indexed(platform, parts.work(64)),
        "parts-local": indexed(IndexedRequest(name="parts", local=True), parts.work(4)),
    }


def rendered(request: Request) -> str:
    """The text of a golden file."""
    return to_yaml(render(spec(request)))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, request in requests().items():
        (FOLDER / f"{name}.yaml").write_text(rendered(request), encoding="utf-8")
    for name, made in indexed_specs().items():
        (FOLDER / f"{name}.yaml").write_text(to_yaml(render(made)), encoding="utf-8")


if __name__ == "__main__":
    main()
