"""Requests to the API server: harmless ones are asked again, failures are of our own kinds.

Objects stay plain dicts: the official client's models cost time and memory, and know no PyTorchJob.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from launcher.cluster import answers
from launcher.cluster.kinds import ACCESS_REVIEW, Kind, Object, kind_of
from launcher.cluster.marks import SUBMISSION
from launcher.cluster.transport import Answer, Lost, NotSent, Transport, Untrusted
from launcher.errors import Conflict, LauncherError, NotFound, Unreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIELD_MANAGER = "launcher"
PATIENCE_S = 30.0
"""How long a harmless request is asked again: a restart of the API server or of etcd fits."""
FIRST_DELAY_S, MOST_DELAY_S = 0.2, 5.0
PAGE = 500
"""Objects of one answer, as kubectl asks for."""
LISTS = 3
"""How often a list whose later pages the server forgot is begun."""

PLAIN = "application/json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Listing:
    """Objects, and the version of the collection that a watch goes on from."""

    items: list[Object]
    version: str


class Api:
    """One API server as one user, with a default namespace."""

    def __init__(
        self,
        transport: Transport,
        namespace: str = "",
        *,
        timeout_s: float = 30.0,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """timeout_s: longest silence within one answer. patience_s: for all tries of a request."""
        self.transport, self.namespace = transport, namespace or transport.namespace
        self.timeout_s, self.patience_s = timeout_s, patience_s
        self._clock, self._sleep = clock, sleep

    # -- objects

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """One object. Raises NotFound."""
        return self._ask("GET", kind, namespace or self.namespace, name)

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """One object, or None."""
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def listing(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], Object] | None = None,
    ) -> Listing:
        """All objects that match, in pages. namespace: None is the own one, "" are all.

        keep: what is kept of each object; no more than a page of whole ones is held.
        """
        items, version = self._list(kind, keep or _same, namespace, labels, fields)
        return Listing(items, version)

    def each(
        self,
        kind: Kind,
        make: Callable[[Object], T],
        *,
        namespace: str | None = None,
        labels: str = "",
    ) -> list[T]:
        """What is made of each object that matches; never more than a page of them is held."""
        return self._list(kind, make, namespace, labels, "")[0]

    def _list(
        self,
        kind: Kind,
        make: Callable[[Object], T],
        namespace: str | None,
        labels: str,
        fields: str,
    ) -> tuple[list[T], str]:
        where = self.namespace if namespace is None else namespace
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        for _ in range(LISTS):
            try:
                return self._pages(kind, make, where, query)
            except answers.Gone as gone:  # the next pages of a long list have been forgotten
                error = gone
        raise Unreachable(
            f"{kind.plural} {where}: the list changed faster than it could be read, {LISTS} times: "
            f"{error}"
        )

    def _pages(
        self, kind: Kind, make: Callable[[Object], T], namespace: str, query: Mapping[str, str]
    ) -> tuple[list[T], str]:
        items: list[T] = []
        token = ""
        while True:
            page = self._ask("GET", kind, namespace, query={**query, "continue": token})
            items += map(make, page.get("items", ()))
            metadata = page.get("metadata") or {}
            token = metadata.get("continue", "")
            if not token:
                return items, metadata.get("resourceVersion", "")

    def create(self, thing: Object, *, dry_run: bool = False) -> Object:
        """Creates an object; Conflict if there is one of that name which is not this very one.

        Server-side apply cannot say "only if absent", and of two submitters one has to lose. A lost
        answer is asked again: what then exists with the same submission annotation is ours.
        """
        kind, metadata = kind_of(thing), thing["metadata"]
        where = metadata.get("namespace") or self.namespace
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"} | _dry(dry_run)
        try:
            return self._ask("POST", kind, where, query=query, body=thing, harmless=True)
        except Conflict:
            mine = metadata.get("annotations", {}).get(SUBMISSION)
            found = self.find(kind, metadata.get("name", ""), where)
            if mine and found and found["metadata"].get("annotations", {}).get(SUBMISSION) == mine:
                return found
            raise

    def apply(self, thing: Object, *, dry_run: bool = False) -> Object:
        """Creates or changes an object to be as told (server-side apply); twice is as once."""
        kind, metadata = kind_of(thing), thing["metadata"]
        where = metadata.get("namespace") or self.namespace
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return self._ask(
            "PATCH",
            kind,
            where,
            metadata["name"],
            query=query | _dry(dry_run),
            body=thing,
            content=APPLY,
            harmless=True,
        )

    def patch(
        self,
        kind: Kind,
        name: str,
        change: Mapping[str, Any] | list[dict[str, Any]],
        *,
        namespace: str = "",
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Changes an object by a merge patch, or by a JSON patch where `change` is a list."""
        content = JSON_PATCH if isinstance(change, list) else MERGE
        query = {"fieldManager": FIELD_MANAGER} | _dry(dry_run)
        return self._ask(
            "PATCH",
            kind,
            namespace or self.namespace,
            name,
            subresource,
            query=query,
            body=change,
            content=content,
            harmless=True,
        )

    def replace(self, thing: Object, namespace: str = "") -> Object:
        """Puts an object in place of the version it names. Raises Conflict if that is older."""
        kind, metadata = kind_of(thing), thing["metadata"]
        where = namespace or metadata.get("namespace") or self.namespace
        return self._ask("PUT", kind, where, metadata["name"], body=thing)

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        version: str = "",
        grace_s: int | None = None,
    ) -> None:
        """Deletes an object and, behind the scenes, what it owns. Absent already is fine.

        uid: only this very object; version: only as it was at this resourceVersion. Raises Conflict
        where another has the name, or it has changed, by now.
        """
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        only = {"uid": uid, "resourceVersion": version}
        if uid or version:
            body["preconditions"] = {key: value for key, value in only.items() if value}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        where = namespace or self.namespace
        try:
            self._ask("DELETE", kind, where, name, body=body, harmless=True)
        except NotFound:
            return

    def ask(self, path: str, what: str = "") -> Object:
        """The answer to a GET that is no object's, such as /version. what: its name in errors."""
        return self._send(Request("GET", path, what or path), answers.read)

    def allowed(self, verb: str, kind: Kind, subresource: str = "", namespace: str = "") -> bool:
        """Whether this user may do it (a SelfSubjectAccessReview)."""
        group = kind.version.partition("/")[0] if "/" in kind.version else ""
        attributes = {
            "verb": verb,
            "group": group,
            "resource": kind.plural,
            "subresource": subresource,
        }
        if kind.namespaced:
            attributes["namespace"] = namespace or self.namespace
        review = {
            "apiVersion": ACCESS_REVIEW.version,
            "kind": ACCESS_REVIEW.name,
            "spec": {"resourceAttributes": attributes},
        }
        request = Request("POST", ACCESS_REVIEW.path(), "access review", {}, review, PLAIN, True)
        return bool(self._send(request, answers.read)["status"]["allowed"])

    def text(self, path: str, query: Mapping[str, str], what: str) -> str:
        """An answer that is text, such as a log."""
        request = Request("GET", path, what, query)
        return self._send(request, bytes).decode(errors="replace")

    def stream(self, path: str, query: Mapping[str, str], what: str, silence_s: float) -> Answer:
        """An answer that is read as it comes; sent once. Raises the errors of any answer, or
        Unreachable."""
        try:
            answer = self.transport.open("GET", path, query, silence_s=silence_s)
            if 200 <= answer.status < 300:
                return answer
            raise answers.failure(answer.status, answer.read(), None, what)
        except (NotSent, Lost) as error:
            raise Unreachable(f"{what}: {error}") from error

    # -- requests

    def _ask(
        self,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = PLAIN,
        harmless: bool = False,
    ) -> Object:
        place = f"{namespace}/" if namespace and kind.namespaced else ""
        title = name or (body["metadata"].get("name", "") if isinstance(body, dict) else "")
        what = f"{kind.name} {place}{title}" if title else f"{kind.plural} {namespace}".rstrip()
        request = Request(
            method,
            kind.path(namespace, name, subresource),
            what,
            query or {},
            body,
            content if body is not None else "",
            harmless or method == "GET",
            kind,
        )
        return self._send(request, answers.read)

    def _send(self, request: Request, read: Callable[[bytes], T]) -> T:
        """The body of the 2xx answer, asked for again while that is harmless and patience lasts.

        read: makes something of the body; where it raises NoAnswer, that was no answer.
        """
        ends_at = self._clock() + self.patience_s
        delay_s = FIRST_DELAY_S
        while True:
            wish_s = 0.0
            error: LauncherError
            try:
                answer = self.transport.open(
                    request.method,
                    request.path,
                    request.query,
                    request.body,
                    request.content,
                    self.timeout_s,
                )
                data = answer.read()
                if 200 <= answer.status < 300:
                    return read(data)
                error = answers.failure(answer.status, data, request.kind, request.what)
                wish_s = answers.retry_after_s(answer.headers)
                again = answer.status in answers.AGAIN_ALWAYS or (
                    request.harmless and answer.status in answers.AGAIN_IF_HARMLESS
                )
            except NotSent as unsent:
                error = Unreachable(f"{request.what}: {unsent}")
                again = not isinstance(unsent, Untrusted)
            except (Lost, answers.NoAnswer) as lost:
                error, again = Unreachable(f"{request.what}: {lost}"), request.harmless
            pause_s = max(wish_s, random.uniform(delay_s / 2, delay_s))
            if not again or self._clock() + pause_s > ends_at:
                raise error
            logger.debug("again in %.1f s: %s", pause_s, error)
            self._sleep(pause_s)
            delay_s = min(delay_s * 2, MOST_DELAY_S)


@dataclass(frozen=True)
class Request:
    """What is asked of the server."""

    method: str
    path: str
    what: str
    """For errors: which object of which namespace."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content: str = ""
    harmless: bool = True
    """Twice is the same as once."""
    kind: Kind | None = None


def _same(thing: Object) -> Object:
    return thing


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}
