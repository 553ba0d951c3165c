"""Soups: what is averaged, and which ingredients greedy takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.unit.trainer.tiny import ONE_THREAD, TinyRun
from trainer import soup, train
from trainer.config import ConfigError
from trainer.runs import open_run
from trainer.world import World, join


@pytest.fixture
def world() -> Iterator[World]:
    yield join(ONE_THREAD)
    dist.destroy_process_group()


def kept_run(world: World, folder: Path, *saves: int, overrides: tuple[str, ...] = ()) -> str:
    """A run that has kept a checkpoint after each of so many updates."""
    folder.mkdir()
    run = TinyRun(world, folder, overrides)
    start = train.claim(run.cfg, world, run.data)
    assert start.keeper is not None
    for num_updates in saves:
        list(run.updates(num_updates))
        train.save(start, run.state, run.data, 0.5, wait=True)
    start.keeper.flush(30, check=True)
    start.keeper.close()
    return run.cfg.checkpoint.address


def test_an_average_is_the_mean_of_each_tensor() -> None:
    first = {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(7)}
    second = {"w": torch.tensor([2.0, -3.0]), "n": torch.tensor(9)}
    found = soup.average([first, second, second])
    assert found["w"].tolist() == pytest.approx([5 / 3, -1])
    assert found["n"].item() == 7


def test_greedy_takes_what_does_not_make_it_worse() -> None:
    values = [1.0, 5.0, 4.0, -20.0]
    ingredients = [{"w": torch.tensor(value)} for value in values]

    def score(weights: soup.Weights) -> float:
        return -abs(float(weights["w"]) - 4.4)  # 4.5 of 5 and 4 is nearest

    alone = [score(each) for each in ingredients]
    assert soup.greedy(ingredients, alone, score) == [2, 1]
    assert soup.greedy(ingredients[:1], alone[:1], score) == [0]


def test_a_soup_of_the_last_checkpoints_is_a_run(world: World, tmp_path: Path) -> None:
    address = kept_run(world, tmp_path / "run", 3, 3, 3)
    sources = soup.ingredients_of([address], 2)
    assert [source.manifest.update for source in sources] == [9, 6]
    out = (tmp_path / "soup").as_uri()
    soup.keep(sources, out)
    made = open_run(out)
    assert made.manifest.facts["soup"] == [
        f"{source.address}/{source.manifest.key}" for source in sources
    ]
    for name, value in made.weights.items():
        if value.is_floating_point():
            expected = (sources[0].weights[name].double() + sources[1].weights[name].double()) / 2
            assert torch.allclose(value.double(), expected, atol=1e-7), name
    assert made.network()(torch.zeros(1, 3, 24, 24)).shape == (1, 3)
    with pytest.raises(ConfigError, match="is not empty; give another address"):
        soup.keep(sources, out)


def test_ingredients_must_be_several_and_of_one_network(world: World, tmp_path: Path) -> None:
    address = kept_run(world, tmp_path / "a", 1)
    with pytest.raises(ConfigError, match="has kept one checkpoint alone; give several runs"):
        soup.ingredients_of([address], 0)
    wider = kept_run(world, tmp_path / "b", 1, overrides=("model.width=0.25",))
    with pytest.raises(ConfigError, match="a soup needs runs of one network"):
        soup.ingredients_of([address, wider], 0)
