"""Events on a job: what the controller did stands where `kubectl describe` and `status` show it."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime

from launcher.cluster.client import Api
from launcher.cluster.kinds import EVENT, Object
from launcher.controller.view import kind_of
from launcher.errors import LauncherError, NotFound

logger = logging.getLogger(__name__)

COMPONENT = "launcher-controller"
MESSAGE_MOST_CHARS = 1000
"""The API server refuses messages of more than 1,024."""


def tell(api: Api, job: Object, reason: str, message: str, is_warning: bool = True) -> None:
    """Adds an Event; the same reason again counts up the one there is.

    What the Event tells of has been done, so a failure to tell is only logged.
    """
    metadata = job["metadata"]
    digest = hashlib.sha256(f"{metadata['uid']} {reason}".encode()).hexdigest()[:16]
    name, now = f"{metadata['name']}.{digest}", _now()
    message = message[:MESSAGE_MOST_CHARS]
    try:
        try:
            # Its count is not known here: another leader may have told of it.
            found = api.patch(EVENT, name, {"message": message}, namespace=metadata["namespace"])
        except NotFound:
            api.create(_event(job, name, reason, message, is_warning, now))
            return
        again = {"count": int(found.get("count") or 1) + 1, "lastTimestamp": now}
        api.patch(EVENT, name, again, namespace=metadata["namespace"])
    except LauncherError as error:
        logger.warning("event %s of job %s is lost: %s", reason, metadata["name"], error)


def _event(job: Object, name: str, reason: str, message: str, is_warning: bool, now: str) -> Object:
    metadata, kind = job["metadata"], kind_of(job)
    return {
        "apiVersion": EVENT.version,
        "kind": EVENT.name,
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": kind.version,
            "kind": kind.name,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": reason,
        "message": message,
        "type": "Warning" if is_warning else "Normal",
        "source": {"component": COMPONENT},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
