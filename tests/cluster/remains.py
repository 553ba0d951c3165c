"""What a cluster leaves on the machine, ended and removed without whoever started it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.network import Network
from tests.cluster.parts import NotReady, end_all, wait_until_gone
from tests.cluster.sandbox import Sandbox

RECORD = "cluster.json"


def record(cluster: Cluster) -> None:
    """Writes down what cannot be seen in the processes; before any is started."""
    network = cluster.plane.network
    known = {"network": network.number if network else None}
    (cluster.plane.folder / RECORD).write_text(json.dumps(known))


def clear(folder: Path) -> bool:
    """Ends and removes all that is left of the cluster in the folder; False if there was nothing.

    Works after a reboot, and whichever part was killed before. Raises NotReady if something
    cannot be ended.
    """
    if not folder.exists():
        return False
    end_all(folder)
    if not wait_until_gone(folder):
        raise NotReady(f"processes of the cluster in {folder} do not end; try once more")
    path = folder / RECORD
    number = json.loads(path.read_text())["network"] if path.exists() else None
    if number is not None:
        Sandbox(folder / "node", Network(number)).clear()
    shutil.rmtree(folder)
    return True
