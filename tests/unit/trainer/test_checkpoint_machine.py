"""Groups that save, die, lose answers and overtake each other, in any order hypothesis thinks of.

The model is a list of steps: what the group with the highest fence has committed, after what it
began with. A restore must give the newest of them that is undamaged, whole, and nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from tests.faulty import Faulty, Kind
from trainer.checkpoint import CheckpointError, Keeper, Manifest, Superseded, newest
from trainer.checkpoint.lineage import Step
from trainer.storage import open_store

IDENTITY: dict[str, str | int] = {"seed": 1}
KEEP_LAST = 2
DEADLINE_S = 0.25


def state_of(step: Step) -> dict[str, Tensor]:
    """A state that no other step has, in two tensors: half of one and half of another is seen."""
    value = 1000.0 * step.generation + step.update
    return {"model.w": torch.full((3,), value), "momentum.w": torch.full((2, 2), value).double()}


@dataclass
class Group:
    """A group of workers as the model sees it."""

    keeper: Keeper
    store: Faulty
    parent: Manifest | None
    update: int
    line: list[Step]
    """The line that it chose its parent from."""
    fenced: bool = False
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.number = self.keeper.generation


kinds = st.sampled_from(["refused", "unanswered", "dead before", "dead after"])
operations = st.sampled_from(["", "upload", "create", "list", "get", "remove"])


class Groups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(str(self.folder))
        self.groups: list[Group] = []
        self.head = 0
        self.line: list[Step] = []
        self.damaged: set[Step] = set()
        self.trouble: list[BaseException] = []

    def teardown(self) -> None:
        for group in self.groups:
            group.keeper.close()
        shutil.rmtree(self.folder)

    def present(self, step: Step) -> bool:
        return (self.folder / step.manifest_key).exists()

    def expected(self) -> Step | None:
        sound = [s for s in self.line if self.present(s) and s not in self.damaged]
        return max(sound, default=None)

    # What groups do.

    @initialize()
    def begin(self) -> None:
        self.start()
        self.fence(self.groups[0])

    @rule()
    def start(self) -> None:
        """A group forms: it claims its number and chooses, and may then take its time."""
        store = Faulty(self.store)
        keeper = Keeper(store, "run", IDENTITY, "c", KEEP_LAST, 1, DEADLINE_S)
        keeper.claim()
        try:
            parent = keeper.choose()
        except CheckpointError:
            assert any(self.present(step) for step in self.line)
            assert self.expected() is None
            return
        assert (parent.step if parent else None) == self.expected()
        update = parent.update if parent else 0
        self.groups.append(Group(keeper, store, parent, update, list(self.line)))

    @precondition(lambda self: any(not group.fenced for group in self.groups))
    @rule(data=st.data())
    def fence_one(self, data: st.DataObject) -> None:
        self.fence(data.draw(st.sampled_from([g for g in self.groups if not g.fenced])))

    def fence(self, group: Group) -> None:
        if group.number < self.head:
            with pytest.raises(Superseded):
                group.keeper.fence(group.parent)
            self.groups.remove(group)
            return
        group.keeper.fence(group.parent)
        group.fenced = True
        self.head = group.number
        cut = group.parent.step if group.parent else None
        # Of the line it chose from: an older group that fences late may have begun another since.
        self.line = group.line[: group.line.index(cut) + 1] if cut else []

    @precondition(lambda self: any(group.fenced for group in self.groups))
    @rule(
        data=st.data(),
        ahead=st.integers(1, 3),
        fault=st.none() | st.tuples(kinds, operations, st.integers(0, 3)),
        overtaken=st.none() | st.sampled_from(["upload", "create", "list", "remove"]),
    )
    def save(
        self,
        data: st.DataObject,
        ahead: int,
        fault: tuple[Kind, str, int] | None,
        overtaken: str | None,
    ) -> None:
        """One save; perhaps the store fails in it, perhaps another group begins in the midst."""
        group = data.draw(st.sampled_from([g for g in self.groups if g.fenced]))
        group.update += ahead
        step = Step(group.update, group.number)
        if fault is not None:
            group.store.fail(*fault)
        if overtaken is not None and len(self.groups) < 4:
            group.store.hooks[overtaken] = lambda: self.overtake(step)
        group.keeper.save(
            state_of(step), update=step.update, seen=step.update, epoch=0, facts={}, wait=True
        )
        assert group.keeper.flush(30)
        group.store.hooks.clear()
        if self.trouble:
            raise self.trouble[0]
        self.committed(step)
        note(f"saved {step}: {self.present(step)}; head {self.head}, line {self.line}")
        if group.store.dead:
            self.groups.remove(group)

    def overtake(self, step: Step) -> None:
        """A new group begins while another is in the midst of a save, on that one's thread."""
        try:
            self.committed(step)
            self.start()
            if not self.groups[-1].fenced:
                self.fence(self.groups[-1])
        except BaseException as error:
            self.trouble.append(error)

    def committed(self, step: Step) -> None:
        """The commit is the manifest's existence; it counts while nobody newer has fenced."""
        if step.generation == self.head and self.present(step) and step not in self.line:
            self.line.append(step)

    @precondition(lambda self: any(group.fenced for group in self.groups))
    @rule(data=st.data(), top1=st.floats(0, 1))
    def score(self, data: st.DataObject, top1: float) -> None:
        group = data.draw(st.sampled_from([g for g in self.groups if g.fenced]))
        group.keeper.score(group.update, top1)
        assert group.keeper.flush(30)

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(self.groups))
        group.store.dead = True
        self.groups.remove(group)

    @precondition(lambda self: self.expected() is not None)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """One bit of the newest checkpoint turns, or of an older one."""
        sound = [s for s in self.line if self.present(s) and s not in self.damaged]
        step = data.draw(st.sampled_from(sound))
        (path,) = (self.folder / step.folder).rglob("state.safetensors")
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
        path.write_bytes(content)
        self.damaged.add(step)

    # What must hold at any moment.

    @invariant()
    def a_restore_gives_the_newest_of_the_line(self) -> None:
        expected = self.expected()
        try:
            found = newest(self.store, IDENTITY)
        except CheckpointError:
            assert expected is None
            assert any(self.present(step) for step in self.line)
            return
        assert (found[0].step if found else None) == expected
        if found is not None and expected is not None:
            state = state_of(expected)
            assert found[1].keys() == state.keys()
            assert all(torch.equal(found[1][name], state[name]) for name in state)

    @invariant()
    def the_newest_is_never_removed(self) -> None:
        assert not self.line or self.present(self.line[-1])


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    max_examples=60,
    stateful_step_count=15,
    suppress_health_check=[HealthCheck.too_slow],
)
