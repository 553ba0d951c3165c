"""How connections are kept and listened for."""

from __future__ import annotations

import asyncio
import socket

SILENT_S, PROBES = 5, 3
"""A machine that vanished says nothing. The kernel asks it after that silence, so many times."""


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Has the kernel find out when the other machine is gone without a word."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    # Words that were sent and never acknowledged; keep-alive does not look at those.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * PROBES * 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
