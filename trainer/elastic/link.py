"""An agent's connection to the rendezvous, made anew whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from trainer.elastic.messages import (
    LINE_MOST_BYTES,
    BadMessage,
    Order,
    Standing,
    pack,
    parse,
)
from trainer.elastic.sockets import keep_alive

logger = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 2.0
CONNECT_S = 5.0


class Link:
    """Tells the rendezvous where the agent stands, and hears its orders."""

    def __init__(self, host: str, port: int, heard: Callable[[Order], None]) -> None:
        self.host = host
        self.port = port
        self.heard = heard
        self.trouble = "no contact yet"
        self._standing: Standing | None = None
        self._writer: asyncio.StreamWriter | None = None

    def stand(self, standing: Standing) -> None:
        """What the rendezvous shall know, now and after each new connection."""
        self._standing = standing
        self._tell()

    async def flush(self, timeout_s: float) -> None:
        """Waits until what was said has left this process."""
        if self._writer is not None:
            try:
                await asyncio.wait_for(self._writer.drain(), timeout_s)
            except (OSError, TimeoutError) as error:
                logger.warning("the rendezvous was not told: %s", error)

    async def run(self) -> None:
        """Connects again and again, until cancelled."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(self.host, self.port, limit=LINE_MOST_BYTES), CONNECT_S
                )
                wait_s, self.trouble = FIRST_RETRY_S, ""
                await self._attend(reader, writer)
            except (OSError, TimeoutError, ValueError) as error:
                self._lost(f"{type(error).__name__}: {error}".removesuffix(": "))
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive(writer)
        self._writer = writer
        try:
            self._tell()
            while line := await reader.readline():
                order = parse(line)
                if isinstance(order, Standing):
                    raise BadMessage("an agent answers where the rendezvous should")
                self.heard(order)
            self._lost("it closed the connection")
        finally:
            self._writer = None
            writer.close()

    def _lost(self, trouble: str) -> None:
        if self.trouble != trouble:
            logger.warning("rendezvous %s:%d: %s; trying again", self.host, self.port, trouble)
        self.trouble = trouble

    def _tell(self) -> None:
        if self._writer is not None and self._standing is not None:
            self._writer.write(pack(self._standing))
