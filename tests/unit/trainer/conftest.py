"""Fixtures of the trainer's unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty run folder."""
    return open_store(str(tmp_path / "run"))
