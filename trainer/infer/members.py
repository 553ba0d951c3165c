"""The networks of an ensemble: whose predictions stand in an output, and of which checkpoint.

<output>/members/<name>/checkpoint.json    the first to predict writes it; the others keep to it
<output>/members/<name>/manner-<key>.json  how the network is asked, likewise: numbers differ
                                           in their last digits from one manner to another
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from dataclasses import dataclass

import torch

from trainer.checkpoint import CheckpointError, Which
from trainer.config import ConfigError, EnsembleConfig
from trainer.infer import forward
from trainer.infer.forward import Calibration, Forward, Manner
from trainer.learn.placement import has_compiler
from trainer.pieces import agreed, recorded
from trainer.runs import Source, open_named, open_run
from trainer.storage import NotFound, Store

logger = logging.getLogger(__name__)

FOLDER = "members"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Member:
    """A network whose predictions are made."""

    name: str
    """Of its run; unique in an output."""
    source: Source
    checkpoint: str
    """SHA-256 over the checkpoint's objects: another one gives other predictions."""

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.name}"


def open_members(store: Store, config: EnsembleConfig) -> list[Member]:
    """The members that a configuration names. Raises ConfigError, StorageError."""
    sources: list[Source] = []
    for address in config.runs:
        source = open_named("runs", address, config.which)
        if not NAME.fullmatch(source.config.name):
            raise ConfigError(
                f"runs: {address} is named {source.config.name!r}; predictions are kept in a folder"
                " of that name, so it must be of letters, digits, dots, hyphens and underscores"
            )
        for other in sources:
            if other.config.name == source.config.name:
                raise ConfigError(
                    f"runs: {other.address} and {address} are both named {source.config.name};"
                    " predictions are kept by name, so each needs one of its own"
                )
            if other.num_classes != source.num_classes:
                raise ConfigError(
                    f"runs: {other.address} has {other.num_classes} classes, but {address} has"
                    f" {source.num_classes}; they must be of the same classes"
                )
        sources.append(source)
    return [_begun(store, source, config.which) for source in sources]


def _begun(store: Store, source: Source, which: Which) -> Member:
    """A run's member: of the checkpoint that its predictions in this output were begun with."""
    name, address = source.config.name, source.address
    ours = {
        "run": address,
        "which": which,
        "update": source.manifest.update,
        "manifest": source.manifest.key,
        "sha256": checkpoint_sha256(source),
    }
    begun = agreed(store, f"{FOLDER}/{name}/checkpoint.json", ours)
    where = f"{store.address}/{FOLDER}/{name}"
    if begun.get("run") != address:
        raise ConfigError(
            f"{where} holds predictions of {begun.get('run')}, and {address} has the same name;"
            " name another output"
        )
    if begun.get("sha256") != ours["sha256"]:
        told = (
            f"{where} was begun with the {begun.get('which')} checkpoint of {address} at update"
            f" {begun.get('update')}, but its {which} one is now at update {ours['update']}"
        )
        if begun.get("which") != which:
            raise ConfigError(f"{told}; name another output")
        try:
            source = open_run(address, which, str(begun.get("manifest")))
        except CheckpointError as error:
            raise ConfigError(f"{told}, and the other is gone; name another output") from error
        if begun["sha256"] != checkpoint_sha256(source):
            raise ConfigError(f"{told}; name another output")
        logger.info("%s; going on with that of update %s", told, begun["update"])
    return Member(name, source, begun["sha256"])


def checkpoint_sha256(source: Source) -> str:
    """Names a checkpoint by what is in it."""
    whole = hashlib.sha256()
    for each in source.manifest.objects:
        whole.update(f"{each.sha256}\n".encode())
    return whole.hexdigest()


def asked(config: EnsembleConfig) -> list[object]:
    """What a configuration says about how networks are asked."""
    return [config.precision, config.layout, config.compile, config.batch]


def manner_key(member: Member, config: EnsembleConfig, device: torch.device) -> str:
    """Where it stands how the member's network is asked."""
    told = json.dumps([member.checkpoint, device.type, *asked(config)])
    return f"{member.folder}/manner-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def open_forward(
    store: Store,
    member: Member,
    config: EnsembleConfig,
    side_px: int,
    num_views: int,
    device: torch.device,
    calibration: Calibration,
) -> Forward:
    """The member's network, asked as in all of this output.

    side_px, num_views: of the views that it will be asked about here. calibration: for int8.
    """
    key = manner_key(member, config, device)
    network, input = member.source.network(), member.source.config.input
    try:
        record = recorded(store, key)
    except NotFound:
        found = forward.choose(network, input, config, side_px, num_views, device)
        record = agreed(store, key, dataclasses.asdict(found))
    manner = Manner(**record)
    logger.info("%s is asked with %s", member.name, record)
    if manner.compiled == "inductor" and not has_compiler(device):
        logger.warning("%s: no compiler here, so last digits may differ", member.name)
        manner = dataclasses.replace(manner, compiled="off")
    return Forward(network, input, manner, device, calibration)
