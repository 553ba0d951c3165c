"""How far a run is, from the metrics and checkpoints in its own folder of the object store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from launcher.status import Progress
from trainer.storage import NotFound, StorageError, Store, open_store

METRICS_KEY = "metrics.jsonl"
TAIL_BYTES = 64 * 1024
"""The last few hundred lines."""
TIMEOUT_S = 3.0
"""For one answer of the store, asked once: a status shall not wait for a store that is away."""


def read_progress(address: str, now: datetime) -> Progress | str:
    """The progress; or, in words, why it is not known."""
    try:
        store = open_store(
            address, connect_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S, attempts=1
        )
        size = store.size(METRICS_KEY)
        start = max(0, size - TAIL_BYTES)
        text = store.get(METRICS_KEY, start, size - start).decode(errors="replace")
        saved_at = newest_checkpoint(store)
    except NotFound:
        return "it has written no metrics yet"
    except (StorageError, OSError) as error:
        return " ".join(str(error).split())
    return from_lines(text.splitlines()[1 if start else 0 :], saved_at, now)


def newest_checkpoint(store: Store) -> float | None:
    """When the newest checkpoint was committed (its manifest written), in Unix seconds."""
    moments = [
        entry.modified_at for entry in store.list("step-") if entry.key.endswith("/manifest.json")
    ]
    return max(moments, default=None)


def from_lines(lines: Sequence[str], saved_at: float | None, now: datetime) -> Progress | str:
    """The progress that the end of metrics.jsonl tells (docs/formats.md has the lines)."""
    known = [line for text in lines if (line := _parse(text)) is not None]
    train = next((line for line in reversed(known) if line["event"] == "train"), None)
    start = next((line for line in reversed(known) if "goal" in line), None)
    last = known[-1] if known else None
    if last is None or (train is None and start is None):
        return "it has made no update yet"
    goal = int((start or {}).get("goal", 0))
    seen, rate = int(last["seen"]), (train or {}).get("samples_per_s")
    return Progress(
        seen=seen,
        goal=goal,
        epoch=float(last["epoch"]),
        world=int(last["world"]),
        samples_per_s=rate,
        loss=(train or {}).get("loss"),
        eta_s=round((goal - seen) / rate, 1) if goal and rate else None,
        at=datetime.fromtimestamp(last["at"], UTC).isoformat(timespec="seconds"),
        checkpoint_age_s=None if saved_at is None else round(max(0.0, now.timestamp() - saved_at)),
    )


def _parse(text: str) -> dict[str, Any] | None:
    """A whole line that has what every line of an update has; None for another."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    needed = ("event", "at", "seen", "epoch", "world")
    return line if isinstance(line, dict) and all(key in line for key in needed) else None
