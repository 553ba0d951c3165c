"""The rows of a benchmark: the peer's figure and ours of one run, side by side."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure. Without a peer, `peer_value` is the target to be kept."""

    what: str
    unit: str
    peer: str
    peer_value: float
    value: float
    target: str
    """In words; empty where the figure is only told."""
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Above 1: ours is better."""
        if self.more_is_better:
            return self.value / self.peer_value
        return self.peer_value / self.value

    def described(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "value": self.value,
            "ratio": self.ratio,
            "target": self.target,
        }


def render(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ["what", "unit", "peer", "peer's", "ours", "ratio", "target"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [
            row.what,
            row.unit,
            row.peer,
            f"{row.peer_value:.3g}",
            f"{row.value:.3g}",
            f"{row.ratio:.2f}",
            row.target,
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The processor, its cores, and the commit that was measured."""
    return f"{processor()}; commit {commit()}"


def processor() -> str:
    """The processor and its cores."""
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"


def commit() -> str:
    """The short name of the checked-out commit, with + where files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
