"""A budget with a ledger that a controller keeps, beside the runs of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import controllers
from tests.cluster.controllers import until
from tests.cluster.ledgers import CLUSTER
from tests.cluster.tools import ROOT
from tests.e2e.cluster_runs import ClusterRun
from tests.e2e.runs import launcher


@contextmanager
def kept_ledger(run: ClusterRun, budget: str, tmp_path: Path, *limits: str) -> Iterator[Path]:
    """The ledger's folder while a controller keeps it; limits: flags of `launcher budget set`.

    At the end the jobs of the run's namespace are deleted, and their pods counted.
    """
    plane, ledger = run.cluster.plane, tmp_path / "ledger"
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "k8s/crds/budgets.launcher.dev.yaml"))
    plane.kubectl(
        "wait", "--for=condition=Established", "crd/budgets.launcher.dev", "--timeout=60s"
    )
    controllers.install(plane, tmp_path / "kubeconfig")
    launcher("budget", "set", budget, *limits)
    flags = ("--ledger", str(ledger), "--cluster", CLUSTER, "--node-grace", "60s")
    try:
        with controllers.controller(tmp_path / "kubeconfig", run.namespace, "own", *flags):
            yield ledger
            run.kubectl("delete", "pytorchjobs", "--all", "--timeout=60s")
            until(lambda: not run.pods(), "the ledger has let every pod go")
    finally:
        plane.kubectl("delete", "budgets.launcher.dev", budget)
        plane.kubectl("delete", "namespace", controllers.SYSTEM, "--timeout=60s")
