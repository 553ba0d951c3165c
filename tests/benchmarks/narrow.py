"""Rows of a process that has AVX2 alone: a child that is denied all later instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks.table import Row

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def narrow(module: str, *arguments: str) -> list[Row]:
    """The rows that the module, run as a program, has told with `tell`."""
    child = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(child, env=os.environ | AVX2, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [Row(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def tell(rows: Sequence[Row]) -> None:
    """Writes them for `narrow` to read."""
    print(json.dumps([vars(row) for row in rows]))
