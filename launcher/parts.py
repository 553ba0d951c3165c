"""Into how many parts a dataset is divided for a job of independent parts."""

from __future__ import annotations

import json

from trainer.storage import StorageError, open_store

MOST_INDEXES = 256
UNKNOWN_INDEXES = 8
"""Where the dataset cannot be read here."""


def indexes_of(data: str, samples: int) -> int:
    """Parts of about so many samples, by the dataset's manifest where it can be read from here."""
    try:
        manifest = json.loads(open_store(data, attempts=1).get("manifest.json"))
        count = int(manifest["num_samples"])
    except (StorageError, ValueError, KeyError, TypeError):
        return UNKNOWN_INDEXES
    return max(1, min(MOST_INDEXES, -(-count // samples)))
