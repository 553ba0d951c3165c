"""A classifier that knows how sure it is of each picture's class, for labels of uneven noise.

Letters: B batch, D features, K classes, R rank of the noise, S samples of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.config import ConfigError

RANK = 8
SAMPLES = 16
"""In training and in evaluation alike; the authors take 1,000 in evaluation for small K."""


class Heteroscedastic(nn.Module):
    """Logits with a normal noise whose size and direction depend on the picture.

    The noise has covariance V V' + d^2 I, where row k of V is a learnt row times v_k(x), and v and
    d are linear in the features: 3 K (D + 1) + K R parameters. Returns the logarithm of the mean
    of softmax(z / temperature) over S draws, which is as good as logits for any softmax loss.
    Source: Collier et al., arXiv:2105.10305, section 3.3.
    """

    def __init__(self, features: int, num_classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.mean = nn.Linear(features, num_classes)
        self.scale = nn.Linear(features, num_classes)
        self.spread = nn.Linear(features, num_classes)
        self.directions = nn.Parameter(torch.randn(num_classes, RANK) / math.sqrt(RANK))

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, D). Returns (B, K) log probabilities, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            exact = features.float()
            mean, scale = self.mean(exact), self.scale(exact)
            spread = nn.functional.softplus(self.spread(exact))
            shared, own = self._noise(mean)
            noise = scale * (shared @ self.directions.T) + spread * own  # (S, B, K)
            logits = (mean + noise) / self.temperature
            log_p: Tensor = logits.log_softmax(2).logsumexp(0) - math.log(SAMPLES)
            return log_p

    def _noise(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """(S, B, R) and (S, B, K): drawn anew in training, always the same in evaluation."""
        draw = None
        if not self.training:
            draw = torch.Generator(mean.device).manual_seed(0)
        shapes = (SAMPLES, len(mean), RANK), (SAMPLES, *mean.shape)
        shared, own = (torch.randn(s, device=mean.device, generator=draw) for s in shapes)
        return shared, own


def replace_head(network: nn.Module, name: str, temperature: float) -> None:
    """Puts a heteroscedastic classifier in place of the linear one of that name.

    Raises ConfigError where the network's classifier is not linear.
    """
    old = network.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise ConfigError(
            f"model.head is heteroscedastic, but the network's classifier {name} is a"
            f" {type(old).__name__}; leave model.head at linear"
        )
    parent, _, attribute = name.rpartition(".")
    new = Heteroscedastic(old.in_features, old.out_features, temperature)
    setattr(network.get_submodule(parent), attribute, new)
