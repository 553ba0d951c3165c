"""Sampling by weight in a run: who is seen, in which views, and that a resume is exact."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.unit.trainer.shards import write_shards
from tests.unit.trainer.tiny import ONE_THREAD, TinyRun
from trainer import train
from trainer.config import ConfigError
from trainer.data.selection import load_sampling
from trainer.world import World, join

COUNT = 20
WEIGHTS = np.full(COUNT, 0.75, np.float32)
WEIGHTS[[3, 8, 9]] = 5.0, 0.0, 2.5
"""Sample 3 is seen about five times an epoch, 8 never."""
UPDATES = 9
"""Three epochs of 20 samples, 8 an update."""


@pytest.fixture
def world() -> Iterator[World]:
    yield join(ONE_THREAD)
    dist.destroy_process_group()


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    write_shards(tmp_path / "data", count=COUNT)
    np.save(tmp_path / "sampling.npy", WEIGHTS)
    return [f"data.sampling={tmp_path}/sampling.npy"]


def test_a_resume_amid_an_epoch_is_exact_to_the_bit(
    world: World, tmp_path: Path, options: list[str]
) -> None:
    calm = TinyRun(world, tmp_path, options)
    expected = list(calm.updates(UPDATES))
    assert expected != list(TinyRun(world, tmp_path).updates(UPDATES))
    for stop in (1, 4):
        first = TinyRun(world, tmp_path, options)
        assert list(first.updates(stop)) == expected[:stop]
        kept = {key: value.clone() for key, value in first.state.tensors().items()}
        second = TinyRun(world, tmp_path, options)
        second.state.load(kept, updates=first.state.updates, seen=first.state.seen)
        assert list(second.updates(UPDATES - stop)) == expected[stop:]
        ended = second.state.tensors()
        for key, value in calm.state.tensors().items():
            assert torch.equal(value, ended[key]), key


def test_each_is_seen_as_often_as_its_weight_bids_and_never_in_the_same_view_twice(
    world: World, tmp_path: Path, options: list[str]
) -> None:
    run = TinyRun(world, tmp_path, [*options, "update.global_batch=8", "epochs=3"])
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    views: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
    for batch in train.training_batches(run.cfg, world, run.data, 0):
        for row, sample in enumerate(batch.part.ids):
            seen[batch.part.step.epoch][sample] += 1
            views[batch.part.step.epoch, sample].append(batch.pixels[row])
    share = WEIGHTS / WEIGHTS.sum() * COUNT
    assert list(seen) == [0, 1, 2]
    for counts in seen.values():
        assert counts.total() == COUNT
        assert counts[8] == 0
        assert counts[3] > 1
        for sample in range(COUNT):
            assert abs(counts[sample] - share[sample]) < 1
    for pictures in views.values():
        for number, picture in enumerate(pictures):
            assert not any(torch.equal(picture, other) for other in pictures[:number])
    assert seen[0] != seen[1]


def test_ranks_share_what_is_drawn_and_turns_are_counted_over_all(
    world: World, tmp_path: Path, options: list[str]
) -> None:
    run = TinyRun(world, tmp_path, [*options, "epochs=1"])
    parts = [
        batch.part
        for rank in range(2)
        for batch in train.training_batches(run.cfg, replace(world, rank=rank, size=2), run.data, 0)
    ]
    pairs = [pair for part in parts for pair in zip(part.ids, part.turns, strict=True)]
    alone = [
        pair
        for batch in train.training_batches(run.cfg, world, run.data, 0)
        for pair in zip(batch.part.ids, batch.part.turns, strict=True)
    ]
    assert sorted(pairs) == sorted(alone)
    assert len(set(pairs)) == COUNT


def test_an_epoch_of_a_selection_is_drawn_from_it_alone(
    world: World, tmp_path: Path, options: list[str]
) -> None:
    np.save(tmp_path / "selection.npy", np.array([1, 3, 4, 8, 15]))
    chosen = f"data.selection={tmp_path}/selection.npy"
    run = TinyRun(world, tmp_path, [*options, chosen, "epochs=2"])
    assert (run.data.num_samples, run.data.goal) == (5, 10)
    every = [i for b in train.training_batches(run.cfg, world, run.data, 0) for i in b.part.ids]
    assert len(every) == 10
    assert set(every) <= {1, 3, 4, 15}


def test_the_sampling_is_part_of_what_a_checkpoint_belongs_to(
    world: World, tmp_path: Path, options: list[str]
) -> None:
    plain, sampled = TinyRun(world, tmp_path), TinyRun(world, tmp_path, options)
    assert "sampling" not in plain.data.identity
    np.save(tmp_path / "sampling.npy", WEIGHTS + 1)
    other = TinyRun(world, tmp_path, options)
    assert sampled.data.identity["sampling"] != other.data.identity["sampling"]
    differing = {
        key for key, value in sampled.data.identity.items() if value != other.data.identity[key]
    }
    assert differing == {"sampling"}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.zeros(COUNT, np.float32), "is 0 for every sample that is trained on"),
        (np.eye(1, COUNT, 5, np.float32)[0], "is 0 for every sample that is trained on"),
        (np.ones(COUNT), "must hold float32"),
        (np.ones(COUNT - 1, np.float32), "of shape (20,)"),
        (np.full(COUNT, -1, np.float32), "at least 0"),
        (np.full(COUNT, np.inf, np.float32), "finite"),
    ],
)
def test_wrong_sampling_is_one_line(tmp_path: Path, weights: np.ndarray, said: str) -> None:
    path = tmp_path / "sampling.npy"
    np.save(path, weights)
    with pytest.raises(ConfigError) as caught:
        load_sampling(str(path), COUNT, np.array([1, 2, 3]))
    assert str(caught.value).startswith(f"data.sampling {path}")
    assert said in str(caught.value)
    assert load_sampling("", COUNT, None) == (None, "")
