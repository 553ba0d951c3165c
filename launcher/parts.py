"""What verbs of independent parts share: what must be said, and into how many parts data go."""

from __future__ import annotations

import json
from collections.abc import Iterable

from launcher.errors import UsageError
from launcher.request import IndexedRequest
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


def check_said(
    request: IndexedRequest, verb: str, wanted: Iterable[tuple[str, str, object]]
) -> None:
    """Raises UsageError for what neither a flag nor an override says.

    wanted: of each thing its flag, its key and the flag's value.
    """
    said = {override.partition("=")[0] for override in request.overrides}
    for flag, key, value in wanted:
        if not value and key not in said:
            raise UsageError(f"{flag} is not given; `launcher {verb} run -h` shows how")
