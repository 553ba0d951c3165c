"""GPU-days of a run: seconds a picture by three levels, each with its error, times the pictures.

GPU-days = epochs * images * seconds a picture / 86,400 * (1 + shares)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.plan.hardware import Gpu, Hardware
from launcher.plan.measured import Measurement, nearest
from launcher.plan.networks import Network

SHARES = ("input", "evaluation", "checkpoint", "communication")
"""What a run spends beside its steps, each as a ratio of them; 0 where a table has whole runs."""

DAY_S = 86_400

TRAINING_OPERATIONS = 6
"""Of a multiply-accumulate: two on the way forward, four on the way back."""


@dataclass(frozen=True)
class PictureTime:
    """Seconds of one GPU for one picture of training, by one level."""

    level: str
    seconds: float
    error_ratio: float
    """Typical relative error (root mean square) of estimates of this kind."""
    source: str


@dataclass(frozen=True)
class Device:
    """On what is estimated: a known GPU or only a name that measurements have."""

    name: str
    gpu: Gpu | None
    precision: str


def gpu_days(seconds: float, images: int, epochs: float, shares: float = 0.0) -> float:
    """GPU-days of a run. shares: sum of what comes on top of the steps, as a ratio."""
    return epochs * images * seconds / DAY_S * (1 + shares)


def picture_times(
    network: Network,
    size_px: int,
    device: Device,
    hardware: Hardware,
    measurements: Sequence[Measurement] = (),
) -> list[PictureTime]:
    """Every level that can tell, best first. measurements: those made on this device."""
    found = [
        _measured(network, size_px, device, measurements),
        _from_table(network, size_px, device, hardware),
        _from_formula(network, size_px, device, hardware),
    ]
    return [time for time in found if time is not None]


def _measured(
    network: Network, size_px: int, device: Device, measurements: Sequence[Measurement]
) -> PictureTime | None:
    best = nearest(measurements, network.name, device.precision, size_px)
    if best is None:
        return None
    seconds, error = best.at(size_px)
    source = f"launcher calibrate at {best.size_px} px, {best.precision}"
    return PictureTime("measured", seconds, error, source)


def _from_table(
    network: Network, size_px: int, device: Device, hardware: Hardware
) -> PictureTime | None:
    table = hardware.table(device.gpu.name, device.precision) if device.gpu else None
    if table is None:
        return None
    gmac, mact = network.grown(size_px)
    ms = (table.ms_per_gmac * gmac + table.ms_per_mact * mact) * table.factor(network.family)
    return PictureTime("table", ms / 1000, table.error(network.family), table.source)


def _from_formula(
    network: Network, size_px: int, device: Device, hardware: Hardware
) -> PictureTime | None:
    """Arithmetic at a share of the peak, and then the activations through the memory."""
    gpu, formula = device.gpu, hardware.formula
    if gpu is None or device.precision not in gpu.peak_tflops:
        return None
    gmac, mact = network.grown(size_px)
    moved = formula.bytes_per_activation
    a_number = moved.get(network.family, moved["default"])
    if device.precision == "fp32":
        a_number *= 2
    tflops = formula.peak_share * gpu.peak_tflops[device.precision]
    seconds = bound_s(gmac, mact, tflops, gpu.bandwidth_tb_s, TRAINING_OPERATIONS, a_number)
    source = f"data sheet of the {gpu.name}"
    return PictureTime("formula", seconds, formula.error_ratio[device.precision], source)


def bound_s(
    gmac: float, mact: float, tflops: float, tb_s: float, operations: float, moved: float
) -> float:
    """Seconds for a picture: its arithmetic, and then its activations through the memory.

    operations: of a multiply-accumulate. moved: bytes of an activation.
    """
    return operations * gmac * 1e9 / (tflops * 1e12) + moved * mact * 1e6 / (tb_s * 1e12)
