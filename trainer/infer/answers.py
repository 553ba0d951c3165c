"""Predictions that an ensemble has made, read back member by member.

Letters: n pictures of a part, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import ConfigError
from trainer.infer.members import FOLDER
from trainer.pieces import Pieces, Span, recorded, spans_of
from trainer.storage import open_store

Floats = NDArray[np.float32]
LEAST = np.float32(2.0**-25)
"""Half of float16's smallest positive number: what a kept probability of 0 stands for."""


@dataclass(frozen=True)
class Answers:
    """One member's predictions over one crop set, complete."""

    output: str
    record: dict[str, Any]
    """As trainer.infer.predictions.describe writes it."""

    @property
    def title(self) -> str:
        return f"{self.record['member']}/{self.record['crops']}"

    @property
    def spans(self) -> list[Span]:
        return spans_of(self.record["num_samples"], self.record["part_samples"])

    def parts(self) -> Iterator[tuple[Span, NDArray[Any], NDArray[np.bool_]]]:
        """Each part: (n, K) float32 probabilities or logits, and (n,) whether it could be read."""
        pieces = Pieces(self.output, self.record["pieces"])
        for span in self.spans:
            found = pieces.read(span)
            yield span, found[self.record["form"]].astype(np.float32), found["read"]


def answers_in(output: str) -> list[Answers]:
    """All complete predictions in an output, by member and crops. Raises ConfigError."""
    store = open_store(output)
    keys = [entry.key for entry in store.list(f"{FOLDER}/")]
    found = []
    for key in keys:
        parts = key.split("/")
        if len(parts) == 3 and parts[2].endswith(".json") and not _is_pin(parts[2]):
            found.append(Answers(output, recorded(store, key)))
    if not found:
        raise ConfigError(
            f"{store.address} holds no complete predictions; make them with `launcher ensemble`"
        )
    return found


def _is_pin(name: str) -> bool:
    return name == "checkpoint.json" or name.startswith("manner-")


def taken(every: Sequence[Answers], crops: str, names: Sequence[str]) -> list[Answers]:
    """Of each member the predictions over a crop set. names: of which members; empty: of all.

    crops: empty: the only one of each. Raises ConfigError.
    """
    members = list(dict.fromkeys(each.record["member"] for each in every))
    unknown = [name for name in names if name not in members]
    if unknown:
        raise ConfigError(f"there is no member {unknown[0]!r}; there are {', '.join(members)}")
    found = []
    for name in names or members:
        own = {each.record["crops"]: each for each in every if each.record["member"] == name}
        if crops and crops not in own:
            raise ConfigError(f"{name} has no predictions over {crops}; it has {', '.join(own)}")
        if not crops and len(own) > 1:
            raise ConfigError(
                f"{name} has predictions over {', '.join(own)}; name one of them with --crops"
            )
        found.append(own[crops] if crops else next(iter(own.values())))
    first = found[0].record
    for other in found:
        for key in ("dataset_sha256", "num_classes"):
            if other.record[key] != first[key]:
                raise ConfigError(
                    f"{other.title} and {found[0].title} are of different data ({key}"
                    f" {other.record[key]} and {first[key]}); predict the same data by all"
                )
    return found


def probabilities(values: NDArray[Any], form: str, temperature: float = 1.0) -> Floats:
    """(n, K) float32 probabilities that add up to 1, at a temperature. values: in the form kept."""
    logs = values if form == "logits" else np.log(np.maximum(values, LEAST))
    scaled = logs.astype(np.float32) / np.float32(temperature)
    scaled -= scaled.max(1, keepdims=True)
    found: Floats = np.exp(scaled)
    found /= found.sum(1, keepdims=True)
    return found
