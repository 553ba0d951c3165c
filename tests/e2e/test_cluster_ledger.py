"""The ledger against containerd: pods of every fate on a real node, writers killed meanwhile."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.ledger_storm import FATES, Weather, namespace_for_pods, storm

WEATHER = Weather(pods=30, kills=10, restarts=1, gap_s=2)
"""`make bench NAME=ledger` kills 50 times."""


@pytest.mark.timeout(900)
def test_starts_and_ends_are_those_that_containerd_and_the_api_server_tell(
    node: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(node.plane.kubeconfig))
    with namespace_for_pods(node, f"ledger-{uuid.uuid4().hex[:8]}") as namespace:
        account = storm(node, namespace, tmp_path, WEATHER)
    print(account.told())
    assert account.wrong() == []
    assert account.kills >= WEATHER.kills
    assert account.restarts == WEATHER.restarts
    # Of those deleted at once some may have had no node, or no container yet.
    at_once = -(-WEATHER.pods // len(FATES))
    assert len(account.names) == WEATHER.pods
    assert len(account.ends_s) >= WEATHER.pods - at_once
