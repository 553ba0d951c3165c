"""List, then watch: every change of a collection, over lost connections and forgotten versions.

The server forgets old versions (410): then the collection is listed again and compared with what
was known, so that no deletion is missed and nothing is told twice.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from launcher.cluster.answers import Gone, NoAnswer, failure, read
from launcher.cluster.client import Api
from launcher.cluster.kinds import Kind, Object
from launcher.cluster.transport import Answer, Lost
from launcher.errors import Forbidden, LauncherError, NotFound, Unreachable

logger = logging.getLogger(__name__)

WATCH_S = 240
"""The server ends a watch after this time; a silent network is noticed by then."""
SILENCE_S = 60.0
"""Bookmarks come about once a minute; a connection that is silent for longer is tried anew."""
FIRST_DELAY_S, MOST_DELAY_S = 0.2, 10.0
REFUSED_S = 30.0
"""An API server that starts refuses everybody until it has read who may what: whoever was let in
before waits for so long until a refusal counts."""


@dataclass(frozen=True)
class Change:
    """One object as it is now; as it was last, if it was deleted."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object
    is_witnessed: bool = True
    """Whether the deletion was told of, with the object as it then was; else it is only missing."""


class Watch(threading.Thread):
    """Tells each change of a collection from a thread of its own, until `stop`.

    tell: called with each Change, and with None whenever all that a list knew has been told.
    fail: called once with the error that no waiting cures (rights, an unknown kind).
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        tell: Callable[[Change | None], None],
        fail: Callable[[LauncherError], None],
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], Object] | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        """keep: what is kept and told of each object; its uid and version must be."""
        super().__init__(name=f"watch-{kind.plural}", daemon=True)
        self.api, self.kind, self.tell, self.fail = api, kind, tell, fail
        self.namespace = api.namespace if namespace is None else namespace
        self.labels, self.fields, self.silence_s = labels, fields, silence_s
        self.keep = keep
        self.known: dict[str, Object] = {}
        """By uid."""
        self.lists = 0
        """How often the collection was listed: once, and again for each 410."""
        self.refused_s = REFUSED_S
        self._refused_at = float("inf")
        """When the refusals in a row began."""
        self._version = ""
        """Where the watch goes on from; empty: the collection has to be listed."""
        self._heard = 0
        """Events so far, bookmarks too."""
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._answer: Answer | None = None

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; nothing is told after it."""
        with self._lock:
            self._stopping.set()
            if self._answer is not None:
                self._answer.interrupt()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout_s)

    def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            heard, started_at = self._heard, time.monotonic()
            try:
                if not self._version:
                    self._list()
                self._follow()
            except Gone as error:
                logger.debug("%s: listed again: %s", self.kind.plural, error)
                self._version = ""
            except (Forbidden, NotFound) as error:
                if not self._outlasts(error):
                    return
            except LauncherError as error:
                logger.debug("%s: %s", self.kind.plural, error)
            # A server that ends each watch at once would otherwise be asked without a pause.
            if self._heard > heard or time.monotonic() - started_at > MOST_DELAY_S:
                delay_s = FIRST_DELAY_S
            self._stopping.wait(random.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, MOST_DELAY_S)

    def _outlasts(self, error: LauncherError) -> bool:
        """Whether a refusal may be that of a server which just starts; else tells `fail`."""
        now = time.monotonic()
        self._refused_at = min(self._refused_at, now)
        if self.lists and now - self._refused_at < self.refused_s:
            logger.debug("%s: refused for now: %s", self.kind.plural, error)
            return True
        if not self._stopping.is_set():
            self.fail(error)
        return False

    def _list(self) -> None:
        """Tells what differs from what was known."""
        listing = self.api.listing(
            self.kind,
            namespace=self.namespace,
            labels=self.labels,
            fields=self.fields,
            keep=self.keep,
        )
        self.lists += 1
        found = {thing["metadata"]["uid"]: thing for thing in listing.items}
        for uid in [uid for uid in self.known if uid not in found]:
            self._tell(Change("DELETED", self.known[uid], is_witnessed=False))
        for uid, thing in found.items():
            known = self.known.get(uid)
            if known is None:
                self._tell(Change("ADDED", thing))
            elif _version(known) != _version(thing):
                self._tell(Change("MODIFIED", thing))
        if not self._stopping.is_set():
            self.tell(None)
        self._version = listing.version

    def _follow(self) -> None:
        """One watch from the version reached to its end. Raises Gone, and Unreachable."""
        query = {
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "labelSelector": self.labels,
            "fieldSelector": self.fields,
        }
        path = self.kind.path(self.namespace)
        answer = self.api.stream(path, query, self.kind.plural, self.silence_s)
        self._refused_at = float("inf")
        try:
            with self._lock:
                self._answer = answer
            for line in answer.lines():
                if self._stopping.is_set():
                    return
                self._event(line)
        except (Lost, NoAnswer) as error:
            raise Unreachable(f"{self.kind.plural}: {error}") from error
        finally:
            with self._lock:
                self._answer = None
                answer.close()

    def _event(self, line: bytes) -> None:
        event = read(line)
        if not isinstance(event.get("object"), dict) or "type" not in event:
            raise NoAnswer(f"the watch's line is no event but {line[:80]!r}")
        thing = event["object"]
        if event["type"] == "ERROR":
            code = int(thing.get("code", 500))
            raise failure(code, json.dumps(thing).encode(), self.kind, self.kind.plural)
        if event["type"] != "BOOKMARK":
            self._tell(Change(event["type"], thing if self.keep is None else self.keep(thing)))
        self._version = _version(thing)
        self._heard += 1

    def _tell(self, change: Change) -> None:
        if self._stopping.is_set():
            return
        uid = change.object["metadata"]["uid"]
        if change.type == "DELETED":
            self.known.pop(uid, None)
        else:
            self.known[uid] = change.object
        self.tell(change)


def _version(thing: Object) -> str:
    return str(thing["metadata"]["resourceVersion"])


def settled(api: Api, kind: Kind, name: str, timeout_s: float) -> Iterator[Object | None]:
    """The object whenever it has changed, None once it is gone; ends after timeout_s of nothing.

    Raises what no waiting cures.
    """
    news: queue.Queue[Change | LauncherError | None] = queue.Queue()
    watch = Watch(api, kind, news.put, news.put, fields=f"metadata.name={name}")
    watch.start()
    try:
        while True:
            try:
                item = news.get(timeout=timeout_s)
            except queue.Empty:
                return
            if isinstance(item, LauncherError):
                raise item
            if item is None:
                if not watch.known:
                    yield None
            else:
                yield None if item.type == "DELETED" else item.object
    finally:
        watch.stop()
