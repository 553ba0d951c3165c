"""Has the ranks of running pods write their threads' stacks to their logs (`trainer.stacks`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import urlencode

from launcher.cluster.client import Api
from launcher.cluster.kinds import POD, Object
from launcher.cluster.objects import container_of
from launcher.cluster.state import is_running
from launcher.errors import Forbidden, LauncherError

COMMAND = ("python", "-m", "trainer.stacks")
TIMEOUT_S = 20.0
WRITE_S = 1.0
"""A rank writes its stacks within milliseconds; its log is read by way of the node."""


def request_stacks(api: Api, pods: Sequence[Object]) -> str:
    """What each running pod answered, a line each. Raises Forbidden without the right to exec."""
    running = [pod for pod in pods if is_running(pod)]
    if not running:
        return "no worker is running\n"
    if not api.allowed("create", POD, "exec"):
        raise Forbidden(
            f"pods/exec in {api.namespace} is not allowed; ask for the role launcher-debugger"
        )
    lines = [f"{pod['metadata']['name']}: {_execute(api, pod)}" for pod in running]
    time.sleep(WRITE_S)
    return "\n".join(lines) + "\n"


def _execute(api: Api, pod: Object) -> str:
    """Output of the command in the pod's trainer container."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream.ws_client import websocket_call

    metadata, settings = pod["metadata"], api.transport.client.configuration
    query = [
        ("container", container_of(pod)),
        ("stdout", "true"),
        ("stderr", "true"),
        *(("command", word) for word in COMMAND),
    ]
    path = POD.path(metadata["namespace"], metadata["name"], "exec")
    token = next((entry["value"] for entry in settings.auth_settings().values()), "")
    try:
        answer = websocket_call(
            settings,
            "GET",
            f"{settings.host}{path}?{urlencode(query)}",
            headers={"authorization": token} if token else {},
            _request_timeout=TIMEOUT_S,
        )
    except ApiException as error:
        raise LauncherError(
            f"exec in {metadata['name']}: {' '.join(str(error.reason).split())[:200]}"
        ) from error
    return " ".join(str(answer.data).split())
