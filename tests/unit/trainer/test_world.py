"""Leaving together, telling why, and the watchdog, in real processes where it ends one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from trainer.config import WorldConfig
from trainer.exits import MESSAGE_PATH, STALLED, tell_reason
from trainer.world import World, join


@pytest.fixture
def world() -> Iterator[World]:
    handler = signal.getsignal(signal.SIGTERM)
    yield join(WorldConfig())
    signal.signal(signal.SIGTERM, handler)
    dist.destroy_process_group()


def test_a_sigterm_is_agreed_at_the_end_of_the_update(world: World) -> None:
    world.ask(False, True)
    world.agree()
    assert (world.leaving, world.due) == (False, (False, True))
    os.kill(os.getpid(), signal.SIGTERM)
    assert not world.leaving
    world.ask(True, False)
    world.agree()
    assert (world.leaving, world.due) == (True, (True, False))


def test_messages_and_sums(world: World) -> None:
    assert world.broadcast(b"a\0b") == b"a\0b"
    assert world.broadcast(b"") == b""
    assert world.sum(torch.tensor([1, 2])).tolist() == [1.0, 2.0]


def test_a_reason_is_cut_to_what_the_kubelet_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MESSAGE_PATH, str(tmp_path / "log"))
    tell_reason("x" * 5000)
    assert (tmp_path / "log").read_text() == "x" * 4096


def test_a_reason_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(MESSAGE_PATH, str(tmp_path))
    tell_reason("gone")
    assert f"cannot write the reason of the end to {tmp_path}" in caplog.text


STALL = """
import time
from trainer.world import Watchdog

def waits_for_another_rank():
    time.sleep(60)

watchdog = Watchdog(0.3)
for _ in range(4):  # alive for longer than the limit
    time.sleep(0.2)
    watchdog.beat()
print("alive", flush=True)
waits_for_another_rank()
"""


def test_the_watchdog_ends_a_stalled_process_with_its_stacks(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STALL],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {MESSAGE_PATH: str(tmp_path / "log")},
    )
    assert ended.returncode == STALLED
    assert ended.stdout == "alive\n"
    assert "in waits_for_another_rank" in ended.stderr
    reason = "no progress for 0.3 s (world.stall_s); stacks are in the log"
    assert ended.stderr.endswith(f"{reason}\n")
    assert (tmp_path / "log").read_text() == reason
