"""Starts a cluster on this machine and leaves it running: `make cluster-up [NODE=1] [QUEUE=1]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tests.cluster.cluster import make_cluster
from tests.cluster.parts import NotReady, living
from tests.cluster.remains import clear, record
from tests.cluster.tools import Unavailable, kubectl
from tests.ending import end_on_sigterm


def folder() -> Path:
    """Where the cluster for people keeps its state."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "webvision-suite" / "cluster"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.up", description=__doc__)
    parser.add_argument("--node", action="store_true", help="with a node that runs pods")
    parser.add_argument("--queue", action="store_true", help="with Kueue")
    options = parser.parse_args()
    end_on_sigterm()
    place = folder()
    if living(place):
        print(f"the cluster is up already; `make cluster-down` ends it\n{_usage(place)}")
        return 0
    clear(place)  # of a machine that was switched off
    try:
        cluster = make_cluster(place, options.node, options.queue)
        record(cluster)
        try:
            cluster.start()
        except BaseException:
            cluster.stop()
            raise
    except (Unavailable, NotReady) as error:
        print(f"the cluster cannot be started: {error}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        return 1
    print(f"the cluster is up; `make cluster-down` ends it\n{_usage(place)}")
    return 0


def _usage(place: Path) -> str:
    return f"export KUBECONFIG={place}/kubeconfig\nalias kubectl={kubectl()}"


if __name__ == "__main__":
    sys.exit(main())
