"""Operator and kubelet of one run: keeps its processes alive, to the end.

    python -m launcher.local.supervisor NAME --lock-fd N

`submit` starts it, in a session of its own, so it outlives the terminal. It takes its orders from
desired.json and cancel.json and is the only writer of status.json (`folder.py`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from launcher.errors import LauncherError
from launcher.local import processes
from launcher.local.elastic import Elastic
from launcher.local.folder import Folder, state_root
from launcher.local.indexed import Indexed
from launcher.local.job import read_objects
from launcher.local.keeper import Keeper

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launcher.local.supervisor")
    parser.add_argument("name")
    parser.add_argument("--lock-fd", type=int, help="descriptor that holds the run's lock")
    flags = parser.parse_args(argv)
    folder = Folder(state_root() / flags.name)
    lock = folder.lock() if flags.lock_fd is None else flags.lock_fd
    if lock is None:
        print(f"run {flags.name!r} has a supervisor already", file=sys.stderr)
        return 5
    os.set_inheritable(lock, False)  # the lock must not outlive this process in a worker
    # An intermediate process ends at once, so the supervisor is nobody's child to wait for.
    if os.fork():
        os._exit(0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    submitted = folder.read("objects.json")
    assert submitted is not None
    try:
        job = read_objects(submitted["objects"])
        charged_s = (folder.read("status.json") or {}).get("worker_s", 0.0)
        kind = Elastic if job.parts is None else Indexed
        supervisor: Keeper = kind(
            folder, job, submitted["directory"], submitted["submission"], charged_s
        )
    except LauncherError as error:
        logger.error("%s", error)
        return error.exit_code
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: setattr(supervisor, "is_terminated", True))
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
