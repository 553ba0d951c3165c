"""The trainer's programs on this machine, each a process of its own: the launcher has no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from launcher.errors import LauncherError, UsageError


def run_program(
    verb: str, module: str, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> str:
    """What `python -m MODULE OPTIONS` prints; what it says on stderr is seen as it comes.

    Raises LauncherError without torch or where the program fails, UsageError where its exit
    status says that what is asked cannot be.
    """
    if find_spec("torch") is None:
        raise LauncherError(f"{verb} needs torch on this machine; pip install '.[train]'")
    answer = subprocess.run(
        [sys.executable, "-m", module, *options],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        kind = UsageError if answer.returncode == 2 else LauncherError
        raise kind(f"{module} ended with {answer.returncode}; its own words stand above")
    return answer.stdout
