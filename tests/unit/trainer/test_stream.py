"""From positions to decoded batches: the plan of a rank, loader processes, damaged samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.trainer.shards import write_shards
from trainer.config import AugmentConfig, DataConfig, InputConfig
from trainer.data import order, stream
from trainer.data.cache import Fetched
from trainer.data.decode import GREY
from trainer.data.shards import Dataset, open_dataset

N, G, LANES = 100, 30, 12


def plan(rank: int, world: int, *, seen: int = 0, stop: int = 250, micro: int = 8) -> stream.Plan:
    shards = np.repeat(np.arange(5, dtype=np.uint32), N // 5)
    return stream.Plan(
        lambda epoch: order.build(shards, None, lanes=LANES, window=16, seed=1, epoch=epoch),
        seen=seen,
        stop=stop,
        num_samples=N,
        global_batch=G,
        micro_batch=micro,
        rank=rank,
        world=world,
    )


def test_a_run_that_ends_inside_an_epoch_sees_each_sample_as_often_as_it_should() -> None:
    steps = list(plan(0, 1).steps())
    assert [s.stop - s.start for s in steps] == [30, 30, 30, 10, 30, 30, 30, 10, 30, 20]
    counts = Counter((s.epoch, i) for s in steps for i in s.ids)
    assert set(counts.values()) == {1}
    assert Counter(epoch for epoch, _ in counts) == {0: 100, 1: 100, 2: 50}


@pytest.mark.parametrize("world", [2, 3, 5, 12])
def test_ranks_share_each_step_and_make_as_many_forward_passes(world: int) -> None:
    alone = list(plan(0, 1).steps())
    together = [list(plan(rank, world).steps()) for rank in range(world)]
    for whole, *parts in zip(alone, *together, strict=True):
        assert sorted(whole.ids) == sorted(i for part in parts for i in part.ids)
        assert len({part.num_micros for part in parts}) == 1
    for rank in range(world):
        parts_of = list(plan(rank, world, micro=4))
        assert len(parts_of) == sum(s.num_micros for s in plan(rank, world, micro=4).steps())
        assert [i for part in parts_of for i in part.ids] == [
            i for step in together[rank] for i in step.ids
        ]
        assert max(len(part.ids) for part in parts_of) <= 4


@pytest.mark.parametrize("seen", [0, 30, 90, 100, 130, 200, 230])
def test_a_resumed_plan_is_the_rest_of_the_undisturbed_one(seen: int) -> None:
    rest = [s for s in plan(1, 3).steps() if s.epoch * N + s.start >= seen]
    assert list(plan(1, 3, seen=seen).steps()) == rest


def test_an_evaluation_has_each_sample_on_one_rank() -> None:
    for world in (1, 2, 3, 7):
        shares = [list(stream.EvaluationPlan(10, 4, rank, world)) for rank in range(world)]
        ids = [i for share in shares for part in share for i in part.ids]
        assert sorted(ids) == list(range(10))


@pytest.fixture
def shards(tmp_path: Path) -> Dataset:
    return open_dataset(write_shards(tmp_path / "set", count=24, broken=(5,)), tmp_path / "cache")


def decoded(dataset: Dataset, tmp_path: Path, processes: int) -> list[stream.Batch]:
    config = DataConfig(loader_processes=processes, lanes=4, window=8)
    view = stream.TrainingView(InputConfig(size_px=16), AugmentConfig(), seed=3)
    source = stream.Decoded(dataset, config, view, tmp_path / "cache")
    weights = np.linspace(0.5, 2, 24, dtype=np.float32)
    column = dataset.index()["shard"]
    own = stream.Plan(
        lambda epoch: order.build(column, None, lanes=4, window=8, seed=3, epoch=epoch),
        seen=0,
        stop=24,
        num_samples=24,
        global_batch=10,
        micro_batch=4,
        rank=0,
        world=1,
    )
    return list(stream.batches(source, own, config, pin=False, weights=weights))


def test_9_pixels_are_the_same_for_any_number_of_loader_processes(
    shards: Dataset, tmp_path: Path
) -> None:
    inline, forked = decoded(shards, tmp_path, 0), decoded(shards, tmp_path, 2)
    assert [b.part for b in inline] == [b.part for b in forked]
    assert sorted(i for b in inline for i in b.part.ids) == list(range(24))
    for one, other in zip(inline, forked, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.weights, other.weights)
        assert one.damaged == other.damaged


def test_a_damaged_sample_is_grey_weighs_nothing_and_is_named(
    shards: Dataset, tmp_path: Path
) -> None:
    batches = decoded(shards, tmp_path, 0)
    index = shards.index()
    damaged = [name for batch in batches for name in batch.damaged]
    assert len(damaged) == 1
    assert "sample 5" in damaged[0]
    for batch in batches:
        for row, sample in enumerate(batch.part.ids):
            assert batch.labels[row] == index[sample]["label"]
            expected = 0.0 if sample == 5 else 0.5 + 1.5 * sample / 23
            assert batch.weights[row].item() == pytest.approx(expected)
            assert bool((batch.pixels[row] == GREY).all()) == (sample == 5)


def test_a_rank_without_samples_still_takes_part() -> None:
    class Unread:
        def fetched(self) -> Fetched:
            return Fetched(downloads=2)

    step = stream.Step(0, 0, 1, (), 1)
    source = stream.Decoded.__new__(stream.Decoded)
    source.view, source.clean = stream.CentreView(InputConfig(size_px=16)), None
    source.opened = (Unread(), None)  # type: ignore[assignment]
    batch = source[stream.Part(step, ())]
    assert batch.pixels.shape == (1, 3, 16, 16)
    assert batch.weights.tolist() == [0.0]
    assert batch.fetched.downloads == 2
    assert source[stream.Part(step, ())].fetched.downloads == 0


def test_steps_of_groups_batches_by_their_step() -> None:
    empty = torch.zeros(1)
    parts = list(plan(0, 1, stop=60))
    source = (stream.Batch(part, empty, empty, empty) for part in parts)
    grouped = [(step, [b.part.ids for b in group]) for step, group in stream.steps_of(source)]
    assert [len(ids) for _, ids in grouped] == [4, 4]
    assert [tuple(i for part in ids for i in part) for _, ids in grouped] == [
        step.ids for step, _ in grouped
    ]


def test_pixels_reach_the_device_normalised() -> None:
    from trainer.learn.engine import normalise

    pixels = torch.randint(0, 255, (2, 3, 4, 4), dtype=torch.uint8)
    config = InputConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    found: Tensor = normalise(pixels, config, torch.device("cpu"), "nhwc")
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    assert torch.allclose(found, (pixels / 255 - mean) / std, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
