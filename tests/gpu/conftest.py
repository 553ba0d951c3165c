"""Tests that need a GPU, `make gpu`: elsewhere each is skipped. CI has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from trainer.config import WorldConfig
from trainer.world import World, join


@pytest.fixture(autouse=True)
def _no_settings_of_the_user() -> None:
    """That of the other tests hides GPUs."""


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    yield join(WorldConfig())
    dist.destroy_process_group()
