"""An engine for the session, in which the images are built once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.images.build import Image, build, described
from tests.images.engine import Engine, Unavailable, engine

SESSION_S = 3600
"""Longest time of a test, which may have to build an image first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SESSION_S))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A running engine."""
    try:
        with engine(tmp_path_factory.mktemp("images") / "engine") as started:
            yield started
    except Unavailable as error:
        absent(str(error))


class Builder:
    """Builds each image at its first use."""

    def __init__(self, running: Engine) -> None:
        self.running = running
        self._built: set[Image] = set()

    def __call__(self, image: Image) -> str:
        if image not in self._built:
            started_at = time.monotonic()
            try:
                build(self.running, image)
            except Unavailable as error:
                absent(str(error))
            print("\n" + described(self.running, image, time.monotonic() - started_at))
            self._built.add(image)
        return image.tag


@pytest.fixture(scope="session")
def built(running: Engine) -> Builder:
    """Builds an image where it is not there yet; returns its tag."""
    return Builder(running)
