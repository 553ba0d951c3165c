"""What can be wrong with checkpoints.

CheckpointError
├── CorruptCheckpoint    its bytes are not what its manifest promises: an older one is taken
└── Superseded           a newer group of workers has taken the run over
StateMismatch            (a ValueError) the state belongs to other data or another seed
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Nothing can be restored, or this group may not go on: one line that says where and why."""


class CorruptCheckpoint(CheckpointError):
    """Torn, damaged or foreign bytes; names the object's full address."""


class Superseded(CheckpointError):
    """A later generation has fenced this one off."""


class StateMismatch(ValueError):
    """The kept state was made with another dataset, selection, seed, ...; names both values."""
