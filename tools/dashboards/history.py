"""GENERATED series: a made-up fleet of the past month, for trying and drawing dashboards.

Nothing here was measured. It stands in for what the machine of the tests has not: GPUs (DCGM),
kube-state-metrics, Kueue, and a month of use. What it tells of a moment it tells as OpenMetrics of
the past (promtool makes blocks of it) or as a page that Prometheus scrapes now.
"""

from __future__ import annotations

import math
import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.dashboards.server import program

DAY_S, HOUR_S = 86400.0, 3600.0
COARSE_S, FINE_S = 240.0, 60.0
"""Between samples: of the month, below Prometheus' 5 minutes of memory, and of the last hours."""
FINE_HOURS = 4.0

Value = Callable[[float], float]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """One series: its value at any moment since it began (both in s before or after now)."""

    name: str
    labels: Labels
    value: Value
    since: float

    @property
    def identity(self) -> str:
        told = ",".join(f'{key}="{value}"' for key, value in self.labels.items())
        return f"{self.name}{{{told}}}"


@dataclass(frozen=True)
class Job:
    """A made-up job: where it runs, and how well."""

    name: str
    budget: str
    model: str
    gpus: int
    node: str
    since: float
    """s relative to now; negative."""
    hours: float = 0.0
    """Its whole length. 0: a trainer is real and tells the rest itself, or there is none yet."""
    speed: float = 100.0
    """Pictures a second of a GPU."""
    wait: float = 0.05
    """Share of an update that waits for data."""
    idle: int = 0
    """GPUs that do nothing."""


@dataclass(frozen=True)
class Use:
    """GPUs that a budget had of one model, between moments in days relative to now."""

    budget: str
    model: str
    gpu_type: str
    spans: tuple[tuple[float, float, int], ...]

    def gpus(self, t: float) -> float:
        return sum(n for start, end, n in self.spans if start <= t / DAY_S < end)

    def seconds(self, t: float) -> float:
        """GPU-seconds until then, from the first span on."""
        return sum(n * DAY_S * max(0.0, min(t / DAY_S, end) - start)
                   for start, end, n in self.spans)  # fmt: skip


FOREVER = 365.0
USES = (
    Use("webvision", "senet154", "NVIDIA-A100-SXM4-80GB",
        ((-20, -16, 8), (-15.5, -11, 16), (-10, -6, 8), (-5.5, FOREVER, 8))),
    Use("webvision", "nasnetalarge", "NVIDIA-A100-SXM4-80GB",
        ((-18, -12, 8), (-9, -3, 16), (-2, FOREVER, 16))),
    Use("webvision", "dpn98", "Tesla-V100-SXM2-32GB", ((-13, -9, 4), (-4, -1, 4))),
    Use("webvision", "resnet18", "NVIDIA-A100-SXM4-80GB", ((-0.1, FOREVER, 3),)),
    Use("pilot", "dpn98", "Tesla-V100-SXM2-32GB", ((-19, -15, 2), (-12, -7, 4), (-2, FOREVER, 4))),
)  # fmt: skip
JOBS = (
    Job("senet154-a1f0", "webvision", "senet154", 8, "gpu-1", -5.5 * DAY_S, 190, 92, 0.04),
    Job("nasnetalarge-77c2", "webvision", "nasnetalarge", 16, "gpu-2", -2 * DAY_S, 150, 21, 0.02),
    Job("dpn98-03be", "pilot", "dpn98", 4, "gpu-3", -2 * DAY_S, 60, 70, 0.31, 1),
    Job("seresnet152-9d41", "pilot", "seresnet152", 8, "", -0.4 * HOUR_S),
)
LIMITS = {"webvision": (500.0, 32.0, 1.0), "pilot": (40.0, 2.0, 0.0)}
"""GPU-days, GPU-days reserved, and whether it is enforced."""
PERIOD_DAYS = (-20.0, 10.0)
NODES = {"gpu-1": 8, "gpu-2": 16, "gpu-3": 8, "gpu-4": 4}


