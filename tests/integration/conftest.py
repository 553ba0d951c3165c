"""What tests of local runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import local
from launcher.local import processes
from launcher.local.folder import folders


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own; whatever runs there ends with the test."""
    home = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    yield home
    for folder in list(folders()):
        local.delete(folder.name, force=True)
        assert processes.marked(processes.mark(folder.path), whole=False) == []
