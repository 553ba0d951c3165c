"""Who works with whom. Pure: time comes in as an argument, orders come out.

A group has a number, the round. It is formed when nobody works any more and enough agents wait; it
is formed anew when one of its agents is lost or fails, or when newcomers can be taken in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.elastic.messages import Order, Over, Regroup, Standing, Start

ABSENT_S = 3.0
"""An agent whose connection broke is lost after that; a rendezvous' network may stutter."""
SETTLE_S = 5.0
"""A new rendezvous knows nobody; it waits that long for the agents of the group it hears of."""
TOGETHER_S = 0.2
"""The rest of a group goes on after that: two that were lost at once are noticed together."""


@dataclass
class Member:
    """An agent as the rendezvous knows it. Times are monotonic seconds."""

    said: Standing
    since: float
    """When it came to its state."""
    absent_since: float | None = None
    told_of_round: int = -1
    """The round which it was told to leave."""

    @property
    def is_here(self) -> bool:
        return self.absent_since is None


class Meeting:
    """All agents of a run, and the round they are in."""

    def __init__(self, earlier: int = 0) -> None:
        """earlier: rounds of rendezvous before this one have at most this number, so that it may
        hear of a group after it has formed one itself. The Unix time in seconds is such a number,
        as no rendezvous forms a group each second."""
        self.earlier = earlier
        self.members: dict[str, Member] = {}
        self.round = 0
        self.size = 0
        """Agents of that round."""
        self.is_done = False
        self._heard_of_round_at: float | None = None
        self._enough_since: float | None = None

    # -- what happens

    def heard(self, said: Standing, now: float) -> None:
        """An agent has said where it stands."""
        if said.state == "done":
            self.is_done = True
        if said.state in ("done", "leaving"):
            self.members.pop(said.node, None)
            return
        if said.round > self.round:  # this rendezvous is new, the group is not
            self.round, self.size = said.round, said.size
            self._heard_of_round_at = now
        known = self.members.get(said.node)
        is_same = known is not None and known.said.state == said.state
        since = known.since if known is not None and is_same else now
        # What was told on a connection that broke may not have arrived: it is told again.
        told = known.told_of_round if known is not None and known.is_here else -1
        self.members[said.node] = Member(said, since, told_of_round=told)

    def gone(self, node: str, now: float) -> None:
        """An agent's connection broke. One that waits has nothing to lose: it says so again."""
        member = self.members.get(node)
        if member is None:
            return
        if member.said.state == "waiting":
            del self.members[node]
        elif member.absent_since is None:
            member.absent_since = now

    # -- what follows

    def advance(self, now: float) -> list[tuple[str, Order]]:
        """Orders that are due, each with its agent. Asked after each event, and now and then."""
        self._forget(now)
        waiting = sorted((m for m in self._here() if m.said.state == "waiting"), key=self._place)
        if self.is_done:
            for member in waiting:
                del self.members[member.said.node]
            return [(member.said.node, Over()) for member in waiting]
        return [*self._end_stale(), *self._form(waiting, now)]

    def _form(self, waiting: list[Member], now: float) -> Iterator[tuple[str, Order]]:
        working = [m for m in self.members.values() if self._works(m)]
        if any(m.is_here for m in working):
            self._enough_since = None
            if reason := self._why_anew(working, waiting, now):
                yield from self._end([m for m in working if m.is_here], reason)
            return
        is_broken = any(self._is_survivor(m) for m in waiting)
        if working and not is_broken:
            return  # all of them are absent: it is the network
        if not self._may_start(waiting, now):
            return
        yield from self._start(waiting[: waiting[0].said.most])

    def _why_anew(self, working: list[Member], waiting: list[Member], now: float) -> str:
        """Why the group that works is to be formed anew; empty if it is not."""
        if len(working) < self.size and self._is_settled(now):
            return f"{self.size - len(working)} of {self.size} workers left the group"
        room = working[0].said.most - len(working)
        newcomers = [m for m in waiting if not self._is_survivor(m)]
        if room <= 0 or not newcomers:
            return ""
        first = min(m.since for m in newcomers)
        if len(newcomers) >= room or now >= first + newcomers[0].said.last_call_s:
            return f"{min(room, len(newcomers))} more workers can join {len(working)}"
        return ""

    def _may_start(self, waiting: list[Member], now: float) -> bool:
        if not waiting or len(waiting) < waiting[0].said.least:
            self._enough_since = None
            return False
        if self._enough_since is None:
            self._enough_since = now
        if not self._is_settled(now):
            return False
        if len(waiting) >= waiting[0].said.most:
            return True
        goes_on = any(self._is_survivor(m) for m in waiting)
        patience = TOGETHER_S if goes_on else waiting[0].said.last_call_s
        return now >= self._enough_since + patience

    def _start(self, chosen: list[Member]) -> Iterator[tuple[str, Order]]:
        lost = self.size - sum(self._is_survivor(m) for m in chosen) if self.round else 0
        self.round = max(self.round, self.earlier) + 1
        self.size = len(chosen)
        self._heard_of_round_at = self._enough_since = None
        world = sum(m.said.ranks for m in chosen)
        leader = chosen[0].said
        first_rank = 0
        for place, member in enumerate(chosen):
            said = member.said
            yield (
                said.node,
                Start(
                    self.round, place, self.size, first_rank, world, leader.host, leader.port, lost
                ),
            )
            first_rank += said.ranks
            member.said = replace(
                said, state="working", round=self.round, place=place, size=self.size
            )

    def _end_stale(self) -> Iterator[tuple[str, Order]]:
        """Those that still work in a group which was formed anew without them."""
        stale = [m for m in self._here() if m.said.state == "working" and m.said.round < self.round]
        yield from self._end(stale, "the group was formed anew meanwhile")

    def _end(self, members: list[Member], reason: str) -> Iterator[tuple[str, Order]]:
        for member in members:
            if member.told_of_round != member.said.round:
                member.told_of_round = member.said.round
                yield member.said.node, Regroup(member.said.round, reason)

    # -- what is

    def _forget(self, now: float) -> None:
        for node, member in list(self.members.items()):
            if member.absent_since is not None and now >= member.absent_since + ABSENT_S:
                del self.members[node]

    def _here(self) -> list[Member]:
        return [m for m in self.members.values() if m.is_here]

    def _works(self, member: Member) -> bool:
        return member.said.state == "working" and member.said.round == self.round

    def _is_survivor(self, member: Member) -> bool:
        return self.round > 0 and member.said.round == self.round

    def _is_settled(self, now: float) -> bool:
        """Whether a new rendezvous has heard of everybody it will hear of."""
        if self._heard_of_round_at is None:
            return True
        heard = sum(m.said.round == self.round for m in self.members.values())
        return heard >= self.size or now >= self._heard_of_round_at + SETTLE_S

    def _place(self, member: Member) -> tuple[int, int, str]:
        """Survivors in their order, so that rank 0 stays where it is; then by the pods' numbers."""
        place = member.said.place if self._is_survivor(member) else 1 << 30
        digits = re.findall(r"\d+$", member.said.name)
        return place, int(digits[0]) if digits else 1 << 30, member.said.name
