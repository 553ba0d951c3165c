"""What cannot be restored is skipped by name, and an older one is taken."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.faulty import Faulty
from tests.unit.trainer.groups import IDENTITY, keeper, kept_updates, saved, started, state_of
from trainer.checkpoint import (
    CheckpointError,
    CorruptCheckpoint,
    StateMismatch,
    newest,
    read_state,
)
from trainer.storage import Store

Damage = Callable[[Path], None]


def edit(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(step: Path) -> None:
        (path,) = step.rglob(name)
        path.write_bytes(change(path.read_bytes()))

    return damage


def edit_manifest(**changes: Any) -> Damage:
    def change(data: bytes) -> bytes:
        described = json.loads(data) | changes
        return json.dumps({k: v for k, v in described.items() if v is not None}).encode()

    return edit("manifest.json", change)


def rewrite(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Damage:
    """Another state, with a manifest that vouches for it."""

    def damage(step: Path) -> None:
        (path,) = step.rglob("state.safetensors")
        data = safetensors.torch.save(change(safetensors.torch.load(path.read_bytes())))
        path.write_bytes(data)
        described = json.loads((step / "manifest.json").read_bytes())
        described["objects"][0] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (step / "manifest.json").write_text(json.dumps(described))

    return damage


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


STATE = "state.safetensors"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped byte in a tensor": (edit(STATE, flipped), r"state.safetensors: its SHA-256 is"),
    "flipped byte in the header": (
        edit(STATE, lambda data: data.replace(b"F32", b"I32", 1)),
        "its SHA-256 is",
    ),
    "truncated": (edit(STATE, lambda data: data[:-8]), r"it has \d+ bytes, the manifest says"),
    "longer": (edit(STATE, lambda data: data + b"x"), r"it has \d+ bytes, the manifest says"),
    "empty": (edit(STATE, lambda data: b""), "it has 0 bytes, the manifest says"),
    "absent": (lambda step: next(step.rglob(STATE)).unlink(), r"state.safetensors is missing"),
    "manifest not JSON": (edit("manifest.json", lambda data: data[:50]), "manifest is not JSON"),
    "manifest empty": (edit("manifest.json", lambda data: b""), "the manifest is not JSON"),
    "manifest without key": (edit_manifest(seen=None), "the manifest has no 'seen'"),
    "manifest of another format": (edit_manifest(format="torch"), "format is 'torch', expected"),
    "manifest of another step": (edit_manifest(update=3), "the manifest belongs under step-00000"),
    "manifest names another's object": (
        edit_manifest(objects=[{"key": "step-1/x", "size": 1, "sha256": "0" * 64}]),
        r"the objects are \[step-1/x\]",
    ),
    "tensor missing": (
        rewrite(lambda state: {k: v for k, v in state.items() if k != "ema.w"}),
        "tensor 'ema.w' is missing",
    ),
    "tensor too many": (
        rewrite(lambda state: state | {"model.extra": torch.zeros(1)}),
        "tensor 'model.extra' is not expected",
    ),
    "wrong shape": (
        rewrite(lambda state: state | {"model.w": torch.zeros(4, 3)}),
        r"tensor 'model.w' has shape \(4, 3\), expected \(3, 4\)",
    ),
    "wrong kind": (
        rewrite(lambda state: state | {"model.w": torch.zeros(3, 4).half()}),
        "tensor 'model.w' is torch.float16, expected torch.float32",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped_by_name(
    store: Store, tmp_path: Path, damage: Damage, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    group, _ = started(store)
    saved(group, 1, 2)
    damage(tmp_path / "run/step-0000000002-g0001")
    second = keeper(store)
    second.claim()
    with caplog.at_level(logging.WARNING):
        manifest = second.choose(like=state_of(0))
    assert manifest is not None
    assert manifest.update == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"skipping a checkpoint: {store.address}/step-0000000002-g0001/"
    )
    assert re.search(message, record.getMessage())

    damage(tmp_path / "run/step-0000000001-g0001")
    with pytest.raises(CheckpointError) as caught:
        second.choose(like=state_of(0))
    assert f"none of the 2 checkpoints under {store.address} verifies" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_names_the_damaged_object(store: Store, tmp_path: Path) -> None:
    group, _ = started(store)
    saved(group, 1)
    found = newest(store, IDENTITY)
    assert found is not None
    edit(STATE, flipped)(tmp_path / "run")
    with pytest.raises(CorruptCheckpoint, match=found[0].objects[0].key):
        read_state(store, found[0])


def test_another_identity_is_refused_with_both_values(store: Store) -> None:
    group, _ = started(store)
    saved(group, 1)
    other = keeper(store, identity=IDENTITY | {"seed": 2})
    other.claim()
    with pytest.raises(StateMismatch, match=r"was made with seed 1, but this run has seed 2; "):
        other.choose()
    assert kept_updates(store) == [1]


def test_a_damaged_fence_is_drawn_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = started(store)
    saved(first, 1, 2)
    second, _ = started(store)
    saved(second, 3)
    (tmp_path / "run/fences/0002.json").write_text("{")
    edit(STATE, flipped)(tmp_path / "run/step-0000000003-g0002")
    found = newest(store, IDENTITY)
    assert found is not None
    assert found[0].update == 2
    assert "skipping the fence" in caplog.text


def test_checkpoints_that_vanished_are_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = started(store)
    saved(first, 1)
    started(store)
    for entry in store.list("step-"):
        store.remove(entry.key)
    assert newest(store, IDENTITY) is None
    assert "starts afresh: its checkpoints are gone" in caplog.text


def test_what_is_removed_while_it_is_read_is_looked_for_again(store: Store) -> None:
    group, _ = started(store, keep_last=1)
    saved(group, 1)
    faulty = Faulty(store)
    faulty.hooks["size"] = lambda: saved(group, 2)  # its retention takes update 1 away
    found = newest(faulty, IDENTITY)
    assert found is not None
    assert found[0].update == 2
