"""Level 3: seconds a picture that `launcher calibrate` has measured on the GPU itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from launcher.errors import UsageError
from launcher.plan.tree import check_keys, number, read_mapping

LEAST_ERROR = 0.03
"""Even the same node differs so much from hour to hour; MLPerf's logs have 0.5 to 8 %."""
SIZE_ERROR = 0.06
"""Added where the input size is another: cost is taken to grow with the area."""


@dataclass(frozen=True)
class Measurement:
    """One network timed on one GPU."""

    model: str
    gpu_type: str
    precision: str
    size_px: int
    seconds_per_image: float
    """Median over the timed steps."""
    spread_ratio: float
    """Half the distance of the 10th and 90th percentile, over the median."""

    def at(self, size_px: int) -> tuple[float, float]:
        """Seconds a picture at that input size, and their typical relative error."""
        error = max(LEAST_ERROR, self.spread_ratio)
        if size_px == self.size_px:
            return self.seconds_per_image, error
        return self.seconds_per_image * (size_px / self.size_px) ** 2, error + SIZE_ERROR


def parse_measurements(text: str, source: str) -> list[Measurement]:
    """What a result file holds. Raises UsageError, one line, for another kind of file."""
    tree = read_mapping(text, source)
    entries = tree.get("measurements")
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"{source} has no measurements; give --measured what launcher calibrate has written"
        )
    return [_measurement(entry, f"measurement {n} of {source}") for n, entry in enumerate(entries)]


def _measurement(entry: Any, where: str) -> Measurement:
    needed = ("model", "gpu_type", "precision", "size_px", "seconds_per_image", "spread_ratio")
    check_keys(entry, needed, entry if isinstance(entry, dict) else (), where)
    spread = entry["spread_ratio"]
    if isinstance(spread, bool) or not isinstance(spread, (int, float)) or not spread >= 0:
        raise UsageError(f"spread_ratio of {where} is {spread!r}, but a number from 0 is needed")
    return Measurement(
        str(entry["model"]),
        str(entry["gpu_type"]),
        str(entry["precision"]),
        int(number(entry, "size_px", where, most=4096)),
        number(entry, "seconds_per_image", where),
        float(spread),
    )


def nearest(
    measurements: Iterable[Measurement], model: str, precision: str, size_px: int
) -> Measurement | None:
    """The measurement of that network whose input size is nearest; None without one.

    precision: fp32, amp (which bf16 counts as), or empty for any.
    """
    fitting = [
        each
        for each in measurements
        if each.model == model and precision in ("", _kind(each.precision))
    ]
    return min(fitting, key=lambda each: abs(each.size_px - size_px), default=None)


def _kind(precision: str) -> str:
    return "fp32" if precision == "fp32" else "amp"
