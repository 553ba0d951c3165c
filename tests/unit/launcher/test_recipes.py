"""The packaged recipes against what timm says of the networks, and against our own rules."""

from __future__ import annotations

import pytest

from launcher.request import Request
from launcher.resolve import recipes
from launcher.spec import JobSpec
from tests.unit.launcher.goldens import spec

# Weights tag whose preprocessing a recipe follows; resnext152d_32x4d is none of timm's names.
TAGS = {
    "nasnetalarge": "tf_in1k",
    "pnasnet5large": "tf_in1k",
    "senet154": "gluon_in1k",
    "inception_resnet_v2": "tf_in1k",
    "dpn98": "mx_in1k",
    "seresnet152": "untrained",
    "resnet18": "tv_in1k",
}


@pytest.fixture(scope="module", params=recipes())
def recipe(request: pytest.FixtureRequest) -> JobSpec:
    return spec(Request(model=request.param, data="s3://a/b", checkpoints="s3://a/c", image="i"))


def test_the_seven_networks_and_a_small_one_are_there() -> None:
    assert set(recipes()) == {*TAGS, "resnext152d_32x4d"}


def test_a_recipe_is_called_after_its_network(recipe: JobSpec) -> None:
    assert recipe.run.model.name in recipes()
    assert recipe.name.startswith(recipe.run.model.name.replace("_", "-"))


def test_input_is_that_of_the_published_weights(recipe: JobSpec) -> None:
    import timm

    model = recipe.run.model.name
    chosen = recipe.run.input
    if model not in TAGS:
        assert (chosen.size_px, chosen.crop_ratio) == (224, 0.875)
        assert chosen.mean == timm.data.IMAGENET_DEFAULT_MEAN
        assert chosen.std == timm.data.IMAGENET_DEFAULT_STD
        return
    published = timm.models.get_pretrained_cfg(
        model if TAGS[model] == "untrained" else f"{model}.{TAGS[model]}"
    )
    assert (3, chosen.size_px, chosen.size_px) == published.input_size
    assert chosen.crop_ratio == published.crop_pct
    assert chosen.mean == pytest.approx(published.mean, abs=1e-9)
    assert chosen.std == pytest.approx(published.std, abs=1e-9)


def test_batches_are_whole_rows_of_lanes_and_the_rate_follows_them(recipe: JobSpec) -> None:
    update, optim = recipe.run.update, recipe.run.optim
    assert recipe.run.data.lanes == 192
    assert update.global_batch % 192 == 0
    # The team's two settings, 0.1 at 256 and 0.4 at 1024, are one rate per sample.
    assert optim.lr / update.global_batch == pytest.approx(0.1 / 256)
    assert (optim.weight_decay, optim.warmup_epochs, optim.nesterov) == (1e-4, 5, True)
    assert (update.label_smoothing, update.mixup) == (0.1, 0.2)


def test_the_share_of_a_rank_is_whole_micro_batches_at_full_and_half_size(recipe: JobSpec) -> None:
    for workers in (recipe.workers.desired, recipe.workers.least):
        share, rest = divmod(recipe.run.update.global_batch, workers * recipe.ranks_per_worker)
        assert rest == 0
        micro = recipe.run.update.micro_batch
        assert share % micro == 0 or share < micro
