"""A finished run at other input sizes, by the trainer's own evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tools.experiments.cells import Cell
from tools.experiments.places import ROOT


def measure(cell: Cell, sizes: Sequence[int]) -> dict[str, Any]:
    """Top-1 of the run's last weights at each size, and GeM's mean p, None without GeM.

    Raises CalledProcessError where the evaluation fails; what it says is in the run's log.
    """
    if not sizes:
        return {}
    told = ",".join(map(str, sizes))
    command = [sys.executable, "-m", "trainer.evaluate", cell.run.as_uri(), "--sizes", told]
    with cell.log.open("ab") as log:
        done = subprocess.run(
            [*command, "--which", "newest"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            check=True,
        )
    found = json.loads(done.stdout)
    return {
        "p": found["p"],
        "by_size": [[result["size_px"], result["top1"]] for result in found["results"]],
    }
