"""A text filtering's work, made of what the command line says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from launcher import settings
from launcher.parts import check_said, indexes_of
from launcher.placing import absolute
from launcher.request import IndexedRequest, Work
from launcher.spec import check_address
from trainer.config import NGRAMS, EncoderConfig, JudgeConfig, TextfilterConfig

INDEX_SAMPLES = 1 << 16
"""Texts of one index: a minute on a GPU, the quarter of an hour on few cores."""


@dataclass(frozen=True)
class Wishes:
    """What is asked of a text filtering, beside overrides."""

    data: str
    model: str
    features: str
    noise: str


def work(request: IndexedRequest, wishes: Wishes) -> Work:
    """What the indexes of the job do. Raises UsageError where data or model are not said."""
    known = settings.load(os.environ, Path.cwd())
    data = check_address(wishes.data or known.get("data"), "--data")
    model = wishes.model
    wanted = ("--data", "data", data), ("--model", "encoder.model", model)
    check_said(request, "textfilter", wanted)
    if model and model != NGRAMS:
        model = absolute(request, model)
    config = TextfilterConfig(
        data=absolute(request, data),
        encoder=EncoderConfig(model=model),
        judge=JudgeConfig(features=wishes.features, noise=absolute(request, wishes.noise)),
    )
    return Work(
        program="trainer.textfilter",
        config=config,
        indexes=1 if request.local else indexes_of(data, INDEX_SAMPLES),
        stage="textfilter",
        model=Path(model).name if model else "",
        parallelism=1 if request.local else 8,
    )
