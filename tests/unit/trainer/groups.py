"""Groups of ranks that keep checkpoints in a folder, for tests."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from tests.faulty import Faulty
from trainer.checkpoint import (
    Keeper,
    Manifest,
)
from trainer.storage import Store

IDENTITY: dict[str, str | int] = {"dataset": "d1", "seed": 1}


def state_of(value: float) -> dict[str, Tensor]:
    return {
        "model.w": torch.full((3, 4), float(value)),
        "ema.w": torch.full((3, 4), value / 2),
        "momentum.n": torch.tensor(int(value)),
    }


def keeper(store: Store, keep_last: int = 3, keep_best: int = 1, **changes: Any) -> Keeper:
    settings: dict[str, Any] = {"identity": IDENTITY, "deadline_s": 20.0} | changes
    return Keeper(
        store, "demo", config_sha256="c", keep_last=keep_last, keep_best=keep_best, **settings
    )


def started(store: Store, **changes: Any) -> tuple[Keeper, Manifest | None]:
    group = keeper(store, **changes)
    group.claim()
    parent = group.choose(like=state_of(0))
    group.fence(parent)
    return group, parent


def save(group: Keeper, update: int, wait: bool = False) -> bool:
    """Saves a state that only this group at this update has."""
    value = 1000.0 * group.generation + update
    return group.save(
        state_of(value), update=update, seen=update * 96, epoch=0, facts={"u": update}, wait=wait
    )


def saved(group: Keeper, *updates: int) -> None:
    for update in updates:
        assert save(group, update)
        assert group.flush(20, check=True)


def kept_updates(store: Store) -> list[int]:
    keys = [entry.key for entry in store.list("step-")]
    return [int(key[5:15]) for key in keys if key.endswith("/manifest.json")]


class Gate:
    """Holds the background thread at an operation until it is opened."""

    def __init__(self, store: Faulty, operation: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        store.hooks[operation] = self._pass

    def _pass(self) -> None:
        self.reached.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()
