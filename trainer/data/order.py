"""Which sample comes when: a pure function of the dataset, the selection, the seed and the epoch.

Nothing here depends on the number of ranks, loader processes or read-ahead, so a run may change
its size between any two updates and still see each sample exactly once an epoch. Samples stand in
`lanes` parallel sequences; position p of the epoch is sample p // lanes of lane p % lanes, and a
rank holds neighbouring lanes, hence its own shards.

Letters: N samples, C lanes, W ranks, G global batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Changes whenever the same arguments would give another order; a checkpoint of another refuses."""

Ids = NDArray[np.int64]


def words(count: int, *what: str | int) -> NDArray[np.uint64]:
    """`count` raw 64-bit words of Philox under a key made of `what`.

    Raw words, since numpy keeps bit streams over its versions but not the methods of Generator
    (NEP 19); one key a purpose, so that no two purposes share a stream.
    """
    text = "\x1f".join(str(part) for part in what).encode()
    key = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(count)
    return np.asarray(raw, dtype=np.uint64).reshape(count)


def permutation(count: int, *what: str | int) -> Ids:
    """A permutation of 0..count-1 under a key made of `what`."""
    return np.argsort(words(count, *what), kind="stable")


@dataclass(frozen=True)
class Order:
    """One epoch's order. Positions are 0 <= p < N; sample ids are rows of the dataset's index."""

    ids: Ids
    """(N,) the lanes one after the other."""
    starts: Ids
    """(C + 1,) where each lane begins in `ids`."""
    turns: Ids | None = None
    """(N,) how often each of `ids` has stood before it; None where each occurs once."""

    @property
    def num_samples(self) -> int:
        return len(self.ids)

    @property
    def lanes(self) -> int:
        return len(self.starts) - 1

    def at(self, positions: Ids) -> Ids:
        """Sample ids at positions."""
        found: Ids = self.ids[self.starts[positions % self.lanes] + positions // self.lanes]
        return found

    def local(self, start: int, stop: int, rank: int, world: int) -> Ids:
        """The sample ids among positions start <= p < stop that `rank` of `world` trains on."""
        return self.at(held(start, stop, self.lanes, rank, world))

    def local_turns(self, start: int, stop: int, rank: int, world: int) -> Ids:
        """How often each of those has stood before it in the epoch; empty where none has."""
        if self.turns is None:
            return np.empty(0, np.int64)
        return Order(self.turns, self.starts).local(start, stop, rank, world)


def build(
    shards: NDArray[np.uint32], ids: Ids | None, *, lanes: int, window: int, seed: int, epoch: int
) -> Order:
    """The order of one epoch.

    shards: (rows of the index,) the shard of each sample. ids: sorted ids to train on, or None for
    all; one may occur several times. window: samples shuffled together inside a lane. 16 M samples
    take about 3 s and 0.5 GB.
    """
    chosen = np.arange(len(shards), dtype=np.int64) if ids is None else ids.astype(np.int64)
    shard_of = shards[chosen]
    distinct = np.unique(shard_of)
    rank = np.empty(int(distinct[-1]) + 1 if len(distinct) else 0, dtype=np.int64)
    rank[distinct] = permutation(len(distinct), "shards", seed, epoch)
    sequence = chosen[np.argsort(rank[shard_of], kind="stable")]

    base, extra = divmod(len(sequence), lanes)
    starts = np.zeros(lanes + 1, dtype=np.int64)
    starts[1:] = np.cumsum([base + (lane < extra) for lane in range(lanes)])
    for lane in range(lanes):
        for block, start in enumerate(range(int(starts[lane]), int(starts[lane + 1]), window)):
            part = sequence[start : min(start + window, int(starts[lane + 1]))]
            part[:] = part[permutation(len(part), "lane", seed, epoch, lane, block)]
    sequence.setflags(write=False)
    repeated = bool((chosen[1:] == chosen[:-1]).any())
    return Order(sequence, starts, _turns(sequence) if repeated else None)


def _turns(sequence: Ids) -> Ids:
    """(N,) how often each value has occurred before."""
    by_value = np.argsort(sequence, kind="stable")
    ordered = sequence[by_value]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    places = np.arange(len(ordered))
    turns = np.empty_like(sequence)
    turns[by_value] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return turns


def resample(ids: Ids, weights: NDArray[np.float32], *, seed: int, epoch: int) -> Ids:
    """As many ids as given, ascending, each as often as its weight bids: sampling by weight.

    ids: (n,) sorted; weights: (n,) at least 0, some above. A sample of share w of the weights
    occurs floor(n w) or ceil(n w) times, n w on average over epochs: systematic resampling along a
    permutation, which varies least (Kitagawa 1996).
    """
    turn = permutation(len(ids), "sampling", seed, epoch)
    total = np.cumsum(weights[turn], dtype=np.float64)
    offset = float(words(1, "offset", seed, epoch)[0]) / 2.0**64
    reached = np.floor(total / total[-1] * len(ids) + offset).astype(np.int64)
    reached[-1] = len(ids)  # whatever rounding has made of it
    counts = np.empty(len(ids), dtype=np.int64)
    counts[turn] = np.diff(reached, prepend=0)
    repeated: Ids = np.repeat(ids, counts)
    return repeated


def lanes_of(rank: int, world: int, lanes: int) -> tuple[int, int]:
    """The half-open range of lanes that `rank` of `world` holds."""
    if not 1 <= world <= lanes:
        raise ValueError(
            f"{world} ranks cannot share {lanes} lanes; data.lanes must be at least the ranks"
        )
    return rank * lanes // world, (rank + 1) * lanes // world


def held(start: int, stop: int, lanes: int, rank: int, world: int) -> Ids:
    """The positions among start <= p < stop whose lane `rank` of `world` holds, ascending."""
    first, last = lanes_of(rank, world, lanes)
    positions = np.arange(start, stop, dtype=np.int64)
    lane = positions % lanes
    return positions[(lane >= first) & (lane < last)]


def local_sizes(start: int, stop: int, lanes: int, world: int) -> list[int]:
    """How many of the positions start <= p < stop each rank holds; every rank computes the same."""
    return [len(held(start, stop, lanes, rank, world)) for rank in range(world)]


def steps(seen: int, num_samples: int, global_batch: int) -> Iterator[tuple[int, int]]:
    """The updates left in an epoch as position ranges; the last may be short.

    seen: samples of this epoch already trained on.
    """
    for start in range(seen, num_samples, global_batch):
        yield start, min(start + global_batch, num_samples)
