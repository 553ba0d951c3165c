"""What is known of GPUs: peaks for the formula, fitted coefficients for the table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from launcher.errors import UsageError
from launcher.plan.tree import packaged, read_mapping


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU by its data sheet."""

    name: str
    peak_tflops: dict[str, float]
    """Dense peak by precision, TFLOP/s; the first precision is the one a plan takes."""
    bandwidth_tb_s: float


@dataclass(frozen=True)
class Formula:
    """Level 1: what every GPU has in common."""

    peak_share: float
    bytes_per_activation: dict[str, float]
    """In half precision, by family; `default` for the others."""
    error_ratio: dict[str, float]
    """By precision."""


@dataclass(frozen=True)
class Table:
    """Level 2: coefficients fitted to published or own training times of one GPU."""

    gpu: str
    precision: str
    ms_per_gmac: float
    ms_per_mact: float
    families: dict[str, float]
    error_ratio: dict[str, float]
    """By family; `default` for the other families of the fit, `unseen` for the rest."""
    source: str

    def factor(self, family: str) -> float:
        return self.families.get(family, 1.0)

    def error(self, family: str) -> float:
        """Root mean square of the relative errors of networks held out of the fit."""
        if family not in self.families:
            return self.error_ratio["unseen"]
        return self.error_ratio.get(family, self.error_ratio["default"])


@dataclass(frozen=True)
class Hardware:
    """All of it."""

    gpus: dict[str, Gpu]
    aliases: dict[str, str]
    formula: Formula
    tables: tuple[Table, ...]

    def find(self, name: str) -> Gpu | None:
        """The GPU of that name, in any case and spelling of blanks, with or without NVIDIA."""
        return self.gpus.get(self.aliases.get(plain_name(name), ""))

    def is_same(self, one: str, other: str) -> bool:
        """Whether two names mean the same kind of GPU, known or not."""
        if plain_name(one) == plain_name(other):
            return True
        found = self.find(one)
        return found is not None and found is self.find(other)

    def table(self, gpu: str, precision: str) -> Table | None:
        return next((t for t in self.tables if (t.gpu, t.precision) == (gpu, precision)), None)

    def precisions(self, gpu: Gpu) -> tuple[str, ...]:
        """Those that can be estimated; first the one that has a table."""
        return tuple(sorted(gpu.peak_tflops, key=lambda each: self.table(gpu.name, each) is None))


def plain_name(name: str) -> str:
    """A GPU's name as it is compared: lower case, letters and digits, without the maker."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")


def read_hardware() -> Hardware:
    """The packaged data."""
    tree: dict[str, Any] = read_mapping(packaged("hardware.yaml"), "hardware.yaml")
    gpus: dict[str, Gpu] = {}
    aliases: dict[str, str] = {}
    for name, entry in tree["gpus"].items():
        gpus[name] = Gpu(name, entry["peak_tflops"], entry["bandwidth_tb_s"])
        aliases |= {plain_name(each): name for each in (name, *entry.get("aliases", ()))}
    tables = tuple(Table(**entry) for entry in tree["tables"])
    return Hardware(gpus, aliases, Formula(**tree["formula"]), tables)


def known_gpu(hardware: Hardware, name: str) -> Gpu:
    """The GPU, or UsageError telling which are known and how to measure another one."""
    found = hardware.find(name)
    if found is None:
        raise UsageError(
            f"--gpu-type {name!r} is unknown; known are {', '.join(hardware.gpus)}; for another "
            "one measure with launcher calibrate and give --measured"
        )
    return found
