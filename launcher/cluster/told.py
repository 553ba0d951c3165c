"""What was told of an object: its events, without a look through those of the whole namespace.

The API server has no index of events: asked for those of one object it reads all of the namespace,
half a second with 10,000. But it keeps objects in the order of their names, an event's name begins
with its object's (Kubernetes' own recorders name it OBJECT.TIME), and a long list goes on from the
name that is in the token of the page before. So a token of our own begins at the right place.

Tokens are the server's own affair. Where one is not taken, or does not lead to where it should, all
events are looked through.
"""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import urlencode

from launcher.cluster.answers import Gone
from launcher.cluster.client import Api
from launcher.cluster.kinds import EVENT, Object
from launcher.errors import Rejected

PAGE = 100
"""An object has fewer as a rule: the same event again counts up the one there is."""


def events_of(api: Api, name: str) -> list[Object]:
    """The events of all objects of a name that are named after it."""
    try:
        found = _from(api, f"{name}.")
    except (Rejected, Gone):
        found = None
    if found is None:
        return all_events_of(api, name)
    return [event for event in found if event["involvedObject"]["name"] == name]


def all_events_of(api: Api, name: str) -> list[Object]:
    """The events of all objects of a name, however they are named themselves."""
    return api.listing(EVENT, fields=f"involvedObject.name={name}").items


def _from(api: Api, prefix: str) -> list[Object] | None:
    """Events whose names begin so; None where the server does not begin there."""
    found: list[Object] = []
    token = _token(prefix)
    while True:
        query = urlencode({"limit": PAGE, "continue": token})
        page = api.ask(f"{EVENT.path(api.namespace)}?{query}", f"events {api.namespace}")
        names = [str(event["metadata"]["name"]) for event in page.get("items", ())]
        if names and min(names) < prefix:
            return None
        mine = [name.startswith(prefix) for name in names]
        found += itertools.compress(page.get("items", ()), mine)
        token = (page.get("metadata") or {}).get("continue", "")
        if not token or not all(mine):
            return found


def _token(start: str) -> str:
    """As the API server writes it since 1.9; version -1 is the newest."""
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": -1, "start": start})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
