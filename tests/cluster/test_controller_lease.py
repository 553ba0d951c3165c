"""The election on a real Lease, with clocks that the test moves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from launcher.cluster.client import Api
from launcher.cluster.kinds import LEASE
from launcher.cluster.transport import connect
from launcher.controller.lease import DURATION_S, RENEW_DEADLINE_S, Elector
from tests.cluster.control_plane import ControlPlane


class Clock:
    """One for each elector: clocks of different machines do not agree."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.fixture
def api(plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    return Api(connect(), namespace, timeout_s=10, patience_s=0)


def elector(api: Api, identity: str, now: float = 0.0) -> tuple[Elector, Clock]:
    clock = Clock(now)
    return Elector(api, "lease", identity, clock.time), clock


def transitions(api: Api) -> int:
    return int(api.get(LEASE, "lease")["spec"]["leaseTransitions"])


def test_the_lease_is_taken_renewed_and_lost(api: Api) -> None:
    one, clock = elector(api, "one")
    assert not one.is_leading
    assert one.try_once()
    clock.now += RENEW_DEADLINE_S - 0.1
    assert one.is_leading
    renewed_at = api.get(LEASE, "lease")["spec"]["renewTime"]
    assert one.try_once()
    assert api.get(LEASE, "lease")["spec"]["renewTime"] > renewed_at
    clock.now += RENEW_DEADLINE_S
    assert not one.is_leading
    assert transitions(api) == 0


def test_another_waits_for_so_long_by_its_own_clock(api: Api) -> None:
    one, _ = elector(api, "one", now=9e9)
    two, clock = elector(api, "two", now=5.0)
    assert one.try_once()
    assert not two.try_once()
    clock.now += DURATION_S - 0.1
    assert one.try_once()
    assert not two.try_once()  # it was renewed meanwhile
    clock.now += DURATION_S - 0.1
    assert not two.try_once()
    assert two.holder == "one"
    clock.now += 0.2
    assert two.try_once()
    assert transitions(api) == 1
    assert api.get(LEASE, "lease")["spec"]["holderIdentity"] == "two"


def test_who_leads_has_stopped_before_another_may_begin(api: Api) -> None:
    assert RENEW_DEADLINE_S < DURATION_S
    one, clock = elector(api, "one")
    two, other = elector(api, "two")
    assert one.try_once()
    assert not two.try_once()
    for _ in range(DURATION_S * 10):
        clock.now += 0.1
        other.now += 0.1
        assert not (one.is_leading and two.try_once())


def test_a_deposed_leader_is_refused(api: Api) -> None:
    one, _ = elector(api, "one")
    two, clock = elector(api, "two")
    assert one.try_once()
    assert not two.try_once()
    clock.now += DURATION_S
    assert two.try_once()
    one._held_until = float("-inf")  # its own deadline has passed long since
    assert not one.try_once()


def test_released_it_is_free_at_once(api: Api) -> None:
    one, _ = elector(api, "one")
    two, _ = elector(api, "two")
    assert one.try_once()
    assert not two.try_once()
    one.release()
    assert not one.is_leading
    assert "holderIdentity" not in api.get(LEASE, "lease")["spec"]
    assert two.try_once()
    one.release()  # of another's Lease: nothing
    assert api.get(LEASE, "lease")["spec"]["holderIdentity"] == "two"


def test_of_many_at_once_one_leads(api: Api) -> None:
    electors = [elector(api, str(number))[0] for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(Elector.try_once, electors)) == 1


def test_whoever_begins_and_ends_to_lead_is_told(api: Api) -> None:
    one, clock = elector(api, "one")
    told: list[bool] = []
    stopping, changed = threading.Event(), threading.Event()

    def tell(is_leading: bool) -> None:
        told.append(is_leading)
        changed.set()

    thread = threading.Thread(target=one.run, args=(stopping, tell))
    thread.start()
    try:
        assert changed.wait(20)
        changed.clear()
        lease = api.get(LEASE, "lease")
        lease["spec"] |= {"holderIdentity": "two", "renewTime": "2040-01-01T00:00:00.000000Z"}
        api.replace(lease)
        clock.now += RENEW_DEADLINE_S + 1
        assert changed.wait(20)
    finally:
        stopping.set()
        thread.join()
    assert told == [True, False]
