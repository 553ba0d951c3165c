"""The ledger on a real node: its writers are killed 50 times, and every start and end is exact.

30 pods of every fate (ending, failing, deleted, forced, evicted...) live while two controllers are
killed at random points and the API server is started anew three times. Their ends are compared with
what containerd tells, their starts with the pods' conditions.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.benchmarks.table import Row
from tests.cluster.cluster import running_cluster
from tests.e2e.ledger_storm import Weather, namespace_for_pods, storm

WEATHER = Weather(pods=30, kills=50, restarts=3, gap_s=14)


def measure() -> list[Row]:
    """One storm. Raises AssertionError with every difference."""
    with (
        tempfile.TemporaryDirectory(prefix="ledger-") as scratch,
        running_cluster(Path(scratch, "cluster"), with_node=True) as cluster,
    ):
        os.environ["KUBECONFIG"] = str(cluster.plane.kubeconfig)
        with namespace_for_pods(cluster, "storm") as namespace:
            account = storm(cluster, namespace, Path(scratch), WEATHER)
    print(account.told())
    wrong = account.wrong()
    assert not wrong, "\n".join(wrong)
    return [
        _row("writers killed", "kills", WEATHER.kills, account.kills),
        _row("restarts of the API server", "", WEATHER.restarts, account.restarts),
        _row("pods with a node, all stored with their start", "pods", 25, len(account.found)),
        _row("ends that containerd told, all stored", "pods", 25, len(account.ends_s)),
    ]


def _row(what: str, unit: str, least: int, value: int) -> Row:
    return Row(what, unit, "target", least, value, f">= {least}", more_is_better=True)
