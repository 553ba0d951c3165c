"""The networks a plan may choose from: what one picture costs them, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.plan.tree import check_keys, number, packaged, read_mapping

DEFAULT_FAMILY = "other"
"""Of a user's network that names none: hardware tables then have no factor for it."""


@dataclass(frozen=True)
class Network:
    """One network at the input size that its figures were counted at."""

    name: str
    """Of its recipe, or timm's name where it has none."""
    family: str
    """Networks of one family run alike on a GPU and err alike in an ensemble."""
    size_px: int
    gmac: float
    """10^9 multiply-accumulates of one forward pass of one picture."""
    mact: float
    """10^6 outputs of convolutions of the same."""
    top1: float | None
    """Top-1 accuracy on ImageNet, percent; None: not known, so it cannot be chosen."""
    top1_source: str
    params_m: float | None = None
    """10^6 parameters with 1,000 classes; only told."""

    def grown(self, size_px: int) -> tuple[float, float]:
        """GMAC and Mact at another input size: both grow with the picture's area.

        Counted figures of ResNeXt152-D and SENet154 at 288-448 px agree within 1 %, those of
        PNASNet at 416 px, whose cells round their sizes, within 6 %.
        """
        area = (size_px / self.size_px) ** 2
        return self.gmac * area, self.mact * area


def packaged_networks() -> dict[str, Network]:
    """The seven networks of the recipes."""
    return parse_networks(packaged("networks.yaml"), "networks.yaml")


def parse_networks(text: str, source: str) -> dict[str, Network]:
    """Networks by name from YAML: NAME: {size_px, gmac, mact} and optionally the other keys.

    Raises UsageError, one line with the name and the key, for what cannot be meant.
    """
    return {str(name): _network(str(name), entry, source) for name, entry in
            read_mapping(text, source).items()}  # fmt: skip


def _network(name: str, entry: Any, source: str) -> Network:
    where = f"{name} in {source}"
    check_keys(
        entry, ("size_px", "gmac", "mact"), ("family", "top1", "top1_source", "params_m"), where
    )
    has_top1 = entry.get("top1") is not None
    return Network(
        name,
        str(entry.get("family", DEFAULT_FAMILY)),
        int(number(entry, "size_px", where, most=4096)),
        number(entry, "gmac", where),
        number(entry, "mact", where),
        number(entry, "top1", where, most=100) if has_top1 else None,
        str(entry.get("top1_source", source)) if has_top1 else "",
        number(entry, "params_m", where) if "params_m" in entry else None,
    )
