"""The heteroscedastic classifier."""

from __future__ import annotations

import pytest
import torch

from trainer.config import ConfigError, ModelConfig
from trainer.learn import models
from trainer.learn.heads import Heteroscedastic, replace_head


def head() -> Heteroscedastic:
    torch.manual_seed(0)
    return Heteroscedastic(6, 4, temperature=1.5)


def test_it_gives_log_probabilities_the_same_in_evaluation_and_new_ones_in_training() -> None:
    made = head()
    features = torch.randn(3, 6)
    assert not torch.equal(made(features), made(features))
    made.eval()
    found = made(features)
    assert torch.equal(found, made(features))
    assert found.exp().sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-5)


def test_without_noise_it_is_a_linear_classifier_at_its_temperature() -> None:
    made = head()
    with torch.no_grad():
        for layer, bias in ((made.scale, 0.0), (made.spread, -50.0)):
            layer.weight.zero_()
            layer.bias.fill_(bias)
    features = torch.randn(3, 6)
    expected = (made.mean(features) / 1.5).log_softmax(1)
    assert torch.allclose(made(features), expected, atol=1e-5)


def test_the_noise_has_the_stated_covariance() -> None:
    made = head()
    features = torch.randn(1, 6)
    drawn = []
    for _ in range(3000):
        shared, own = made._noise(made.mean(features))
        spread = torch.nn.functional.softplus(made.spread(features))
        drawn.append((made.scale(features) * (shared @ made.directions.T) + spread * own)[:, 0])
    rows = made.scale(features)[0][:, None] * made.directions
    expected = rows @ rows.T + torch.diag(spread[0] ** 2)
    assert torch.allclose(torch.cat(drawn).T.cov(), expected, atol=0.05)


def test_a_network_takes_it_in_place_of_its_classifier_and_learns_all_of_it() -> None:
    network = models.build(ModelConfig(width=0.125, stem="small", head="heteroscedastic"), 3)
    assert models.head_name(network) == "fc"
    network(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.get_submodule("fc").parameters())
    convolutional = torch.nn.Module()
    convolutional.classifier = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(ConfigError, match=r"classifier classifier is a Conv2d; leave model\.head"):
        replace_head(convolutional, "classifier", 1.0)
