"""How long the command line takes as whole processes: its help, and a dry run of a submit."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import Row

RUNS = 9
LAUNCHER = str(Path(sys.executable).with_name("launcher"))
SUBMIT = (LAUNCHER, "submit", "--model", "senet154", "--gpus", "64", "--dry-run=client")
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--help")


def measure() -> list[Row]:
    """Medians of runs in turn, after one that is not counted."""
    commands = {"help": (LAUNCHER, "--help"), "submit": SUBMIT, "torchrun": TORCHRUN}
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as state:
        for run in range(RUNS + 1):
            for name, command in commands.items():
                taken_s = run_once(command, state)
                if run:
                    times[name].append(taken_s)
    median = {name: statistics.median(values) for name, values in times.items()}
    torchrun = median["torchrun"]
    return [
        Row("launcher --help", "s", "torchrun --help", torchrun, median["help"], "<= 0.3 s"),
        Row(
            "launcher submit --model senet154 --gpus 64 --dry-run=client",
            "s",
            "torchrun --help",
            torchrun,
            median["submit"],
            "<= 0.6 s",
        ),
    ]


def run_once(command: tuple[str, ...], state: str) -> float:
    """Wall seconds of the whole process."""
    environment = os.environ | {"XDG_STATE_HOME": state, "XDG_CONFIG_HOME": state}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the run that is not counted writes it
    began_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - began_s
