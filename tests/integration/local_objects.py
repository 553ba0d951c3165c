"""Objects of the shape that `launcher render` gives, with a test's own commands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launcher.spec import CHECKPOINTS_ANNOTATION, MODEL_ANNOTATION

IDLE = ("python", "-c", "import time; time.sleep(1000)")


def objects(
    name: str,
    command: Sequence[str],
    *,
    workers: int = 2,
    least: int = 1,
    most: int = 3,
    grace_s: int = 10,
    rendezvous: Sequence[str] = IDLE,
    env: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """rendezvous: by default a process that only is there, for workers that need no store."""
    program, *args = command
    store, *store_args = rendezvous
    conf = {
        "join_timeout": "600",
        "last_call_timeout": "1",
    }
    container = {
        "name": "pytorch",
        "command": [program],
        "args": list(args),
        "env": [
            {"name": "PET_LOCAL_ADDR", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *({"name": key, "value": value} for key, value in (env or {}).items()),
        ],
    }
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "annotations": {MODEL_ANNOTATION: "tiny", CHECKPOINTS_ANNOTATION: "file:///nowhere"},
        },
        "spec": {
            "nprocPerNode": "1",
            "elasticPolicy": {
                "minReplicas": least,
                "maxReplicas": most,
                "rdzvBackend": "c10d",
                "rdzvHost": f"{name}-rendezvous",
                "rdzvPort": 29400,
                "rdzvId": name,
                "maxRestarts": 100,
                "rdzvConf": [{"key": key, "value": value} for key, value in conf.items()],
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": workers,
                    "restartPolicy": "OnFailure",
                    "template": {
                        "spec": {
                            "terminationGracePeriodSeconds": grace_s,
                            "containers": [container],
                        }
                    },
                }
            },
        },
    }
    store_pod = {"containers": [{"name": "store", "command": [store], "args": store_args}]}
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"{name}-rendezvous"},
            "spec": {"template": {"spec": store_pod}},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-rendezvous"}},
        job,
    ]
