"""Self-label: what a teacher sees in a picture corrects the web's label, by its confidence in it.

The teacher is a frozen checkpoint, the run's own averaged weights, or the network itself on the
fly. Begun too early it collapses: a young teacher gives the web's label little mass, the target
becomes its own output, and teacher and student agree on anything, soon on one class for all. So
it begins late and only once the teacher agrees with the labels well enough, leaves the label a
floor, holds the mean prediction near the classes' frequencies, and watches its entropy.

Letters: b samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import SelfLabelConfig
from trainer.learn.losses.base import Examples, Group, Loss, one_hot, precise
from trainer.learn.losses.binary import binary_cross_entropy
from trainer.learn.losses.cross_entropy import cross_entropy

HALF_LIFE_PER_CLASS = 10
"""Samples a class after which a step counts half in the mean prediction."""


def confidence(scores: Tensor, web: Tensor, q: float, *, relative: bool = False) -> Tensor:
    """(b,) (sum_k y_k s_k)^q: the teacher's score at the web's label, calibrated.

    scores, web: (b, K). relative: the score over the largest one, so that a teacher that is unsure
    of everything still trusts a label it likes best. Source: SCC, arXiv:2008.11894; q 2 there.
    """
    at_web = (web * scores).sum(1)
    if relative:
        at_web = at_web / scores.amax(1).clamp(min=1e-12)
    return at_web.clamp(0, 1) ** q


def sharpened(scores: Tensor, temperature: float, *, normalise: bool) -> Tensor:
    """Scores to the power 1 / temperature; 1 leaves them, 0 is one-hot at the largest.

    scores: (b, K) 0-1. normalise: rows sum to 1 again, for softmax scores. Source as above.
    """
    if temperature == 1:
        return scores
    if temperature == 0:
        return one_hot(scores.argmax(1), scores.shape[1]).to(scores)
    # Relative to the largest, or a small temperature would leave nothing but zeros.
    largest = scores.amax(1, keepdim=True).clamp(min=1e-12)
    raised = (scores / largest) ** (1 / temperature)
    if normalise:
        return raised / raised.sum(1, keepdim=True)
    return raised * largest ** (1 / temperature)


def corrected(targets: Tensor, scores: Tensor, trust: Tensor) -> Tensor:
    """(b, K) trust * targets + (1 - trust) * scores; trust: (b,) 0-1."""
    return torch.lerp(scores, targets.to(scores), trust[:, None])


def prior_pull(probabilities: Tensor, mean: Tensor, prior: Tensor) -> Tensor:
    """(b,) KL(prior || mean) to first order in each sample's share of the mean prediction.

    Its gradient is that of sum_k prior_k log(prior_k / mean_k), whatever ranks and micro-batches
    the samples lie in. probabilities: (b, K); mean, prior: (K,). Source of the term: Tanaka et
    al., arXiv:1803.11364.
    """
    ratio = torch.where(prior > 0, prior / mean.clamp(min=1e-3 * prior.clamp(min=1e-9)), 0.0)
    divergence = (prior * ratio.clamp(min=1e-9).log()).sum()
    return divergence + 1.0 - probabilities @ ratio.to(probabilities)


class SelfLabel(Loss):
    """Cross entropy, over softmax or K sigmoids, against corrected labels."""

    mean: Tensor
    agreement: Tensor
    settled: Tensor
    begun: Tensor
    prior: Tensor

    def __init__(self, config: SelfLabelConfig, class_counts: Tensor, goal: int) -> None:
        super().__init__()
        self.config = config
        self.start_samples = config.start_ratio * goal
        num_classes = len(class_counts)
        self.half_life_samples = HALF_LIFE_PER_CLASS * num_classes
        prior = class_counts.double() / class_counts.sum()
        # In float64, or the order of the ranks would show in the sums.
        self.register_buffer("prior", prior, persistent=False)
        self.register_buffer("mean", torch.zeros(num_classes, dtype=torch.float64))
        for name in ("agreement", "settled", "begun"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.open = False
        self._pending: Tensor | None = None

    @property
    def teacher(self) -> bool:
        return self.open and self.config.teacher != "self"

    @property
    def needs_average(self) -> bool:
        return self.config.teacher == "ema"

    def begin(self, seen: int) -> None:
        self.open = seen >= self.start_samples
        self._pending = self.mean.new_zeros(len(self.mean) + 2)

    def forward(self, logits: Tensor, examples: Examples) -> Tensor:
        targets = examples.mixed_targets()
        probabilities = precise(logits).softmax(1)
        if not self.open:
            return self._base(logits, targets)
        with torch.no_grad():
            scores, web = self._opinion(logits, examples)
            trust = confidence(
                scores, web, self.config.q, relative=self.config.confidence == "relative"
            )
            trust = trust.clamp(min=self.config.floor)
            # Until it has begun, the label alone counts; decided on the device, read by nobody.
            trust = torch.where(self.begun > 0, trust, torch.ones_like(trust))
            sharp = sharpened(
                scores, self.config.temperature, normalise=self.config.base == "softmax"
            )
            if self.config.teacher == "self":
                targets = corrected(targets, sharp, trust)
            else:
                targets = examples.mix(corrected(examples.targets, sharp, trust))
            self._collect(probabilities, scores, web, examples.counted)
        each = self._base(logits, targets)
        pull = prior_pull(probabilities, self._mean(), self.prior)
        return each + self.config.prior_strength * self.begun.to(each) * pull.to(each)

    def _opinion(self, logits: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        """The teacher's scores, and the web's labels of the pictures that it scored."""
        web = one_hot(examples.labels, logits.shape[1])
        seen = logits
        if self.config.teacher == "self":
            web = examples.mix(web)
        else:
            assert examples.teacher is not None, "the engine gives logits where teacher is true"
            seen = examples.teacher
        exact = precise(seen)
        return exact.softmax(1) if self.config.base == "softmax" else exact.sigmoid(), web

    def _base(self, logits: Tensor, targets: Tensor) -> Tensor:
        softmax = self.config.base == "softmax"
        return (cross_entropy if softmax else binary_cross_entropy)(logits, targets)

    def _collect(self, probabilities: Tensor, scores: Tensor, web: Tensor, counted: Tensor) -> None:
        assert self._pending is not None, "begin comes before a step"
        count = counted.double()
        self._pending[:-2] += count @ probabilities.double()
        self._pending[-2] += count @ (web * scores).sum(1).double()
        self._pending[-1] += count.sum()

    def _mean(self) -> Tensor:
        """(K,) the mean prediction so far; the classes' frequencies before there is one."""
        return torch.where(self.settled > 0, self.mean / self.settled.clamp(min=1e-12), self.prior)

    def settle(self, group: Group, keep: Tensor) -> None:
        assert self._pending is not None, "begin comes before a step"
        found, self._pending = group.sum(self._pending), None
        if not self.open:
            return
        num = found[-1].clamp(min=1.0)
        decay = torch.where(keep > 0, 0.5 ** (found[-1] / self.half_life_samples), 1.0)
        now = torch.where(keep > 0, found / num, 0.0)  # not a number where the step was skipped
        self.mean.copy_(torch.lerp(now[:-2], self.mean, decay))
        self.agreement.copy_(torch.lerp(now[-2], self.agreement, decay))
        # The weight of all steps so far: what divides out the zeros the averages began with.
        self.settled.copy_(torch.lerp(torch.ones_like(decay), self.settled, decay))
        enough = self._agreement() >= self.config.start_agreement
        self.begun.copy_(torch.maximum(self.begun, enough.float()))

    def _agreement(self) -> Tensor:
        return self.agreement / self.settled.clamp(min=1e-12)

    def figures(self) -> dict[str, Tensor]:
        """Mean score of the web's label; classes of the mean prediction over those of the labels.

        The number of classes is the exponential of the entropy.
        """
        if not self.open:
            return {}
        mean = self._mean()
        classes = torch.special.entr(mean / mean.sum()).sum().exp()
        frequent = torch.special.entr(self.prior).sum().exp()
        return {
            "label_agreement": self._agreement(),
            "prediction_spread": classes / frequent,
            "self_label": self.begun,
        }

    def alarm(self, figures: dict[str, float]) -> str:
        spread = figures.get("prediction_spread", 1.0)
        if not figures.get("self_label") or spread >= self.config.alarm_spread:
            return ""
        return (
            f"the self-label loss collapses: the mean prediction spreads over {spread:.2f} of the"
            f" labels' classes (loss.self_label.alarm_spread {self.config.alarm_spread:g}); begin"
            " later (start_ratio), from a run that has converged, or raise floor or prior_strength"
        )
