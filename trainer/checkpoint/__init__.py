"""Checkpoints: safetensors and a manifest written last, by a group that no older one can overtake.

    <run>/generations/0007.json                                    a group's number, claimed
    <run>/fences/0007.json                                         where that group went on from
    <run>/step-0000000120-g0007/<attempt>/state.safetensors        the tensors
    <run>/step-0000000120-g0007/manifest.json                      last: its existence is the commit
    <run>/step-0000000120-g0007/score.json                         validation top-1, where measured

Nothing is pickled, nothing is ever overwritten, and what is restored has been hashed.
"""

from trainer.checkpoint.choice import Which, ranked
from trainer.checkpoint.errors import (
    CheckpointError,
    CorruptCheckpoint,
    StateMismatch,
    Superseded,
)
from trainer.checkpoint.format import Manifest, StoredObject
from trainer.checkpoint.keeper import Keeper
from trainer.checkpoint.restore import newest, read_state, read_tensors

__all__ = [
    "CheckpointError",
    "CorruptCheckpoint",
    "Keeper",
    "Manifest",
    "StateMismatch",
    "StoredObject",
    "Superseded",
    "Which",
    "newest",
    "ranked",
    "read_state",
    "read_tensors",
]
