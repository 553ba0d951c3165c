"""The data set of an experiment: packed already, or raw and then packed once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.experiments import children
from tools.experiments.spec import Experiment, SpecError
from trainer.storage import NotFound, StorageError, open_store

MANIFEST = "manifest.json"
SPLITS = ("train", "val")
TEST = "test"
TEST_LIST = "info/test_filelist.txt"


@dataclass(frozen=True)
class Data:
    """A packed data set."""

    train: str
    val: str
    """Addresses of both parts."""
    sha256: str
    """Of what is in it: two packs of the same pictures have the same."""
    packs: str
    """Of its manifests: checkpoints belong to them."""
    test: str = ""
    """Address of the test list's pictures, where it has one."""


def address_of(experiment: Experiment, given: str | None) -> str:
    """The folder or bucket that the option or the experiment's variable names."""
    address = given or os.environ.get(experiment.variable, "")
    if not address:
        raise SpecError(
            f"no data set given: set {experiment.variable} or DATA to WebVision's raw folder, or to"
            " one with train/ and val/ that trainer.pack has made"
        )
    return address if "://" in address else str(Path(address).expanduser().absolute())


def prepare(address: str, state: Path, lock: int, *, tested: bool = False) -> Data:
    """The data set under the address; raw files are packed into the state's folder first.

    tested: the pictures of its test list too.
    """
    if "://" in address or not Path(address, "info").is_dir():
        return look(address)
    name = hashlib.sha256(address.encode()).hexdigest()[:10]
    folder = state / "data" / name
    has_test = tested and Path(address, TEST_LIST).exists()
    for split in (*SPLITS, TEST) if has_test else SPLITS:
        if not (folder / split / MANIFEST).exists():
            _pack(
                Path(address), folder / split, split, state / "data" / f"{name}-{split}.log", lock
            )
    return look(str(folder))


def look(address: str) -> Data:
    """What is known of a packed data set. Raises SpecError."""
    content, packs = hashlib.sha256(), hashlib.sha256()
    try:
        addresses = {split: open_store(f"{address}/{split}").address for split in SPLITS}
        for split in SPLITS:
            text = open_store(addresses[split]).get(MANIFEST)
            packs.update(text)
            manifest = json.loads(text)
            for part in (manifest["index"], *manifest["shards"]):
                content.update(f"{split} {part['sha256']}\n".encode())
    except NotFound as error:
        raise SpecError(
            f"no data set at {address}: it must hold info/, as WebVision's raw files do, or train/"
            f" and val/, each with {MANIFEST}"
        ) from error
    except StorageError as error:
        raise SpecError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"{MANIFEST} in {address}/{split} is not as trainer.pack makes it"
        ) from error
    return Data(
        addresses["train"],
        addresses["val"],
        content.hexdigest()[:16],
        packs.hexdigest()[:16],
        _test_address(address),
    )


def _test_address(address: str) -> str:
    store = open_store(f"{address}/{TEST}")
    try:
        store.size(MANIFEST)
    except StorageError:
        return ""
    return store.address


def _pack(raw: Path, target: Path, split: str, log: Path, lock: int) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    children.say(f"packs {raw}, {split}, once")
    arguments = [str(raw), str(part), "--split", split]
    if children.run("trainer.pack", arguments, log=log, lock=lock):
        raise children.failure(f"cannot pack {raw} ({split})", log)
    part.rename(target)
