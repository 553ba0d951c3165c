"""What the controller can do to the cluster, as data: decided in one place, done in another."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.cluster.kinds import Kind, Object
from launcher.controller.memory import Memory


@dataclass(frozen=True)
class DeletePod:
    """Deletes this very pod."""

    pod: Object
    reason: str
    """One CamelCase word: that of the Event."""
    message: str
    is_forced: bool = False
    """Without waiting for its node, which does not answer."""
    grace_s: int | None = None
    """From SIGTERM to SIGKILL; None: as the pod says."""


@dataclass(frozen=True)
class Adopt:
    """Makes the job an owner of a helper that was applied by hand."""

    kind: Kind
    helper: Object


@dataclass(frozen=True)
class SuspendRendezvous:
    """Ends the rendezvous' pod, or lets it be made anew."""

    helper: Object
    wanted: bool


@dataclass(frozen=True)
class Deactivate:
    """Asks Kueue, which alone may suspend what it admits, to do so."""


@dataclass(frozen=True)
class DeleteJob:
    """Deletes the job with all that it owns; its checkpoints are elsewhere."""

    message: str


@dataclass(frozen=True)
class Tell:
    """An Event, of something that changes nothing in the cluster."""

    reason: str
    message: str
    is_warning: bool = True


Action = DeletePod | Adopt | SuspendRendezvous | Deactivate | DeleteJob | Tell


@dataclass(frozen=True)
class Decision:
    """What is to be done about one job: first the patch of the job, then the actions in order."""

    memory: Memory
    actions: tuple[Action, ...] = ()
    ended_reason: str = ""
    """Not empty: the job is stopped, with its checkpoint saved, and counts as failed."""
    cleared: tuple[str, ...] = field(default=())
    """Annotations that are taken away."""
