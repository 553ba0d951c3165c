"""A fine-tuning's run, made of the configuration of the run that it begins from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from launcher.errors import LauncherError, NotFound, UsageError
from launcher.request import Tuned
from trainer.config import RUN_KEY, FinetuneConfig, LogConfig, StartConfig, TrainConfig, dump, parse
from trainer.storage import BadAddress, StorageError, open_store
from trainer.storage import NotFound as NoObject

LR_RATIO = 0.5
"""Of the source's peak rate, as SCC's second stage; which has no warm-up, as nothing is random."""
EPOCHS_RATIO, EPOCHS_LEAST = 0.1, 1.0
"""Of the source's length: weights that have converged need to get used to the size, no more."""

INSTEAD = (
    "give --from the address of a run that can be read here (s3:// with the AWS_* variables), or "
    "call launcher submit with a file whose run says start.address"
)


@dataclass(frozen=True)
class Wishes:
    """What is asked of a fine-tuning, beside overrides."""

    size_px: int | None = None
    """Side of the training crop; None: the source's."""
    pool: Literal["default", "gem", "gem_channel"] | None = None
    """model.pool; None: the source's."""
    start: StartConfig = field(default_factory=StartConfig)
    """Without its address."""


def read_run(address: str) -> FinetuneConfig:
    """The configuration of the run at that address, its start empty where it began anew.

    Raises NotFound where there is no run, UsageError and LauncherError where it cannot be read.
    """
    try:
        text = open_store(address, attempts=2).get(RUN_KEY).decode(errors="replace")
    except BadAddress as error:
        raise UsageError(f"--from {address}: {error}") from error
    except NoObject as error:
        raise NotFound(
            f"{address} holds no run that can be read here ({error}); {INSTEAD}"
        ) from error
    except StorageError as error:
        raise LauncherError(
            f"{RUN_KEY} of --from cannot be read here: {error}; {INSTEAD}"
        ) from error
    return parse(FinetuneConfig, text, source=f"{address}/{RUN_KEY}", complete=False)


def tuned_run(source: TrainConfig, address: str, wishes: Wishes) -> tuple[Tuned, list[str]]:
    """The run that goes on from `source`, kept at `address`; and what the user should know of it.

    What belongs to the source alone is left out: its name, its folder, what it told and where.
    """
    size_px = wishes.size_px or source.input.size_px
    micro_batch = passes_of(source.update.micro_batch, source.input.size_px, size_px)
    optim = dataclasses.replace(
        source.optim,
        lr=source.optim.lr * LR_RATIO,
        lr_end=source.optim.lr_end * LR_RATIO,
        warmup_epochs=0.0,
    )
    model = dataclasses.replace(source.model, pretrained="")
    if wishes.pool is not None:
        keeps = wishes.pool != "default" and model.pool != "default"
        model = dataclasses.replace(
            model, pool=wishes.pool, pool_p=model.pool_p if keeps else TrainConfig().model.pool_p
        )
    said = {spec.name: getattr(source, spec.name) for spec in dataclasses.fields(TrainConfig)}
    said |= {
        "name": TrainConfig().name,
        "epochs": max(EPOCHS_LEAST, round(source.epochs * EPOCHS_RATIO, 2)),
        "model": model,
        "input": dataclasses.replace(source.input, size_px=size_px, start_px=0, grow_epochs=0.0),
        "optim": optim,
        "update": dataclasses.replace(source.update, micro_batch=micro_batch),
        "checkpoint": dataclasses.replace(source.checkpoint, address=""),
        "log": LogConfig(),
    }
    run = FinetuneConfig(**said, start=dataclasses.replace(wishes.start, address=address))
    notes = [
        f"begins from {address}: {source.model.network}, input.size_px={size_px} "
        f"epochs={run.epochs:g} optim.lr={optim.lr:g}, without warm-up"
    ]
    if micro_batch != source.update.micro_batch:
        notes.append(
            f"update.micro_batch is {micro_batch} in place of {source.update.micro_batch}, since "
            f"pictures of {size_px} px take {(size_px / source.input.size_px) ** 2:.1f} times the "
            "memory; an override of it wins"
        )
    return Tuned(dump(run), f"the run {address}", source.model.network), notes


def passes_of(micro_batch: int, from_px: int, to_px: int) -> int:
    """A micro-batch that takes no more memory at the larger size: an equal part of the old one.

    Equal, since a small rest would be a pass with batch statistics of its own. 0, where the trainer
    finds it by itself, stays 0.
    """
    if not micro_batch:
        return 0
    most = max(1, int(micro_batch * min(1.0, (from_px / to_px) ** 2)))
    num_passes = -(-micro_batch // most)
    return -(-micro_batch // num_passes)
