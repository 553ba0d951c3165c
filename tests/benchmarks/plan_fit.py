"""Fits the planner's table to one of timm's published training benchmarks, and judges the fit.

    python -m tests.benchmarks.plan_fit benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv

The file is timm's (its repository, folder results) and stays outside this one: coefficients and
errors alone go into launcher/plan/hardware.yaml. What a network costs is counted anew from timm.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAMILIES = {
    "nas": r"p?nasnet(5|a)large",
    "se-resnext": r"(legacy_)?(senet154|seresnext\d+(d|t)?_\d+x\d+d)",
    "resnext": r"resnext\d+d?_\d+x\d+d",
    "inception": r"inception_(v3|v4|resnet_v2)",
    "dpn": r"dpn\d+b?",
    "se-resnet": r"(legacy_)?seresnet\d+(d|t)?",
    "resnet": r"(wide_)?resnet\d+(d|t|_2)?",
    "densenet": r"densenet\d+",
    "vgg": r"vgg\d+(_bn)?",
    "hrnet": r"hrnet_w\d+(_small(_v2)?)?",
    "dla": r"dla\d+(x2?)?",
    "res2net": r"res2net\d+_\d+w_\d+s|res2next50",
    "regnet": r"regnet[xy]_\d+",
    "separable": r"(legacy_)?xception\d*",
    "mobile": r"mobilenetv2_\d+|efficientnet_b\d|mixnet_\w+|mnasnet_\d+",
}
"""CNNs of the table by their names, one pattern a family; others are left out."""

RENAMED = {"xception": "legacy_xception"}
LEAST_GMAC = 0.3
"""Smaller networks are bound by the launching of kernels, which no term here has."""


@dataclass(frozen=True)
class Sample:
    """One network of the table."""

    name: str
    family: str
    gmac: float
    mact: float
    ms: float
    """Milliseconds of training for one picture."""


def read(path: Path) -> list[Sample]:
    """The samples of timm's file; of names for the same network, the plain one."""
    import timm

    found: dict[str, Sample] = {}
    with path.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["model"].startswith("gluon_"))
    for row in rows:
        name = row["model"].removeprefix("gluon_")
        name = RENAMED.get(name, name)
        family = next((f for f, pattern in FAMILIES.items() if re.fullmatch(pattern, name)), "")
        if not family or name in found or not timm.is_model(name):
            continue
        gmac, mact = count(name, int(row["train_img_size"]))
        if gmac > LEAST_GMAC:
            ms = 1000 / float(row["train_samples_per_sec"])
            found[name] = Sample(name, family, gmac, mact, ms)
    return list(found.values())


def count(name: str, size_px: int) -> tuple[float, float]:
    """GMAC of convolutions and linear layers, and millions of outputs of convolutions."""
    import timm
    import torch
    from torch import nn

    macs = activations = 0

    def add(module: Any, _: Any, output: Any) -> None:
        nonlocal macs, activations
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            macs += output.numel() * kernel * module.in_channels // module.groups
            activations += output.numel()
        else:
            macs += output.numel() * module.in_features

    with torch.device("meta"), torch.no_grad():
        network = timm.create_model(name).eval()
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(add)
        network(torch.zeros(1, 3, size_px, size_px))
    return macs / 1e9, activations / 1e6


@dataclass(frozen=True)
class Fit:
    """ms = (per_gmac * GMAC + per_mact * Mact) * families[family]."""

    per_gmac: float
    per_mact: float
    families: dict[str, float]

    def ms(self, sample: Sample) -> float:
        base = self.per_gmac * sample.gmac + self.per_mact * sample.mact
        return base * self.families.get(sample.family, 1.0)


def fit(samples: Sequence[Sample]) -> Fit:
    """Least absolute relative error (by reweighted least squares), then a median a family."""
    from scipy.optimize import nnls

    features = np.array([(each.gmac / each.ms, each.mact / each.ms) for each in samples])
    weights: NDArray[Any] = np.ones(len(samples))
    for _ in range(30):
        coefficients, _ = nnls(features * weights[:, None], weights)
        missed = np.abs(features @ coefficients - 1)
        weights = 1 / np.sqrt(np.maximum(missed, 0.02))
    bare = Fit(float(coefficients[0]), float(coefficients[1]), {})
    ratios: dict[str, list[float]] = {}
    for each in samples:
        ratios.setdefault(each.family, []).append(each.ms / bare.ms(each))
    families = {family: statistics.median(values) for family, values in ratios.items()}
    return Fit(bare.per_gmac, bare.per_mact, families)


def network_out(samples: Sequence[Sample]) -> list[float]:
    """Relative error of each network, by a fit to all others."""
    return [fit([s for s in samples if s is not each]).ms(each) / each.ms - 1 for each in samples]


def family_out(samples: Sequence[Sample]) -> list[float]:
    """Relative error of each network, by a fit that has not seen its family."""
    fits = {f: fit([s for s in samples if s.family != f]) for f in {s.family for s in samples}}
    return [fits[each.family].ms(each) / each.ms - 1 for each in samples]


def told(errors: Sequence[float]) -> str:
    """How large the errors are, in one line."""
    sizes = np.abs(errors)
    square = float(np.sqrt(np.mean(np.square(sizes))))
    return (
        f"median {np.median(sizes):.3f}, 90th percentile {np.quantile(sizes, 0.9):.3f}, "
        f"largest {sizes.max():.3f}, root mean square {square:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan_fit")
    parser.add_argument("csv", type=Path, help="timm's results/benchmark-train-*.csv")
    samples = read(parser.parse_args().csv)
    found = fit(samples)
    print(f"{len(samples)} networks of {len(found.families)} families")
    print(f"ms_per_gmac: {found.per_gmac:.4f}\nms_per_mact: {found.per_mact:.4f}")
    print(f"families: {{{', '.join(f'{f}: {v:.2f}' for f, v in sorted(found.families.items()))}}}")
    print(f"in the fit: {told([found.ms(each) / each.ms - 1 for each in samples])}")
    print(f"network held out: {told(network_out(samples))}")
    print(f"family held out: {told(family_out(samples))}")


if __name__ == "__main__":
    main()
