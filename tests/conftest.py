"""Fixtures of all tests: a clean environment, and a real S3 server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.ending import end_on_sigterm
from tests.servers import BUCKET, ISOLATED, S3Server, Unavailable, s3_server

# A busy machine makes any example slow now and then; speed is measured in tests/benchmarks/.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    end_on_sigterm()


def absent(reason: str) -> None:
    """Skips a test whose tool is not installed; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "LAUNCHER_")) or name == "RUN_CONFIG":
            monkeypatch.delenv(name)
    for name, value in ISOLATED.items():
        monkeypatch.setenv(name, value)
    # No test may talk to the cluster of whoever runs it.
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    # What is compared bit for bit, and how many workers fit, must not depend on the machine.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server, shared by the session: not to be killed or paused for long."""
    try:
        with s3_server(tmp_path_factory.mktemp("seaweedfs")) as server:
            yield server
    except Unavailable as error:
        absent(str(error))


@pytest.fixture
def s3_address(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder of the server, with the environment set to reach it."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
