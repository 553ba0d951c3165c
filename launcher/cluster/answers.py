"""What an answer of the API server means: the object, or one of the launcher's errors. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from launcher.cluster.kinds import Kind
from launcher.errors import Conflict, Forbidden, LauncherError, NotFound, Rejected, Unreachable

MESSAGE_MOST_CHARS = 600
"""A webhook may send pages; the start tells."""
AGAIN_ALWAYS = frozenset({429})
"""The server has not begun: whatever was asked may be asked again."""
AGAIN_IF_HARMLESS = frozenset({500, 502, 503, 504})
"""The server may have done it: asked again only where twice is the same as once."""


class Gone(LauncherError):
    """The version that a watch wanted to go on from is no longer known: list again."""


class NoAnswer(Exception):
    """The answer cannot be read: cut off, or a page of something that is no API server."""


def read(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer. Raises NoAnswer."""
    try:
        value = json.loads(body)
    except ValueError:
        start = " ".join(body[:80].decode(errors="replace").split())
        raise NoAnswer(
            f"the answer is no JSON but {start!r}; is a proxy or a log-in page in between?"
        ) from None
    if not isinstance(value, dict):
        raise NoAnswer(f"the answer is no object but {str(value)[:80]!r}")
    return value


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The server's wish, in seconds; 0 where it has none. Dates are not used by API servers."""
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0


def failure(status: int, body: bytes, kind: Kind | None, what: str) -> LauncherError:
    """The error of an answer that is not 2xx.

    what: which object of which namespace was asked for, such as "PyTorchJob ml/senet154".
    """
    try:
        told = read(body)
    except NoAnswer:
        told = {}
    message = _short(str(told.get("message") or body.decode(errors="replace")))
    reason = told.get("reason", "")
    webhook = re.search(r'admission webhook "([^"]+)" denied the request:? ?(.*)', message)
    if webhook:
        return Rejected(f"{what}: the webhook {webhook[1]} refuses it: {webhook[2] or 'no reason'}")
    if status == 401:
        return Forbidden(
            "the API server does not know these credentials (401); log in again, or choose "
            "another context by --context"
        )
    if status == 403 and "exceeded quota" in message:
        return Rejected(f"{what}: {message.partition('forbidden: ')[2] or message}")
    if status == 403:
        return Forbidden(f"{what}: {message}; ask for the role launcher-user in that namespace")
    if status == 404 and not told:
        version = kind.version if kind else "this API"
        name = kind.name if kind else "object"
        return NotFound(
            f"the cluster knows no {name} ({version}); is its operator installed? see "
            "`launcher doctor`"
        )
    if status == 404:
        return NotFound(f"{what} does not exist ({message})")
    if status == 409:
        return Conflict(f"{what}: {message}")
    if status == 410 or reason == "Expired":
        return Gone(message)
    if status == 422 or status == 400:
        return Rejected(f"{what} is not accepted: {message}")
    if "failed calling webhook" in message:
        return Rejected(
            f"{what}: {message}; the webhook's operator does not answer: is it running?"
        )
    return Unreachable(f"{what}: the API server answers {status}: {message or 'nothing'}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= MESSAGE_MOST_CHARS:
        return line
    return f"{line[:MESSAGE_MOST_CHARS]}... ({len(line)} characters)"
