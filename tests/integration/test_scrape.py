"""Whom the controller asks for a run's progress, over real HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from launcher.controller import scrape
from launcher.controller.scrape import MOST_PAUSES, Scraper
from launcher.controller.view import UNREACHABLE
from tests.cluster.controllers import Metrics
from tests.servers import free_ports

KEY = ("ml", "a")
TIMEOUT_S = 0.3
"""Of these tests, where nobody answers; the others' is never reached."""
WORKERS = 8


@pytest.fixture
def first() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


@pytest.fixture
def second() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


@pytest.fixture
def scraper() -> Iterator[Scraper]:
    with Scraper().running() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[int]:
    """A port of all addresses of this machine that takes connections and never says a word."""
    with socket.create_server(("", 0), backlog=4096) as listening:
        yield int(listening.getsockname()[1])


def addresses(*metrics: Metrics) -> list[str]:
    """Those, and one where nobody answers."""
    return [f"127.0.0.1:{port}" for port in (*free_ports(1), *(each.port for each in metrics))]


def test_only_who_tells_of_progress_is_asked_again(
    scraper: Scraper, first: Metrics, second: Metrics
) -> None:
    both = addresses(first, second)
    for updates in range(1, 4):
        first.step()
        assert scraper.read(KEY, both).updates == updates
    assert (first.asked, second.asked) == (3, 1)
    scraper.forget_all_but([("ml", "b")])
    first.step()
    assert scraper.read(KEY, both).updates == 4
    assert (first.asked, second.asked) == (4, 2)


def test_another_that_is_further_is_found(
    scraper: Scraper, first: Metrics, second: Metrics
) -> None:
    both = addresses(first, second)
    first.step()
    assert scraper.read(KEY, both).stamp == first.stamp
    second.step()  # the first still answers, as a process that hangs may
    assert scraper.read(KEY, both).stamp == second.stamp
    second.step()
    asked = first.asked
    assert scraper.read(KEY, both).stamp == second.stamp
    assert first.asked == asked


def test_one_that_is_gone_is_no_obstacle(scraper: Scraper, first: Metrics, second: Metrics) -> None:
    first.step()
    scraper.read(KEY, addresses(first))
    second.step()
    assert scraper.read(KEY, addresses(second)).stamp == second.stamp
    assert scraper.read(KEY, addresses()) == UNREACHABLE
    assert scraper.read(KEY, []) == UNREACHABLE
    second.step()
    assert scraper.read(KEY, addresses(second)).stamp == second.stamp


def test_those_that_are_silent_keep_nobody_else_waiting(first: Metrics, silent: int) -> None:
    """60 jobs of 8 workers need two turns of SOUGHT_AT_ONCE; one worker at a time took 144 s."""
    jobs = [(("ml", f"silent-{number}"), silent_addresses(silent, number)) for number in range(60)]
    timeout_s = 3.0  # far above what an answer takes on a busy machine
    with Scraper(timeout_s).running() as scraper:
        first.step()
        mine = addresses(first)
        assert scraper.read(KEY, mine).updates == 1
        began = time.monotonic()
        readings = [scraper.submit(key, theirs) for key, theirs in jobs]
        first.step()
        assert scraper.read(KEY, mine).updates == 2
        assert not any(reading.done() for reading in readings), "the first waits for no silent one"
        assert [reading.result() for reading in readings] == [UNREACHABLE] * len(jobs)
        turns = -(-len(jobs) * WORKERS // scrape.SOUGHT_AT_ONCE)
        assert turns * timeout_s <= time.monotonic() - began < turns * timeout_s + 10
        assert not any(scraper.is_worth_asking(*job) for job in jobs)
        assert scraper.is_worth_asking(KEY, mine)


def test_a_silent_job_is_asked_less_and_less_until_it_answers(first: Metrics, silent: int) -> None:
    pause_s, theirs = 0.1, [*silent_addresses(silent, 0), *addresses(first)]
    with Scraper(TIMEOUT_S, pause_s).running() as scraper:
        assert scraper.is_worth_asking(KEY, theirs[:-2])
        for pauses in (1, 2, 4):
            assert scraper.read(KEY, theirs[:-2]) == UNREACHABLE
            ended = time.monotonic()
            assert not scraper.is_worth_asking(KEY, theirs[:-2])
            assert scraper.is_worth_asking(KEY, theirs), "a new worker may answer"
            while not scraper.is_worth_asking(KEY, theirs[:-2]):
                time.sleep(0.01)
            assert pauses * pause_s * 0.9 <= time.monotonic() - ended < pauses * pause_s + 1
        first.step()
        assert scraper.read(KEY, theirs).updates == 1
        assert scraper.is_worth_asking(KEY, theirs[:-2])


def test_the_pauses_have_a_longest(silent: int) -> None:
    pause_s, theirs = 0.001, silent_addresses(silent, 0)[:1]
    with Scraper(0.01, pause_s).running() as scraper:
        for _ in range(8):
            scraper.read(KEY, theirs)
            time.sleep(MOST_PAUSES * pause_s)
            assert scraper.is_worth_asking(KEY, theirs)


def test_who_refuses_is_asked_again_at_once(scraper: Scraper) -> None:
    """A run that has not begun serves nothing yet, and is no burden."""
    assert scraper.read(KEY, addresses()) == UNREACHABLE
    assert scraper.is_worth_asking(KEY, addresses())


@pytest.mark.parametrize(
    "answer",
    [b"", b"\n", b"HTTP/1.0 500 no\r\n\r\ntrainer_updates_total 7\n", b"SSH-2.0-x\r\n", b"\xff"],
)
def test_what_is_no_answer_tells_nothing(scraper: Scraper, answer: bytes) -> None:
    with answering(answer) as address:
        assert scraper.read(KEY, [address]) == UNREACHABLE
        assert scraper.is_worth_asking(KEY, [address])


def test_an_answer_that_trickles_is_given_up() -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\n", trickle_s=0.05) as address:
        began = time.monotonic()
        with Scraper(TIMEOUT_S).running() as scraper:
            assert scraper.read(KEY, [address]) == UNREACHABLE
            assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 2
            assert not scraper.is_worth_asking(KEY, [address])


def test_an_end_in_between_leaves_nothing_waiting(silent: int) -> None:
    with Scraper().running() as scraper:
        reading = scraper.submit(KEY, silent_addresses(silent, 0))
        time.sleep(0.1)
    assert reading.cancelled()


def silent_addresses(port: int, job: int) -> list[str]:
    """Those of a job's workers."""
    return [f"127.{job // 250 + 1}.{job % 250}.{worker + 1}:{port}" for worker in range(WORKERS)]


@contextlib.contextmanager
def answering(answer: bytes, trickle_s: float = 0) -> Iterator[str]:
    """Somebody who says this to whatever is asked; trickle_s: and a byte more each time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as taken:
                taken.recv(1000)
                taken.sendall(answer)
                while trickle_s:
                    time.sleep(trickle_s)
                    taken.sendall(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()
