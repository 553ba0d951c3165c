"""Which GPUs a local worker sees: its own, as a node's device plugin would hand them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.errors import UsageError
from launcher.local.job import Job

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this machine shows us, as CUDA names them; empty to train on the CPU."""
    if VISIBLE in environment:
        return [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    return [str(number) for number in range(len(list(devices.glob("nvidia[0-9]*"))))]


def check(job: Job, gpus: Sequence[str]) -> None:
    """Raises UsageError where there are GPUs, but not one for each process of the largest group, or
    not those of a single part."""
    if job.parts is not None:
        if gpus and job.num_processes > len(gpus):
            raise UsageError(
                f"--gpus is {job.num_processes}, but this machine shows {len(gpus)}; ask for "
                f"fewer, or set {VISIBLE}= (to nothing) to compute on the CPU"
            )
        return
    wanted = job.most * job.num_processes
    if gpus and wanted > len(gpus):
        raise UsageError(
            f"--max-workers {job.most} with {job.num_processes} processes each would need {wanted}"
            f" GPUs, but this machine shows {len(gpus)}; ask for fewer, or set {VISIBLE}= (to"
            " nothing) to train on the CPU"
        )


def share(job: Job, worker: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment that shows a worker its own GPUs, the same ones after each restart."""
    if not gpus:
        return {}
    first = worker * job.num_processes
    return {VISIBLE: ",".join(gpus[first : first + job.num_processes])}


def kind(driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The type of this machine's GPUs as their driver names it, such as `NVIDIA H200`."""
    for file in sorted(driver.glob("*/information")):
        for line in file.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and value.strip():
                return value.strip()
    return "gpu"
