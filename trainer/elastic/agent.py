"""A worker: meets the others, runs its ranks, and meets again when the group changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import uuid
from dataclasses import dataclass, replace

from trainer.elastic.link import Link
from trainer.elastic.messages import Order, Over, Refused, Regroup, Standing, Start
from trainer.elastic.ranks import Program, Ranks, warm_up
from trainer.exits import TERMINATED, USAGE, tell_reason

logger = logging.getLogger(__name__)

FLUSH_S = 2.0
"""Longest time to say good-bye; a rendezvous that does not listen notices the end by itself."""


@dataclass(frozen=True)
class Settings:
    """What an agent is told of its job."""

    run: str
    name: str
    host: str
    """Of the rendezvous."""
    port: int
    own_host: str
    """Address under which the others reach this worker."""
    ranks: int
    least: int
    """Workers of a group."""
    most: int
    max_restarts: int
    """Failures of its own ranks after which the agent gives up; losses of others do not count."""
    join_timeout_s: float
    last_call_s: float
    stop_s: float
    """From SIGTERM to SIGKILL of a rank."""


@dataclass(frozen=True)
class Ended:
    """A rank has ended."""

    ranks: Ranks
    """Those of its round: the word of it may come when they are over."""
    number: int
    code: int


@dataclass(frozen=True)
class Signalled:
    """This process shall end."""


@dataclass(frozen=True)
class Warm:
    """All is imported."""


Event = Order | Ended | Signalled | Warm


class Agent:
    """Runs the ranks of one worker to the end of the run."""

    def __init__(self, settings: Settings, program: Program) -> None:
        self.settings = settings
        self.program = program
        self.failures = 0
        self._failure = ""
        """How its own ranks ended the last round; whether another was lost is not known yet."""
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._link = Link(settings.host, settings.port, self._events.put_nowait)
        self._standing = Standing(
            run=settings.run,
            node=uuid.uuid4().hex,
            name=settings.name,
            state="waiting",
            ranks=settings.ranks,
            least=settings.least,
            most=settings.most,
            last_call_s=settings.last_call_s,
            host=settings.own_host,
            port=0,
        )

    async def run(self) -> int:
        """Until the run is done or cannot go on; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._events.put_nowait, Signalled())
        link = asyncio.create_task(self._link.run())
        try:
            # Who has not imported everything yet would only keep the others from working.
            status = await self._warm_up()
            while status is None:
                status = await self._meet_and_work()
            return status
        finally:
            if self._standing.state != "done":
                self._stand("leaving")
            await self._link.flush(FLUSH_S)
            link.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await link

    # -- between groups

    async def _warm_up(self) -> int | None:
        """The exit status if this process is to end meanwhile."""
        warming = asyncio.create_task(warm_up(self.program))
        warming.add_done_callback(lambda _: self._events.put_nowait(Warm()))
        while not warming.done():
            if isinstance(await self._events.get(), Signalled):
                warming.cancel()
                return TERMINATED
        if warming.exception() is not None:
            return _give_up(f"{self.program} cannot be imported; its traceback is in the log")
        return None

    async def _meet_and_work(self) -> int | None:
        """One round; the exit status, or None to meet again."""
        try:
            async with asyncio.timeout(self.settings.join_timeout_s):
                listener = _listen(self.settings.own_host)
                start = await self._meet(listener)
        except TimeoutError:
            least, most = self.settings.least, self.settings.most
            reason = (
                f"no group of {least} to {most} workers within"
                f" {self.settings.join_timeout_s:g} s (job.rendezvous.join_timeout_s)"
            )
            return _give_up(f"{reason}; {self._link.trouble}" if self._link.trouble else reason)
        with listener:
            return start if isinstance(start, int) else await self._work(start, listener)

    async def _meet(self, listener: socket.socket) -> Start | int:
        """The next group, or the exit status."""
        self._standing = replace(self._standing, port=listener.getsockname()[1])
        self._stand("waiting")
        while True:
            event = await self._events.get()
            if isinstance(event, Start):
                return event
            if (status := _end_of(event)) is not None:
                return status

    # -- in a group

    async def _work(self, start: Start, listener: socket.socket) -> int | None:
        """One round; the exit status, or None to meet again."""
        if self._fails_once_too_often(start):
            return 1
        logger.info(
            "round %d: worker %d of %d, ranks %d to %d of %d",
            start.round, start.place, start.size,
            start.first_rank, start.first_rank + self.settings.ranks - 1, start.world,
        )  # fmt: skip
        self._standing = replace(
            self._standing, round=start.round, place=start.place, size=start.size
        )
        self._stand("working")
        ranks = Ranks(lambda *end: self._events.put_nowait(Ended(ranks, *end)))
        store = listener if start.place == 0 else None
        ranks.start(self.program, self._environments(start), store)
        listener.close()  # the rank has its own by now
        while True:
            event = await self._events.get()
            if isinstance(event, Regroup) and event.round == start.round:
                logger.info("meeting again: %s", event.reason)
                return await self._stop(ranks)
            if isinstance(event, Ended) and event.ranks is ranks:
                if event.code == 0 and ranks.alive:
                    continue
                if not any(ranks.codes.values()) and not ranks.alive:
                    self._stand("done")
                    return 0
                return await self._ended(ranks, start, event)
            if not isinstance(event, Over) and (status := _end_of(event)) is not None:
                await self._stop(ranks)
                return status

    async def _ended(self, ranks: Ranks, start: Start, event: Ended) -> int | None:
        """A rank ended before the run was done."""
        status = await self._stop(ranks)
        if status is not None:
            return status
        if event.code == TERMINATED:
            logger.info("the group left together, since one of its workers is to end")
            return None
        self._failure = f"rank {start.first_rank + event.number} ended: {_describe(event.code)}"
        logger.warning("%s", self._failure)
        return None

    def _fails_once_too_often(self, start: Start) -> bool:
        """Counts the failure that ended the round before, if it was one of this worker's own."""
        failure, self._failure = self._failure, ""
        if not failure or start.lost:  # ranks fail when another worker is lost
            return False
        self.failures += 1
        allowed = self.settings.max_restarts
        if self.failures > allowed:
            # The rank itself has left better words where the node agent looks.
            logger.error("%s; all %d restarts are used up", failure, allowed)
            return True
        logger.warning("restart %d of %d", self.failures, allowed)
        return False

    async def _stop(self, ranks: Ranks) -> int | None:
        """Ends the ranks; the exit status if this process is to end as well."""
        status = None
        ranks.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.settings.stop_s):
                while ranks.alive:
                    event = await self._events.get()
                    if isinstance(event, Signalled):
                        status = TERMINATED
                        ranks.signal(signal.SIGTERM)
        except TimeoutError:
            logger.warning("ranks did not end within %g s; killed", self.settings.stop_s)
            ranks.signal(signal.SIGKILL)
            while ranks.alive:
                await self._events.get()
        return USAGE if USAGE in ranks.codes.values() else status

    def _environments(self, start: Start) -> list[dict[str, str]]:
        """torchrun's variables, by which torch's own `env://` and every library find the group."""
        common = {
            "WORLD_SIZE": str(start.world),
            "LOCAL_WORLD_SIZE": str(self.settings.ranks),
            "GROUP_RANK": str(start.place),
            "GROUP_WORLD_SIZE": str(start.size),
            "MASTER_ADDR": start.host,
            "MASTER_PORT": str(start.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get(
                "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"
            ),
        }
        return [
            common | {"RANK": str(start.first_rank + number), "LOCAL_RANK": str(number)}
            for number in range(self.settings.ranks)
        ]

    def _stand(self, state: str) -> None:
        self._standing = replace(self._standing, state=state)  # type: ignore[arg-type]
        self._link.stand(self._standing)


def _end_of(event: Event) -> int | None:
    """The exit status that an event asks for."""
    if isinstance(event, Signalled):
        return TERMINATED
    if isinstance(event, Over):
        logger.info("the run is done")
        return 0
    if isinstance(event, Refused):
        return _give_up(event.reason)
    return None


def _give_up(reason: str) -> int:
    logger.error("%s", reason)
    tell_reason(reason)
    return 1


def _listen(host: str) -> socket.socket:
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, 0), family=family)


def _describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
