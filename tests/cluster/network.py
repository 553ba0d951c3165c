"""Addresses of a cluster with a node that neither this machine nor another cluster uses."""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A range of 65,536 addresses, 10.N.0.0, and how the cluster divides it."""

    number: int

    @property
    def whole(self) -> str:
        return f"10.{self.number}.0.0/16"

    @property
    def pods(self) -> str:
        return f"10.{self.number}.0.0/17"

    @property
    def pods_of_node(self) -> str:
        return f"10.{self.number}.0.0/24"

    @property
    def services(self) -> str:
        return f"10.{self.number}.128.0/18"

    @property
    def host(self) -> str:
        """The machine's own address, where a pod reaches it."""
        return f"10.{self.number}.255.1"

    @property
    def node(self) -> str:
        return f"10.{self.number}.255.2"


def find_network() -> Network:
    """A network that no route of this machine touches."""
    listed = subprocess.run(
        ["ip", "-json", "route", "show", "table", "all"], check=True, capture_output=True, text=True
    )
    taken = []
    for route in json.loads(listed.stdout):
        destination = route.get("dst", "default")
        if destination != "default" and ":" not in destination:
            taken.append(ipaddress.ip_network(destination, strict=False))
    numbers = list(range(64, 224))
    random.shuffle(numbers)
    for number in numbers:
        network = Network(number)
        if not any(ipaddress.ip_network(network.whole).overlaps(each) for each in taken):
            return network
    raise RuntimeError("each of 10.64.0.0/16 to 10.223.0.0/16 has a route on this machine")
