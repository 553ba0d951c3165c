"""The fields of the losses: which one an update lowers, and what each may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.fields import section, setting


@dataclass(frozen=True)
class FocalConfig:
    """Focal loss."""

    form: Literal["softmax", "sigmoid"] = setting(
        "softmax", "one choice among the classes, or a question a class", "pictures have one label"
    )
    gamma: float = setting(
        2.0,
        "how fast easy samples lose weight; 0: cross entropy",
        "the authors'",
        unit="1",
        least=0,
        most=10,
    )
    alpha: float = setting(
        0.25, "sigmoid: weight of the own class", "the authors'", unit="ratio", least=0, most=1
    )


@dataclass(frozen=True)
class GhmConfig:
    """Gradient harmonising."""

    form: Literal["softmax", "sigmoid"] = setting(
        "softmax", "gradient norm of a sample, or of each logit", "pictures have one label"
    )
    bins: int = setting(
        30, "bins of the histogram of norms", "the authors' code", unit="bins", least=1, most=10000
    )
    momentum: float = setting(
        0.75, "what the histogram keeps an update", "the authors' code", least=0, most=0.9999
    )
    warmup_epochs: float = setting(
        1.0,
        "cross entropy for so long",
        "of 5,000 classes, all samples begin in the last bin",
        unit="epochs",
        least=0,
    )


@dataclass(frozen=True)
class GceConfig:
    """Generalised cross entropy."""

    q: float = setting(
        0.7,
        "0: cross entropy, 1: mean absolute error",
        "the authors'",
        unit="1",
        above=0,
        most=1,
    )


@dataclass(frozen=True)
class SceConfig:
    """Symmetric cross entropy."""

    alpha: float = setting(
        1.0, "weight of cross entropy", "keeps its learning rate", unit="1", least=0, most=100
    )
    beta: float = setting(
        1.0, "weight of reverse cross entropy", "the authors'", unit="1", least=0, most=100
    )
    log_zero: float = setting(
        -4.0, "what stands for log 0", "the authors'", unit="1", least=-100, most=-0.01
    )


@dataclass(frozen=True)
class BootstrapConfig:
    """Bootstrapping."""

    form: Literal["soft", "hard"] = setting(
        "hard", "the network's scores, or its first choice", "the authors' better one"
    )
    beta: float = setting(
        0.8, "share of the web's label", "the authors' for hard", unit="ratio", least=0, most=1
    )


@dataclass(frozen=True)
class ElrConfig:
    """Early-learning regularisation."""

    strength: float = setting(
        3.0, "lambda, the weight of the regulariser", "the authors'", unit="1", least=0, most=100
    )
    beta: float = setting(
        0.7, "what the memory keeps an epoch", "the authors'", unit="ratio", least=0, most=0.9999
    )
    kept_classes: int = setting(
        16,
        "largest entries kept of a sample's memory",
        "16 M samples take 1 GB on each GPU",
        unit="classes",
        least=1,
        most=4096,
    )


@dataclass(frozen=True)
class SelfLabelConfig:
    """Labels corrected by what a teacher sees."""

    teacher: Literal["checkpoint", "ema", "self"] = setting(
        "ema",
        "a run that has ended, this run's average, or the network itself",
        "needs one run; SCC's is checkpoint",
    )
    teacher_from: str = setting(
        "", "teacher checkpoint: its run's address; empty: start.address", "SCC's: the same run"
    )
    view: Literal["own", "clean"] = setting(
        "own",
        "the teacher sees the student's crop, unmixed, or the centre of the picture",
        "a clean view costs a second one",
    )
    base: Literal["softmax", "sigmoid"] = setting(
        "softmax", "cross entropy under it; SCC has sigmoid", "as the stage before"
    )
    q: float = setting(
        1.0,
        "power of the teacher's confidence in the label",
        "2, SCC's, trusts a young teacher too much",
        unit="1",
        least=0,
        most=10,
    )
    confidence: Literal["absolute", "relative"] = setting(
        "absolute", "the label's score, or over the largest score", "SCC's"
    )
    temperature: float = setting(
        0.5,
        "scores to the power 1/T; 1: soft, 0: one-hot",
        "labels are sharper than a teacher's scores; SCC's is 1",
        unit="1",
        least=0,
        most=10,
    )
    floor: float = setting(
        0.5,
        "least share of the web's label",
        "against collapse; SCC, with a teacher that has converged, has 0",
        unit="ratio",
        least=0,
        most=1,
    )
    prior_strength: float = setting(
        0.1,
        "weight of KL(class frequencies || mean prediction)",
        "against collapse",
        unit="1",
        least=0,
        most=100,
    )
    start_ratio: float = setting(
        0.5,
        "share of the run with the labels alone; 0 for a teacher that has converged",
        "begun with a young teacher it loses, or collapses",
        unit="ratio",
        least=0,
        most=1,
    )
    start_agreement: float = setting(
        0.2,
        "mean score of the labels by the teacher from which it begins",
        "a teacher below knows too little",
        unit="ratio",
        least=0,
        most=1,
    )
    alarm_spread: float = setting(
        0.5,
        "the run ends where the mean prediction has fewer classes than this share of the labels'",
        "1 of 20 was what a collapse looked like",
        unit="ratio",
        least=0,
        most=1,
    )


@dataclass(frozen=True)
class BalanceConfig:
    """Rare classes against frequent ones."""

    kind: Literal["none", "inverse_frequency", "logit_adjustment", "balanced_softmax"] = setting(
        "none", "how the loss meets the long tail", "the base line"
    )
    power: float = setting(
        1.0,
        "inverse_frequency: a class of n samples weighs n^-power each",
        "SCC's; 0.5 is half way",
        unit="1",
        least=0,
        most=2,
    )
    tau: float = setting(
        1.0, "logit_adjustment: times log frequency", "the authors'", unit="1", least=0, most=4
    )


@dataclass(frozen=True)
class LossConfig:
    """What an update lowers."""

    name: Literal[
        "cross_entropy",
        "binary_cross_entropy",
        "focal",
        "ghm",
        "gce",
        "sce",
        "bootstrap",
        "elr",
        "self_label",
    ] = setting("cross_entropy", "the loss", "the base line")
    balance: BalanceConfig = section(BalanceConfig, "the long tail")
    focal: FocalConfig = section(FocalConfig, "focal")
    ghm: GhmConfig = section(GhmConfig, "ghm")
    gce: GceConfig = section(GceConfig, "gce")
    sce: SceConfig = section(SceConfig, "sce")
    bootstrap: BootstrapConfig = section(BootstrapConfig, "bootstrap")
    elr: ElrConfig = section(ElrConfig, "elr")
    self_label: SelfLabelConfig = section(SelfLabelConfig, "self_label")
