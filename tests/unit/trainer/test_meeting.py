"""Who meets whom, and when: by cases, and by random histories of agents that come and go."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trainer.elastic.meeting import ABSENT_S, SETTLE_S, TOGETHER_S, Meeting
from trainer.elastic.messages import Order, Over, Regroup, Standing, Start, State

LAST_CALL_S = 60.0


class Agents:
    """A meeting and the agents that obey it; time goes on by hand."""

    def __init__(self, least: int = 2, most: int = 3) -> None:
        self.meeting = Meeting()
        self.least, self.most = least, most
        self.now = 100.0
        self.stands: dict[str, Standing] = {}
        self.told: list[tuple[str, Order]] = []

    def say(self, name: str, state: State = "waiting", **changes: int) -> list[tuple[str, Order]]:
        known = self.stands.get(name)
        facts = {key: getattr(known, key) if known else 0 for key in ("round", "place", "size")}
        self.stands[name] = Standing(
            "run", name, name, state, 2, self.least, self.most, LAST_CALL_S, f"host-{name}", 1,
            **facts | changes,
        )  # fmt: skip
        self.meeting.heard(self.stands[name], self.now)
        return self.orders()

    def gone(self, name: str) -> list[tuple[str, Order]]:
        self.meeting.gone(name, self.now)
        return self.orders()

    def after(self, seconds: float) -> list[tuple[str, Order]]:
        self.now += seconds
        return self.orders()

    def orders(self) -> list[tuple[str, Order]]:
        """What is told now; who is told to start says that it works."""
        found = self.meeting.advance(self.now)
        for name, order in found:
            if isinstance(order, Start):
                self.say(name, "working", round=order.round, place=order.place, size=order.size)
        self.told += found
        return found


def starts(orders: list[tuple[str, Order]]) -> dict[str, Start]:
    return {name: order for name, order in orders if isinstance(order, Start)}


def ended(orders: list[tuple[str, Order]]) -> list[str]:
    return sorted(name for name, order in orders if isinstance(order, Regroup))


def trio() -> Agents:
    """Three of at least two and at most three that work."""
    agents = Agents()
    for name in ("w-0", "w-1", "w-2"):
        agents.say(name)
    assert agents.meeting.round == 1
    return agents


def test_a_full_group_starts_at_once_with_ranks_in_the_order_of_the_pods() -> None:
    agents = Agents(most=3)
    assert agents.say("w-10") == agents.say("w-2") == []
    found = starts(agents.say("w-1"))
    assert list(found) == ["w-1", "w-2", "w-10"]
    assert [(each.place, each.first_rank, each.world) for each in found.values()] == [
        (0, 0, 6), (1, 2, 6), (2, 4, 6)
    ]  # fmt: skip
    assert {(each.host, each.size, each.lost) for each in found.values()} == {("host-w-1", 3, 0)}


def test_a_smaller_group_waits_for_the_last_call() -> None:
    agents = Agents()
    assert agents.say("w-0") == agents.after(1000) == []
    assert agents.say("w-1") == agents.after(LAST_CALL_S - 1) == []
    assert list(starts(agents.after(1))) == ["w-0", "w-1"]


def test_the_others_go_on_at_once_after_a_loss() -> None:
    agents = trio()
    assert agents.gone("w-0") == []
    assert ended(agents.say("w-1")) == ["w-2"], "w-1's ranks failed when their neighbour was lost"
    assert agents.say("w-2") == []
    found = starts(agents.after(TOGETHER_S))
    assert {name: each.place for name, each in found.items()} == {"w-1": 0, "w-2": 1}
    assert {each.lost for each in found.values()} == {1}


def test_ranks_that_do_not_notice_a_loss_are_told_to_end() -> None:
    agents = trio()
    assert agents.gone("w-0") == agents.after(ABSENT_S - 0.1) == []
    assert ended(agents.after(0.1)) == ["w-1", "w-2"]
    assert agents.after(1) == [], "told once"


def test_an_order_that_was_lost_with_its_connection_is_told_again() -> None:
    agents = Agents(most=2)
    agents.say("w-0")
    agents.say("w-1")
    assert ended(agents.say("w-0")) == ["w-1"]
    assert agents.gone("w-1") == [], "before it has read the order"
    assert ended(agents.say("w-1", "working")) == ["w-1"]
    assert list(starts([*agents.say("w-1"), *agents.after(TOGETHER_S)])) == ["w-0", "w-1"]


def test_one_that_fails_ends_the_group() -> None:
    agents = trio()
    assert ended(agents.say("w-1")) == ["w-0", "w-2"]
    agents.say("w-0")
    found = starts(agents.say("w-2"))
    assert {name: each.place for name, each in found.items()} == {"w-0": 0, "w-1": 1, "w-2": 2}
    assert {each.lost for each in found.values()} == {0}, "nobody was lost"


def test_a_connection_that_breaks_and_comes_back_changes_nothing() -> None:
    agents = trio()
    for name in ("w-0", "w-1", "w-2"):
        agents.gone(name)
    agents.most = 2  # as if scaled down meanwhile: two newcomers would be a full group
    assert agents.say("w-3") == agents.say("w-4") == [], "the others are not lost yet"
    assert agents.after(ABSENT_S / 2) == []
    agents.most = 3
    for name in ("w-0", "w-1", "w-2"):
        assert agents.say(name, "working") == []
    assert agents.after(1000) == []


def test_a_second_loss_while_the_rest_meets() -> None:
    agents = trio()
    agents.gone("w-0")
    agents.say("w-1")
    agents.gone("w-1")
    assert agents.say("w-2") == agents.after(1000) == [], "one is fewer than the least"
    found = starts(agents.say("w-1", round=0) + agents.after(TOGETHER_S))
    assert {name: each.place for name, each in found.items()} == {"w-2": 0, "w-1": 1}


def test_newcomers_join_when_they_fill_the_group_or_after_the_last_call() -> None:
    agents = Agents(least=1, most=4)
    agents.say("w-0")
    assert len(starts(agents.after(LAST_CALL_S))) == 1
    agents.say("w-1")
    assert ended(agents.after(LAST_CALL_S - 1)) == []
    assert ended(agents.after(1)) == ["w-0"]
    assert len(starts(agents.say("w-0") + agents.after(TOGETHER_S))) == 2
    assert agents.say("w-2") == []
    assert ended(agents.say("w-3")) == ["w-0", "w-1"], "all that there can be"


def test_more_than_the_most_wait_until_there_is_room() -> None:
    agents = trio()
    assert agents.say("w-3") == agents.after(1000) == []
    agents.say("w-1", "leaving")
    agents.say("w-0")
    found = starts(agents.say("w-2") + agents.after(TOGETHER_S))
    assert list(found) == ["w-0", "w-2", "w-3"]


def test_a_new_rendezvous_takes_the_group_as_it_is() -> None:
    agents = trio()
    agents.meeting = Meeting()
    assert [agents.say(f"w-{index}", "working") for index in range(3)] == [[], [], []]
    assert agents.after(1000) == []
    assert agents.meeting.round == 1


def test_a_new_rendezvous_hears_all_before_it_forms_a_group() -> None:
    agents = trio()
    agents.meeting = Meeting()
    agents.least = 1
    assert agents.say("w-1") == agents.after(SETTLE_S - 1) == [], "the others may still work"
    assert ended(agents.say("w-0", "working")) == []
    assert ended(agents.after(1)) == ["w-0"], "now w-2 counts as lost"
    assert list(starts(agents.say("w-0") + agents.after(TOGETHER_S))) == ["w-0", "w-1"]


def test_a_group_that_a_new_rendezvous_hears_of_too_late_is_not_mixed_with_its_own() -> None:
    agents = trio()
    agents.meeting = Meeting(earlier=5)
    agents.say("w-3")
    agents.say("w-4")
    assert {each.round for each in starts(agents.after(LAST_CALL_S)).values()} == {6}
    assert ended(agents.say("w-0", "working")) == ["w-0"], "the earlier one"


def test_one_that_was_left_behind_meets_again() -> None:
    agents = trio()
    agents.gone("w-0")
    agents.say("w-1")
    agents.say("w-2")
    assert len(starts(agents.after(TOGETHER_S))) == 2
    assert ended(agents.say("w-0", "working")) == ["w-0"]


def test_after_the_end_whoever_comes_hears_of_it() -> None:
    agents = trio()
    assert agents.say("w-0", "done") == []
    assert agents.gone("w-1") == [], "the rest ends by itself"
    assert agents.say("w-3") == [("w-3", Over())]


@pytest.mark.parametrize("state", ["done", "leaving"])
def test_a_word_of_farewell_from_somebody_unknown(state: State) -> None:
    assert Agents().say("w-0", state) == []


class Histories(RuleBasedStateMachine):
    """Agents come, fail, vanish and return, and the rendezvous is lost now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.agents = Agents(least=2, most=4)
        self.here: set[str] = set()
        """Whoever has a connection."""
        self.alive: set[str] = set()

    names = st.sampled_from([f"w-{index}" for index in range(6)])

    @rule(name=names)
    def comes(self, name: str) -> None:
        if name not in self.alive:
            self.agents.stands.pop(name, None)
            self.alive.add(name)
            self.here.add(name)
            self.agents.say(name)

    @rule(name=names)
    def fails(self, name: str) -> None:
        if name in self.here and self.agents.stands[name].state == "working":
            self.agents.say(name)

    @rule(name=names)
    def dies(self, name: str) -> None:
        if name in self.alive:
            self.alive.discard(name)
            self.here.discard(name)
            self.agents.gone(name)

    @rule(name=names)
    def is_cut_off(self, name: str) -> None:
        if name in self.here:
            self.here.discard(name)
            self.agents.gone(name)

    @rule(name=names)
    def returns(self, name: str) -> None:
        if name in self.alive - self.here:
            self.here.add(name)
            self.agents.say(name, self.agents.stands[name].state)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 61.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.agents.after(seconds)

    @rule()
    def obey(self) -> None:
        self.obey_all()

    @rule()
    def rendezvous_is_lost(self) -> None:
        self.agents.meeting = Meeting(earlier=int(100 * self.agents.now))
        self.here.clear()

    def obey_all(self) -> None:
        orders, self.agents.told = self.agents.told, []
        for name, order in orders:
            stand = self.agents.stands.get(name)
            works = stand is not None and name in self.here and stand.state == "working"
            if isinstance(order, Regroup) and works and stand.round == order.round:
                self.agents.say(name)

    @invariant()
    def a_group_is_of_its_size_and_each_place_is_taken_once(self) -> None:
        groups: dict[int, list[Start]] = {}
        for _, order in self.agents.told:
            if isinstance(order, Start):
                groups.setdefault(order.round, []).append(order)
        for members in groups.values():
            (size,) = {each.size for each in members}
            assert 2 <= size <= 4
            assert [each.place for each in members] == list(range(size))
            assert [each.first_rank for each in members] == list(range(0, 2 * size, 2))
            assert {each.world for each in members} == {2 * size}

    @invariant()
    def nobody_works_in_two_groups(self) -> None:
        stands = self.agents.stands
        current = [
            stands[name]
            for name in self.here
            if stands[name].state == "working" and stands[name].round == self.agents.meeting.round
        ]
        assert len({each.place for each in current}) == len(current)

    @precondition(lambda self: len(self.alive) >= 2)
    @rule()
    def in_the_end_all_work(self) -> None:
        """Left in peace, everybody there is works in one group of the largest size possible."""
        for name in sorted(self.alive - self.here):
            self.returns(name)
        for _ in range(12):
            self.obey_all()
            self.agents.after(20.0)
        stands, newest = self.agents.stands, self.agents.meeting.round
        working = [
            name for name in self.alive
            if stands[name].state == "working" and stands[name].round == newest
        ]  # fmt: skip
        assert len(working) == min(4, len(self.alive))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=1000, stateful_step_count=40)
