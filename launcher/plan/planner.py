"""From a question to a plan: estimate every candidate, choose, lay out, explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.errors import UsageError
from launcher.plan.accuracy import ensemble_top1, run_top1
from launcher.plan.choice import Candidate, Limits, choose
from launcher.plan.estimate import Device, PictureTime, gpu_days, picture_times
from launcher.plan.hardware import Hardware, known_gpu
from launcher.plan.measured import Measurement
from launcher.plan.networks import Network
from launcher.plan.refusals import figures, refusal
from launcher.plan.schedule import Slot, lay_out


@dataclass(frozen=True)
class Question:
    """What is asked: which of these networks, how long, how large, on what, inside which limits."""

    gpu_type: str
    limits: Limits
    networks: Mapping[str, Network]
    images: int = 16_000_000
    epochs: tuple[float, ...] = (150.0,)
    sizes_px: tuple[int, ...] = ()
    """Input sizes to choose from; empty: each network's own."""
    precision: str = ""
    """fp32 or amp; empty: the one the GPU is known best for."""
    level: str = ""
    """measured, table or formula; empty: the best that there is for each network."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Ratios by names of estimate.SHARES."""
    measurements: Sequence[Measurement] = ()


@dataclass(frozen=True)
class Variant:
    """One network at one length and size, with every estimate of it."""

    run: Candidate
    network: Network
    times: tuple[PictureTime, ...]
    """Best first; `run.gpu_days` is of the first."""
    gpu_days_of: Mapping[str, float]
    """By level."""

    @property
    def best(self) -> PictureTime:
        return self.times[0]


@dataclass(frozen=True)
class Plan:
    """The answer."""

    question: Question
    device: Device
    variants: tuple[Variant, ...]
    slots: tuple[Slot, ...]
    """Of the chosen runs, in the order of the schedule."""
    top1: float
    """Expected of their ensemble, percent."""
    refusals: Mapping[str, str]
    """A sentence for each network that was not chosen."""

    @property
    def gpu_days(self) -> float:
        return sum(slot.run.gpu_days for slot in self.slots)

    @property
    def days(self) -> float:
        return max((slot.end_day for slot in self.slots), default=0.0)


def make_plan(question: Question, hardware: Hardware) -> Plan:
    """The best plan. Raises UsageError for a GPU or a precision that nothing is known of."""
    _check(question)
    device = _device(question, hardware)
    variants, unknown = _estimated(question, device, hardware)
    candidates = [each.run for each in variants if each.network.top1 is not None]
    limits = question.limits
    chosen = choose(candidates, limits)
    best = max((each.top1 for each in candidates if limits.fits(each)), default=0.0)
    refusals = dict(unknown)
    for name in question.networks:
        runs = [each for each in variants if each.network.name == name]
        if runs and name not in {run.model for run in chosen}:
            refusals[name] = _sentence(runs, chosen, limits)
    slots = tuple(lay_out(chosen, limits))
    return Plan(question, device, tuple(variants), slots, ensemble_top1(chosen, best), refusals)


def _check(question: Question) -> None:
    limits = question.limits
    if limits.schedule == "parallel" and limits.span_days == math.inf:
        raise UsageError(
            "--schedule parallel shares the GPUs out by the time there is; give --deadline or "
            "--network-days"
        )
    if not question.networks:
        raise UsageError("there is no network to choose from; give --models or --networks others")


def _device(question: Question, hardware: Hardware) -> Device:
    """The GPU by its known name; one that only measurements name is known by them alone."""
    gpu, wanted = hardware.find(question.gpu_type), question.precision
    if gpu is None:
        if any(
            hardware.is_same(each.gpu_type, question.gpu_type) for each in question.measurements
        ):
            return Device(question.gpu_type, None, wanted)
        gpu = known_gpu(hardware, question.gpu_type)
    known = hardware.precisions(gpu)
    if wanted and wanted not in known:
        raise UsageError(
            f"--precision {wanted} is unknown for the {gpu.name}; known is {' or '.join(known)}"
        )
    return Device(gpu.name, gpu, wanted or known[0])


def _estimated(
    question: Question, device: Device, hardware: Hardware
) -> tuple[list[Variant], dict[str, str]]:
    """Every variant, and a sentence for each network that nothing tells of."""
    variants, unknown = [], {}
    measured = [e for e in question.measurements if hardware.is_same(e.gpu_type, device.name)]
    for network in question.networks.values():
        for size_px in question.sizes_px or (network.size_px,):
            times = picture_times(network, size_px, device, hardware, measured)
            times = [each for each in times if question.level in ("", each.level)]
            if not times:
                by = f" by {question.level}" if question.level else ""
                unknown[network.name] = (
                    f"{network.name}: no estimate on {device.name}{by}; measure it with launcher "
                    "calibrate and give --measured"
                )
                break
            variants += [
                _variant(question, network, size_px, epochs, times) for epochs in question.epochs
            ]
    return variants, unknown


def _variant(
    question: Question, network: Network, size_px: int, epochs: float, times: list[PictureTime]
) -> Variant:
    shares = sum(question.shares.values())
    days = {each.level: gpu_days(each.seconds, question.images, epochs, shares) for each in times}
    top1 = run_top1(network.top1 or 0.0, network.size_px, size_px, epochs)
    cost = days[times[0].level]
    run = Candidate(network.name, network.family, size_px, epochs, cost, top1)
    return Variant(run, network, tuple(times), days)


def _sentence(runs: list[Variant], chosen: list[Candidate], limits: Limits) -> str:
    """Of a network's cheapest variant: what keeps that one out keeps out all, or is the nearest."""
    cheapest = min((each.run for each in runs), key=lambda run: run.gpu_days)
    if runs[0].network.top1 is None:
        return f"{figures(cheapest, limits)}; its accuracy is not known; give top1 in --networks"
    return refusal(cheapest, chosen, limits)
