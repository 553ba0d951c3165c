"""The texts of a packed dataset, read back: a JSON line a sample."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trainer.data.shards import Dataset, DatasetError
from trainer.storage import open_store


def read_record(line: bytes) -> dict[str, Any]:
    """A line of a shard's texts; {} where it is no object."""
    try:
        found = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def texts_of_shard(dataset: Dataset, number: int) -> list[dict[str, Any]]:
    """The texts of a shard's samples in the order of their ids; {} for a line that is no object.

    Raises DatasetError where the dataset has none, or others than it says.
    """
    shard = dataset.shards[number]
    where = f"{dataset.address}/{shard.key}"
    if shard.texts is None:
        raise DatasetError(f"the shard {where} has no texts; pack the dataset again with its texts")
    content = open_store(dataset.address).get(shard.texts.key)
    if hashlib.sha256(content).hexdigest() != shard.texts.sha256:
        raise DatasetError(f"the texts {dataset.address}/{shard.texts.key} have another SHA-256")
    lines = content.split(b"\n")[:-1]
    if len(lines) != shard.num_samples:
        raise DatasetError(
            f"the texts of {where} are {len(lines)} lines, but it has {shard.num_samples} samples"
        )
    return [read_record(line) for line in lines]


def names_of(dataset: Dataset) -> list[str]:
    """The images' paths as their list has them, by id."""
    return [
        str(record.get("name") or "")
        for number in range(len(dataset.shards))
        for record in texts_of_shard(dataset, number)
    ]
