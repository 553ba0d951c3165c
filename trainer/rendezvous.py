"""The store where torchrun's agents meet, in a process of its own, so that no worker is special.

    python -m trainer.rendezvous --port 29400

It holds nothing worth keeping: when it is lost, the agents end, are started again with it, and
training goes on from its checkpoint. It ends itself once the run is done (`announce_done`).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import signal
import socket
import sys
import time

from torch.distributed import TCPStore  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

DONE_KEY = "launcher/done"
LINGER_S = 30.0
"""After the run is done its processes still end, and their agents ask the store until then: an
agent that loses it before its processes have ended fails. Nobody waits for this time: whoever
started the store may end it earlier by SIGTERM, and it ends with 0 all the same."""
POLL_S = 0.25
EXIT_TERMINATED = 128 + signal.SIGTERM
"""143: what a container reports when SIGTERM ended it."""


def serve(host: str, port: int, linger_s: float = LINGER_S) -> None:
    """Holds the store until the run is done. Raises OSError where the port is taken.

    host: the address listened on. The store asks nobody for a password, so on one machine it is
    127.0.0.1; left to itself TCPStore would listen everywhere.
    port: 0 takes a free one.
    """
    is_ipv6 = ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    listener = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
    port = listener.getsockname()[1]
    own_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    store = TCPStore(
        own_address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=30),
        master_listen_fd=listener.detach(),
    )
    print(f"rendezvous ready on {port}", flush=True)
    while not store.check([DONE_KEY]):
        time.sleep(POLL_S)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("the run is done", flush=True)
    time.sleep(linger_s)


def announce_done(endpoint: str, timeout_s: float = 10.0) -> None:
    """Tells the rendezvous at `host:port` that the run is done; rank 0 calls it after success.

    A rendezvous that cannot be reached is only warned about: the run is done all the same.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        store = TCPStore(host.strip("[]"), int(port), timeout=datetime.timedelta(seconds=timeout_s))
        store.set(DONE_KEY, "1")
    except (RuntimeError, ValueError) as error:  # DistError is a RuntimeError
        logger.warning("rendezvous %r was not told that the run is done: %s", endpoint, error)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trainer.rendezvous", description=__doc__)
    parser.add_argument("--port", type=int, default=29400, help="0 takes a free one")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    flags = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            serve(flags.host, flags.port)
    except OSError as error:
        print(
            f"cannot listen on {flags.host}:{flags.port}: {os.strerror(error.errno or 0)}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
