"""Ends the cluster that `make cluster-up` has started, and removes all of it."""

from __future__ import annotations

import sys

from tests.cluster.parts import NotReady
from tests.cluster.remains import clear
from tests.cluster.up import folder


def main() -> int:
    place = folder()
    try:
        print("the cluster is down" if clear(place) else "no cluster is up")
    except (NotReady, PermissionError) as error:
        print(f"the cluster in {place} cannot be ended: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
