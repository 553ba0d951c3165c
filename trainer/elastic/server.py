"""The rendezvous: a meeting behind a TCP port. It asks for no password, as torch's stores do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time

from trainer.elastic.meeting import Meeting
from trainer.elastic.messages import (
    LINE_MOST_BYTES,
    BadMessage,
    Message,
    Refused,
    Standing,
    pack,
    parse,
)
from trainer.elastic.sockets import keep_alive

logger = logging.getLogger(__name__)

TICK_S = 0.1
HELLO_S = 10.0
"""Whoever connects says who it is within that."""
LINGER_S = 30.0
"""After the run is done, workers that come late still hear of it. Nobody waits for this time:
whoever started the rendezvous may end it earlier by SIGTERM."""
EXIT_TERMINATED = 128 + signal.SIGTERM
"""143: what a container reports when SIGTERM ended it."""


class Server:
    """Serves the agents of one run until it is done."""

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self.linger_s = linger_s
        self.meeting = Meeting(earlier=int(time.time()))
        self.run = ""
        self.writers: dict[str, asyncio.StreamWriter] = {}
        self.is_terminated = asyncio.Event()

    async def serve(self, listener: socket.socket) -> int:
        """Until the run is done or SIGTERM comes; returns the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.is_terminated.set)
        loop.add_signal_handler(signal.SIGINT, self.is_terminated.set)
        server = await asyncio.start_server(self._attend, sock=listener, limit=LINE_MOST_BYTES)
        print(f"rendezvous ready on {listener.getsockname()[1]}", flush=True)
        try:
            while not self.meeting.is_done:
                self._advance()
                if await self._terminated_within(TICK_S):
                    await asyncio.sleep(TICK_S)  # what agents said before it is still heard
                    break
            if not self.meeting.is_done:
                return EXIT_TERMINATED
            print("the run is done", flush=True)
            await self._linger()
            return 0
        finally:
            server.close()
            for writer in self.writers.values():
                writer.close()

    async def _linger(self) -> None:
        until = time.monotonic() + self.linger_s
        while time.monotonic() < until:
            self._advance()
            if await self._terminated_within(TICK_S):
                return

    async def _terminated_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.is_terminated.wait(), seconds)
        return self.is_terminated.is_set()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One agent's connection, from its first word to its end."""
        keep_alive(writer)
        node = ""
        try:
            line = await asyncio.wait_for(reader.readline(), HELLO_S)
            while line:
                said = parse(line)
                if not isinstance(said, Standing):
                    raise BadMessage(f"{type(said).__name__} is nothing an agent says")
                if self.run not in ("", said.run):
                    _send(writer, Refused(f"this rendezvous serves run {self.run}, not {said.run}"))
                    break
                self.run, node = said.run, said.node
                self.writers[node] = writer
                logger.info("%s: %s, round %d", said.name, said.state, said.round)
                self.meeting.heard(said, time.monotonic())
                self._advance()
                line = await reader.readline()
        except (BadMessage, ValueError, OSError, TimeoutError) as error:
            logger.warning("%s: %s", writer.get_extra_info("peername"), error or "said nothing")
        finally:
            if self.writers.get(node) is writer:  # else it has come again meanwhile
                del self.writers[node]
                self.meeting.gone(node, time.monotonic())
            writer.close()

    def _advance(self) -> None:
        for node, order in self.meeting.advance(time.monotonic()):
            logger.info("%s: %s", node, order)
            if writer := self.writers.get(node):
                _send(writer, order)


def _send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Without waiting: a few bytes to each agent, which reads them at once or is lost."""
    if not writer.is_closing():
        writer.write(pack(message))
