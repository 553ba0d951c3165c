"""The rendered objects as processes of this machine: the same verbs as a cluster has.

A supervisor plays operator and kubelet for each run: it starts the rendezvous and one agent
a worker with the environment which the operator would inject, and starts again what is lost.
Linux only, since it reads /proc.
"""

from launcher.local.logs import logs
from launcher.local.runs import (
    cancel,
    default_checkpoints,
    delete,
    is_known,
    list_jobs,
    scale,
    status,
    submit,
    wait,
)

__all__ = [
    "cancel",
    "default_checkpoints",
    "delete",
    "is_known",
    "list_jobs",
    "logs",
    "scale",
    "status",
    "submit",
    "wait",
]
