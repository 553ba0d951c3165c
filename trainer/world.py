"""The group of ranks: joining it, agreeing in it, leaving it together."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config import WorldConfig
from trainer.exits import STALLED, tell_reason
from trainer.learn.placement import own_device
from trainer.stacks import answer_requests


@dataclass
class World:
    """This process among all ranks. `leaving` is one answer for all of them."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup
    """A gloo group of all ranks for flags and small messages, beside the gradients' group."""
    leaving: bool = False
    join_s: float = 0.0
    """How long the ranks took to connect."""
    due: tuple[bool, ...] = ()
    """What rank 0 said is due, as all ranks know it since the last agreement."""
    _terminated: bool = False
    _ask: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    _work: dist.Work | None = None

    def ask(self, *due: bool) -> None:
        """Begins to agree whether to leave (any rank says so) and on rank 0's `due`.

        Called before the last backward pass of an update, so that it costs no time.
        """
        flags = [self._terminated, *(flag and self.rank == 0 for flag in due)]
        self._ask = torch.tensor([int(flag) for flag in flags])
        self._work = dist.all_reduce(
            self._ask, dist.ReduceOp.MAX, group=self.control, async_op=True
        )

    def agree(self) -> None:
        """Ends what `ask` began; `leaving` and `due` are then the same on every rank."""
        assert self._work is not None
        self._work.wait()
        leaving, *due = (bool(flag) for flag in self._ask.tolist())
        self.leaving, self.due, self._work = leaving, tuple(due), None

    def sum(self, values: Tensor) -> Tensor:
        """Values added up over the ranks."""
        result = values.detach().to("cpu", torch.float64)
        dist.all_reduce(result, group=self.control)
        return result

    def broadcast(self, data: bytes) -> bytes:
        """Rank 0's bytes, on every rank."""
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self.control)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == 0 and data:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if len(buffer):
            dist.broadcast(buffer, 0, group=self.control)
        return bytes(buffer.numpy().tobytes())

    def barrier(self, timeout_s: float) -> None:
        """Waits until every rank is here. Raises RuntimeError after timeout_s."""
        dist.monitored_barrier(self.control, timedelta(seconds=timeout_s))

    def terminated(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM's handler: takes note, nothing else."""
        self._terminated = True


def join(config: WorldConfig) -> World:
    """Joins the group that the agent's variables name; without them, a group of one."""
    if config.threads:
        torch.set_num_threads(config.threads)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = own_device(local_rank)
    timeout = timedelta(seconds=config.timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    began = time.monotonic()
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    control = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(control, dist.ProcessGroup)
    world = World(rank, size, device, control, join_s=time.monotonic() - began)
    signal.signal(signal.SIGTERM, world.terminated)
    answer_requests(rank)
    return world


@dataclass(frozen=True)
class Ranks:
    """What ranks add up or share on their devices in a step, without a read by the host."""

    size: int
    most_rows: int
    """The most rows that any rank has to share."""

    def sum(self, values: Tensor) -> Tensor:
        """Values of the same shape on every rank, added up."""
        result = values.clone()
        if self.size > 1:
            dist.all_reduce(result)
        return result

    def gather(self, rows: Tensor, fill: int) -> Tensor:
        """The rows of all ranks in the order of the ranks, each rank's filled up to most_rows.

        rows: (m, ...) with m at most most_rows. Returns (size * most_rows, ...).
        """
        missing = self.most_rows - len(rows)
        padded = torch.cat([rows, rows.new_full((missing, *rows.shape[1:]), fill)])
        if self.size == 1:
            return padded
        # As bytes: NCCL does not know all types, int16 for one.
        sent = padded.contiguous().view(torch.uint8)
        found = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent)
        return torch.cat(found).view(rows.dtype)


class Watchdog:
    """Ends the process with all stacks on stderr when nothing goes on for stall_s."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self.beat_at = time.monotonic()
        if stall_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Says that the rank is alive."""
        self.beat_at = time.monotonic()

    def _watch(self) -> None:
        while True:
            left_s = self.beat_at + self.stall_s - time.monotonic()
            if left_s <= 0:
                reason = (
                    f"no progress for {self.stall_s:g} s (world.stall_s); stacks are in the log"
                )
                faulthandler.dump_traceback(file=sys.stderr)
                tell_reason(reason)
                print(reason, file=sys.stderr, flush=True)
                os._exit(STALLED)  # a thread in a collective cannot be interrupted
            time.sleep(min(left_s, 5.0))
