"""How long a plan takes as a whole process, and how far its days are from the published ones.

With TIMM_RESULTS naming a copy of timm's results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv,
also the errors on networks and families that are held out of the fit.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import plan_fit
from tests.benchmarks.table import Row

RUNS = 9
LAUNCHER = str(Path(sys.executable).with_name("launcher"))
PLAN = ["plan", "--gpu-type", "TITAN Xp", "--gpus", "64", "--images", "16000000"]
PLAN += ["--epochs", "150", "-o", "json"]
QUESTIONS = {
    "launcher plan, 7 runs": (),
    "launcher plan, best of 63 runs inside 3,000 GPU-days": (
        *("--epochs", "60,100,150", "--sizes", "224,288,320", "--budget-gpu-days", "3000"),
    ),
}
"""What is asked beyond PLAN. The processor's time is what is left where others use the machine."""

# BigVideo's days on 64 TITAN Xp, taken as 16 M images and 150 epochs.
PUBLISHED_DAYS = {
    "nasnetalarge": 67,
    "pnasnet5large": 61,
    "senet154": 18,
    "resnext152d_32x4d": 12,
    "inception_resnet_v2": 12,
    "dpn98": 11,
    "seresnet152": 9,
}


def measure() -> list[Row]:
    """Medians of whole processes, a row a network, and held-out errors where there is data."""
    times: dict[str, list[float]] = {}
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as state:
        for run in range(RUNS + 1):
            for what, more in QUESTIONS.items():
                wall_s, cpu_s, answer = run_once([*PLAN, *more], state)
                document = document or answer
                if run:  # the first one writes bytecode
                    times.setdefault(f"{what}, wall", []).append(wall_s)
                    times.setdefault(f"{what}, processor", []).append(cpu_s)
    rows = [
        Row(what, "s", "target", 2.0, statistics.median(values), "<= 2 s")
        for what, values in times.items()
    ]
    for row in document["networks"]:
        published = PUBLISHED_DAYS[row["model"]]
        error = row["days"] / published - 1
        what = f"{row['model']}: {error:+.1%}, told ±{row['error_ratio']:.0%}"
        rows.append(Row(what, "days", "published", published, row["days"], "within 15 %"))
    return rows + held_out()


def run_once(arguments: list[str], state: str) -> tuple[float, float, dict[str, Any]]:
    """Wall and processor seconds of the whole process, and what it printed."""
    environment = os.environ | {"XDG_STATE_HOME": state, "XDG_CONFIG_HOME": state}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.perf_counter()
    done = subprocess.run([LAUNCHER, *arguments], check=True, capture_output=True, env=environment)
    wall_s = time.perf_counter() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s, json.loads(done.stdout)


def held_out() -> list[Row]:
    """Errors on timm's figures, beside those of FLOPs alone; none without a copy of the file."""
    path = os.environ.get("TIMM_RESULTS")
    if not path:
        print("TIMM_RESULTS is not set: no held-out errors", file=sys.stderr)
        return []
    samples = plan_fit.read(Path(path))
    rate = [each.ms / each.gmac for each in samples]
    flops = [statistics.median(rate[:n] + rate[n + 1 :]) / rate[n] - 1 for n in range(len(samples))]
    rows = []
    for what, errors in (
        ("network", plan_fit.network_out(samples)),
        ("family", plan_fit.family_out(samples)),
    ):
        for name, part in (("median", 0.5), ("90th percentile", 0.9)):
            ours, theirs = (float(np.quantile(np.abs(e), part)) for e in (errors, flops))
            title = f"{name} error, {what} held out, {len(samples)} networks on RTX 3090"
            rows.append(Row(title, "ratio", "FLOPs alone, network held out", theirs, ours, ""))
    return rows
