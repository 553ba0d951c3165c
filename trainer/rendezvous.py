"""Where the agents of a run meet, in a process of its own, so that no worker is special.

    python -m trainer.rendezvous --port 29400

It holds nothing worth keeping: when it is lost, training goes on, and the agents tell the next one
where they stand. It ends itself once the run is done.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys

from trainer.elastic.server import Server


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trainer.rendezvous", description=__doc__)
    parser.add_argument("--port", type=int, default=29400, help="0 takes a free one")
    parser.add_argument(
        "--host", default="", help="address to listen on; without it every one of this machine"
    )
    flags = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        listener = _listen(flags.host, flags.port)
    except OSError as error:
        where = f"{flags.host or '*'}:{flags.port}"
        print(f"cannot listen on {where}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        return 1
    return asyncio.run(Server().serve(listener))


def _listen(host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))


if __name__ == "__main__":
    sys.exit(main())
