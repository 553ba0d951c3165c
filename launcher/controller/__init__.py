"""What the operator leaves undone: restart budget, deadline, hangs, lost nodes, left-over objects.

One process acts (a Lease decides which); `decide` is pure, all it knows lies in the cluster.
"""

from __future__ import annotations

import contextlib
import threading

from launcher.cluster.client import Api
from launcher.controller.health import serve
from launcher.controller.loop import Controller, Settings

__all__ = ["Settings", "run", "run_once"]


def run(api: Api, settings: Settings, metrics_port: int, stopping: threading.Event) -> None:
    """Runs until `stopping` is set. Raises the error that no waiting cures."""
    controller = Controller(api, settings)
    pages = {
        "/healthz": controller.healthz,
        "/readyz": controller.readyz,
        "/metrics": controller.metrics,
    }
    with contextlib.ExitStack() as stack:
        if metrics_port:
            stack.enter_context(serve(metrics_port, pages))
        controller.run(stopping)


def run_once(api: Api, settings: Settings) -> None:
    """Looks at each job once. Raises Conflict while another controller leads."""
    Controller(api, settings).run_once()