class History:
    """All generated series. now: the Unix time that offsets are counted from."""

    def __init__(self, now: float, days: float, real_job: str = "") -> None:
        """real_job: a job whose trainer is real; its GPUs and pods are made up here."""
        self.now, self.days = now, days
        self.jobs: tuple[Job, ...] = JOBS
        if real_job:
            self.jobs += (Job(real_job, "webvision", "resnet18", 3, "gpu-4", -0.1 * DAY_S),)
        self.series = [*self._budgets(), *self._ledger(), *self._kueue(), *self._nodes()]
        for job in self.jobs:
            self.series += [*self._pods(job), *self._gpus(job)]
            if job.hours:
                self.series += self._trainer(job)

    def page(self, at: float) -> str:
        """What a scrape at that Unix time finds."""
        t = at - self.now
        return "".join(f"{each.identity} {each.value(t)!r}\n" for each in self.series)

    def write(self, folder: Path) -> None:
        """Makes blocks of Prometheus of the past, without the last minute."""
        path = folder / "generated.om"
        with path.open("w") as file:
            for name, found in self._families().items():
                file.write(f"# TYPE {name} unknown\n# HELP {name} Generated, not measured.\n")
                for each in found:
                    for t in self.moments(each.since):
                        file.write(f"{each.identity} {each.value(t)!r} {self.now + t:.3f}\n")
            file.write("# EOF\n")
        blocks(path, folder / "data")

    def moments(self, since: float) -> Iterator[float]:
        """When a series that began at `since` has a sample."""
        t = max(since, -self.days * DAY_S)
        while t < -FINE_HOURS * HOUR_S:
            yield t
            t += COARSE_S
        while t < -FINE_S:
            yield t
            t += FINE_S

    def _families(self) -> dict[str, list[Series]]:
        families: dict[str, list[Series]] = {}
        for each in self.series:
            families.setdefault(each.name, []).append(each)
        return families

    def _all(self, name: str, labels: Labels, value: float | Value) -> Series:
        """A series of the whole month; a plain number stays the same."""
        return self._since(name, labels, value, -self.days * DAY_S)

    def _since(self, name: str, labels: Labels, value: float | Value, since: float) -> Series:
        told = value if callable(value) else (lambda _, number=float(value): number)
        return Series(name, labels, told, since)

    # -- what the controller tells

    def _budgets(self) -> Iterator[Series]:
        for use in USES:
            first = use.spans[0][0] * DAY_S
            labels = {"cluster": "default", "budget": use.budget, "stage": "train"}
            kind = {"gpu_type": use.gpu_type, "model": use.model}
            yield self._since(
                "launcher_gpu_allocated_seconds_total", {**labels, **kind}, use.seconds, first
            )
        for budget, (limit, reserved, enforced) in LIMITS.items():
            yield from self._budget(budget, limit * DAY_S, reserved * DAY_S, enforced)

    def _budget(self, budget: str, limit: float, reserved: float, hard: float) -> Iterator[Series]:
        labels = {"cluster": "default", "budget": budget}
        uses = [use for use in USES if use.budget == budget]

        def used(t: float) -> float:
            return sum(use.seconds(t) for use in uses)

        def now(t: float) -> float:
            return sum(use.gpus(t) for use in uses)

        def left(t: float) -> float:
            return limit - used(t) - reserved

        def out(t: float) -> float:
            return self.now + t + left(t) / max(1.0, now(t))

        start, end = (self.now + day * DAY_S for day in PERIOD_DAYS)
        told: dict[str, float | Value] = {
            "limit_seconds": limit, "used_seconds": used, "reserved_seconds": reserved,
            "remaining_seconds": left, "enforced": hard, "period_start_timestamp_seconds": start,
            "period_end_timestamp_seconds": end, "projected_exhaustion_timestamp_seconds": out,
        }  # fmt: skip
        for name, value in told.items():
            yield self._all(f"launcher_gpu_budget_{name}", labels, value)
        yield self._all("launcher_gpus_allocated", {**labels, "stage": "train"}, now)
        share = 0.86 if budget == "webvision" else 0.55
        good = "launcher_gpu_goodput_seconds_total"
        yield self._all(good, labels, lambda t: share * used(t))
        causes = {"data_wait": 0.5, "startup": 0.2, "checkpoint": 0.1, "recompute": 0.1,
                  "idle": 0.1}  # fmt: skip
        for reason, part in causes.items():
            yield self._all(
                "launcher_gpu_waste_seconds_total",
                {**labels, "reason": reason},
                lambda t, part=part: part * (1 - share) * used(t),  # type: ignore[misc]
            )
        refunds, refusals = (-6.0, -2.4), (-12.0, -9.1, -4.0, -3.9, -1.2)
        yield self._all(
            "launcher_gpu_refunded_seconds_total",
            {**labels, "reason": "node_failure"},
            lambda t: 0.7 * DAY_S * bisect_right(refunds, t / DAY_S),
        )
        yield self._all(
            "launcher_gpu_budget_refused_total",
            {**labels, "reason": "OverBudget"},
            lambda t: float(bisect_right(refusals, t / DAY_S)),
        )

    def _ledger(self) -> Iterator[Series]:
        labels = {"cluster": "default"}
        wrote = "launcher_ledger_last_success_timestamp_seconds"
        yield self._all(wrote, labels, lambda t: self.now + t - (t % 60))
        yield self._all("launcher_ledger_unreconciled_seconds", labels, 0)
        yield self._all("launcher_ledger_open_intervals", labels, 6)
        yield self._all("launcher_ledger_write_failures_total", labels, 3)
        yield self._all("launcher_build_info", {"version": "0.1.0"}, 1)
        yield self._all("launcher_controller_leading", {"pod": "launcher-0"}, 1)
        yield self._all("launcher_controller_leading", {"pod": "launcher-1"}, 0)
        yield self._all("launcher_controller_jobs", {"pod": "launcher-0"}, len(self.jobs))
        yield self._all(
            "launcher_controller_due", {"pod": "launcher-0"}, lambda t: float(t % 9 < 2)
        )
        for reason, hours in (("NodeLost", 9.0), ("RendezvousSuspended", 5.0), ("Deleted", 2.0)):
            yield self._all(
                "launcher_controller_actions_total",
                {"pod": "launcher-0", "reason": reason},
                lambda t, hours=hours: math.floor((t + 40 * DAY_S) / HOUR_S / hours),  # type: ignore[misc]
            )
        for job in self.jobs:
            about = {"budget": job.budget, "training_job": job.name, "job_namespace": "ml"}
            about |= {"model": job.model, "stage": "train", "user": "ann"}
            yield self._since("launcher_job_info", {**labels, **about}, 1, job.since)

    # -- what Kubernetes tells

    def _kueue(self) -> Iterator[Series]:
        queue = {"cluster_queue": "gpus"}
        for status, number in (("active", 1), ("inadmissible", 0)):
            yield self._all("kueue_pending_workloads", {**queue, "status": status}, number)
        yield self._all("kueue_admitted_active_workloads", queue, 4)
        for bound, part in (("10", 0.4), ("60", 0.7), ("600", 0.95), ("+Inf", 1.0)):
            yield self._all(
                "kueue_admission_wait_time_seconds_bucket",
                {**queue, "le": bound},
                lambda t, part=part: part * (t + 40 * DAY_S) / 600,  # type: ignore[misc]
            )

    def _nodes(self) -> Iterator[Series]:
        for node, gpus in NODES.items():
            about = {"node": node}
            kind = {"resource": "nvidia_com_gpu", "unit": "integer"}
            yield self._all("kube_node_status_allocatable", {**about, **kind}, gpus)
            ready = {"condition": "Ready", "status": "true"}
            yield self._all("kube_node_status_condition", {**about, **ready}, 1)

    def _pods(self, job: Job) -> Iterator[Series]:
        """One pod for each 8 GPUs."""
        for number in range(max(1, job.gpus // 8)):
            pod = {"namespace": "ml", "pod": f"{job.name}-worker-{number}"}
            held = {"container": "pytorch", "node": job.node, "resource": "nvidia_com_gpu"}
            gpus = min(8, job.gpus)
            phase = "Running" if job.node else "Pending"
            placed = "true" if job.node else "false"
            yield self._since("kube_pod_labels", {**pod, "label_launcher_dev_job": job.name}, 1,
                              job.since)  # fmt: skip
            yield self._since(
                "kube_pod_container_resource_requests", {**pod, **held}, gpus, job.since
            )
            yield self._since("kube_pod_status_phase", {**pod, "phase": phase}, 1, job.since)
            yield self._since(
                "kube_pod_status_scheduled", {**pod, "condition": placed}, 1, job.since
            )
            container = {**pod, "uid": f"{job.name}-{number}", "container": "pytorch"}
            again = "kube_pod_container_status_restarts_total"
            yield self._since(again, container, lambda t: float(t > -7 * HOUR_S), job.since)
            if number == 0:
                ended = "kube_pod_container_status_terminated_reason"
                yield self._since(ended, {**container, "reason": "OOMKilled"}, 1, job.since)

    def _gpus(self, job: Job) -> Iterator[Series]:
        since = max(job.since, -FINE_HOURS * HOUR_S)
        for number in range(job.gpus if job.node else 0):
            active = 0.01 if number < job.idle else 0.94 - job.wait - 0.004 * number

            def wave(t: float, number: int = number, active: float = active) -> float:
                return active * (1 + 0.02 * math.sin(t / 400 + number))

            about = {"Hostname": job.node, "gpu": str(number), "namespace": "ml",
                     "pod": f"{job.name}-worker-{number // 8}"}  # fmt: skip
            for name, value in {
                "PROF_GR_ENGINE_ACTIVE": wave,
                "PROF_PIPE_TENSOR_ACTIVE": lambda t, wave=wave: 0.5 * wave(t),
                "DEV_GPU_UTIL": lambda t, wave=wave: 100 * wave(t),
                "DEV_FB_USED": 61000 - 500 * number,
                "DEV_POWER_USAGE": lambda t, wave=wave: 70 + 310 * wave(t),
                "DEV_GPU_TEMP": lambda t, wave=wave: 33 + 34 * wave(t),
                "DEV_XID_ERRORS": 0,
            }.items():
                yield self._since(f"DCGM_FI_{name}", about, value, since)  # type: ignore[arg-type]

    def _trainer(self, job: Job) -> Iterator[Series]:
        """What a trainer tells that other panels than those of one job look at."""
        labels = {"training_job": job.name}
        rate = job.speed * job.gpus

        def seen(t: float) -> float:
            return rate * (t - job.since)

        def done(t: float) -> float:
            return min(1.0, (t - job.since) / HOUR_S / job.hours)

        for name, value in {
            "samples_total": seen,
            "samples_goal": rate * job.hours * HOUR_S,
            "epoch_samples": rate * HOUR_S,
            "world_size": job.gpus,
            "generation": lambda t: 1.0 + (t > -7 * HOUR_S),
            "throughput_samples_per_second": lambda t: rate * (1 + 0.01 * math.sin(t / 300)),
            "update_seconds_total": lambda t: 0.93 * (t - job.since),
            "data_wait_seconds_total": lambda t: job.wait * 0.93 * (t - job.since),
            "update_last_timestamp_seconds": lambda t: self.now + t - 3,
            "validation_top1_ratio": lambda t: 0.78 * (1 - math.exp(-4 * done(t))),
        }.items():
            yield self._since(f"trainer_{name}", labels, value, job.since)  # type: ignore[arg-type]


def blocks(path: Path, data: Path) -> None:
    """Makes blocks of an OpenMetrics file. Without the flag each spans 2 hours, which is slow."""
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    command += ["--max-block-duration=744h", "--quiet", str(path), str(data)]
    subprocess.run(command, check=True, capture_output=True, text=True)
