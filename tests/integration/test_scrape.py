"""Whom the controller asks for a run's progress, over real HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from launcher.controller.scrape import Scraper
from launcher.controller.view import UNREACHABLE
from tests.cluster.controllers import Metrics
from tests.servers import free_ports

KEY = ("ml", "a")


@pytest.fixture
def first() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


@pytest.fixture
def second() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


def addresses(*metrics: Metrics) -> list[str]:
    """Those, and one where nobody answers."""
    return [f"127.0.0.1:{port}" for port in (*free_ports(1), *(each.port for each in metrics))]


def test_only_who_tells_of_progress_is_asked_again(first: Metrics, second: Metrics) -> None:
    scraper, both = Scraper(), addresses(first, second)
    for updates in range(1, 4):
        first.step()
        assert scraper.read(KEY, both).updates == updates
    assert (first.asked, second.asked) == (3, 1)
    scraper.forget_all_but([("ml", "b")])
    first.step()
    assert scraper.read(KEY, both).updates == 4
    assert (first.asked, second.asked) == (4, 2)


def test_another_that_is_further_is_found(first: Metrics, second: Metrics) -> None:
    scraper, both = Scraper(), addresses(first, second)
    first.step()
    assert scraper.read(KEY, both).stamp == first.stamp
    second.step()  # the first still answers, as a process that hangs may
    assert scraper.read(KEY, both).stamp == second.stamp
    second.step()
    asked = first.asked
    assert scraper.read(KEY, both).stamp == second.stamp
    assert first.asked == asked


def test_one_that_is_gone_is_no_obstacle(first: Metrics, second: Metrics) -> None:
    scraper = Scraper()
    first.step()
    scraper.read(KEY, addresses(first))
    second.step()
    assert scraper.read(KEY, addresses(second)).stamp == second.stamp
    assert scraper.read(KEY, addresses()) == UNREACHABLE
    assert scraper.read(KEY, []) == UNREACHABLE
    second.step()
    assert scraper.read(KEY, addresses(second)).stamp == second.stamp
