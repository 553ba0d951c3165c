"""The objects of a training job made into those of a calibration: the same pod, another program."""

from __future__ import annotations

import copy
from typing import Any

from launcher.errors import UsageError

PROGRAM = "trainer.calibrate"
RESULT_KEY = "calibration.json"
"""Under the run's folder."""


def as_calibration(objects: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """The rendered objects of a PyTorchJob with `trainer.calibrate` in place of `trainer.train`.

    Raises UsageError where there is no PyTorchJob among them.
    """
    changed = copy.deepcopy(objects)
    jobs = [thing for thing in changed if thing["kind"] == "PyTorchJob"]
    if not jobs:
        raise UsageError("launcher calibrate renders a PyTorchJob; leave --backend out")
    pod = jobs[0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    container = next(each for each in pod["containers"] if each["name"] == "pytorch")
    container["args"] = ["-m", PROGRAM, "--steps", str(steps)]
    return changed
