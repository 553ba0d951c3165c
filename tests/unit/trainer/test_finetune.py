"""What a fine-tuning takes from a run, and which parts of each network may rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from trainer import finetune
from trainer.checkpoint import Manifest
from trainer.config import ConfigError, FinetuneConfig, ModelConfig, StartConfig, TrainConfig, parse
from trainer.learn import models
from trainer.learn.pooling import GeM
from trainer.runs import Source

TINY: dict[str, Any] = {"width": 0.125, "stem": "small"}
RECIPES = (
    "nasnetalarge",
    "pnasnet5large",
    "senet154",
    "resnext152d_32x4d",
    "inception_resnet_v2",
    "dpn98",
    "seresnet152",
)


def source(network: nn.Module, config: ModelConfig, num_classes: int = 3) -> Source:
    manifest = Manifest(
        run="r",
        generation=1,
        attempt="",
        parent="",
        update=4,
        seen=8,
        epoch=0,
        identity={},
        facts={"num_classes": num_classes},
        config_sha256="",
        objects=(),
        created_at=0.0,
    )
    return Source(
        "file:///r", TrainConfig(model=config), manifest, dict(network.state_dict()), None
    )


def tiny(pool: str = "default", p: float = 1.0, num_classes: int = 3) -> tuple[nn.Module, Source]:
    config = ModelConfig(pool=pool, pool_p=p, **TINY)  # type: ignore[arg-type]
    network = models.build(config, num_classes)
    return network, source(network, config, num_classes)


def power(network: nn.Module) -> Tensor:
    (pool,) = [part for part in network.modules() if isinstance(part, GeM)]
    return pool.p.detach()


def test_every_tensor_is_the_sources() -> None:
    network, _ = tiny()
    _, given = tiny()
    finetune.load_weights(network, given, "keep")
    for name, value in network.state_dict().items():
        assert torch.equal(value, given.weights[name]), name


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (("gem", 3.0), ("default", 1.0), 3.0),
        (("gem", 3.0), ("gem", 2.0), 2.0),
        (("gem_channel", 3.0), ("gem_channel", 2.0), 2.0),
        (("gem_channel", 3.0), ("gem", 2.0), 2.0),
        (("gem", 3.0), ("gem_channel", 2.0), 2.0),
    ],
    ids=str,
)
def test_the_power_is_the_sources_where_it_has_one(
    ours: tuple[str, float], theirs: tuple[str, float], expected: float
) -> None:
    network, _ = tiny(*ours)
    shape = power(network).shape
    _, given = tiny(*theirs)
    finetune.load_weights(network, given, "keep")
    assert power(network).shape == shape
    assert power(network).tolist() == pytest.approx(torch.full(shape, expected).tolist())


def test_of_many_powers_one_takes_the_mean_and_none_takes_none() -> None:
    channels, given = tiny("gem_channel", 2.0)
    with torch.no_grad():
        given.weights["global_pool.p"] = torch.linspace(1, 4, len(power(channels)))
    network, _ = tiny("gem")
    finetune.load_weights(network, given, "keep")
    assert float(power(network)) == pytest.approx(2.5)
    plain, _ = tiny()
    finetune.load_weights(plain, given, "keep")
    assert torch.equal(plain.state_dict()["fc.weight"], given.weights["fc.weight"])


def test_a_new_head_keeps_its_own_weights_whatever_the_classes() -> None:
    for num_classes in (3, 5):
        network, _ = tiny(num_classes=num_classes)
        own = network.state_dict()["fc.weight"].clone()
        _, given = tiny()
        finetune.load_weights(network, given, "new")
        assert torch.equal(network.state_dict()["fc.weight"], own)
        assert torch.equal(network.state_dict()["conv1.weight"], given.weights["conv1.weight"])


def test_a_new_head_may_be_of_another_kind() -> None:
    noisy = ModelConfig(head="heteroscedastic", **TINY)
    network, plain = models.build(noisy, 3), tiny()[1]
    with pytest.raises(ConfigError, match=r"has a linear classifier.*set start\.head to new"):
        finetune.load_weights(network, plain, "keep")
    finetune.load_weights(network, plain, "new")
    assert torch.equal(network.state_dict()["conv1.weight"], plain.weights["conv1.weight"])
    finetune.load_weights(tiny()[0], source(network, noisy), "new")


@pytest.mark.parametrize("learning", ["head", "pool"])
def test_all_but_what_learns_rests(learning: Literal["head", "pool"]) -> None:
    network = models.build(ModelConfig(head="heteroscedastic", pool="gem", **TINY), 3)
    network.train()
    for part in finetune.rest(network, StartConfig(train=learning)):
        part.eval()
    training = {name for name, part in network.named_modules() if part.training and name}
    name = {"head": "fc", "pool": "global_pool"}[learning]
    assert {each.partition(".")[0] for each in training} == {name}, "draws its noise, for one"
    learnt = {part for part, value in network.named_parameters() if value.requires_grad}
    assert {part.partition(".")[0] for part in learnt} == {name}


def test_what_does_not_fit_is_named() -> None:
    network, _ = tiny(num_classes=5)
    _, given = tiny()
    with pytest.raises(ConfigError, match=r"start\.address file:///r has 3 classes.*start\.head"):
        finetune.load_weights(network, given, "keep")
    network, given = tiny()
    given.weights["conv1.weight"] = torch.zeros(8, 3, 7, 7)
    with pytest.raises(ConfigError, match=r"does not fit 1 tensors.*conv1\.weight"):
        finetune.load_weights(network, given, "keep")
    given.weights["layer9.weight"] = given.weights.pop("conv1.weight")
    with pytest.raises(ConfigError, match=r"does not fit 2 tensors.*conv1\.weight, layer9\.weight"):
        finetune.load_weights(network, given, "keep")


def test_another_network_is_told_in_words() -> None:
    _, given = tiny()
    finetune.check_network(TrainConfig(model=ModelConfig(drop_rate=0.5, **TINY)), given)
    with pytest.raises(ConfigError, match=r"holds resnet18 of width 0\.125 with a small stem, but"):
        finetune.check_network(TrainConfig(model=ModelConfig(name="senet154")), given)


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_stages_of_each_network_rest_and_its_classifier_learns(name: str) -> None:
    with torch.device("meta"):
        network = models.build(ModelConfig(name=name, pool="gem"), 5)
    head = models.head_name(network)
    resting = finetune.rest(network, StartConfig(frozen_stages=1))
    still = {part for part, value in network.named_parameters() if not value.requires_grad}
    assert 0 < len(still) < len(list(network.parameters())) / 2
    assert all(not value.requires_grad for part in resting for value in part.parameters(False))
    norms = [part for part in resting if isinstance(part, nn.BatchNorm2d)]
    assert norms, "their running statistics rest too"
    assert not any(part.startswith(f"{head}.") or part.endswith(".p") for part in still)
    last = max(models.stage_of(network).values())
    finetune.rest(network, StartConfig(frozen_stages=last - 1))
    learning = {part for part, value in network.named_parameters() if value.requires_grad}
    assert {part for part in learning if part.startswith(f"{head}.")}
    with pytest.raises(ConfigError, match=rf"frozen_stages is {last}, but .* has {last - 1} "):
        finetune.frozen(network, last)


def test_only_a_network_with_gem_learns_its_power_alone() -> None:
    network, _ = tiny()
    with pytest.raises(ConfigError, match=r"start\.train is pool.*model\.pool to gem"):
        finetune.rest(network, StartConfig(train="pool"))
    network, _ = tiny("gem")
    finetune.rest(network, StartConfig(train="pool"))
    assert [name for name, value in network.named_parameters() if value.requires_grad] == [
        "global_pool.p"
    ]


def test_a_run_does_not_begin_from_its_own_folder(tmp_path: Path) -> None:
    text = f"checkpoint: {{address: {tmp_path}/a}}\nstart: {{address: 'file://{tmp_path}/a/'}}\n"
    cfg = parse(FinetuneConfig, text, ["data.train=x"], source="here")
    with pytest.raises(ConfigError, match=re.escape(f"both file://{tmp_path}/a")):
        finetune.settled(cfg)


def test_the_stage_before_is_the_teacher_unless_another_is_named(tmp_path: Path) -> None:
    places = ["data.train=x", f"checkpoint.address={tmp_path}/b", f"start.address={tmp_path}/a"]
    own = "loss.self_label.teacher_from=c"
    for more, expected in (
        ([], ""),
        (["loss.name=self_label"], f"{tmp_path}/a"),
        (["loss.name=self_label", own], "c"),
    ):
        cfg = parse(FinetuneConfig, "", [*places, *more], source="here")
        assert finetune.settled(cfg).loss.self_label.teacher_from == expected
