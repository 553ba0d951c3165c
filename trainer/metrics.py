"""What a run tells: log lines for people, metrics.jsonl for later, a Prometheus endpoint for now.

Only rank 0 tells. Lines of metrics.jsonl are described in docs/formats.md.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trainer.storage import NotFound, StorageError, Store

logger = logging.getLogger(__name__)

METRICS_KEY = "metrics.jsonl"
"""Key of the lines, in the run's folder."""
UPLOAD_EVERY_S = 30.0
"""Span between uploads of the lines to a bucket: each is one PUT of the whole object."""

TABLE: dict[str, tuple[str, str]] = {
    "trainer_samples_total": ("counter", "Samples trained on since the run began."),
    "trainer_samples_goal": ("gauge", "Samples the run will have trained on at its end."),
    "trainer_updates_total": ("counter", "Optimiser steps since the run began."),
    "trainer_epoch_samples": ("gauge", "Samples in an epoch."),
    "trainer_world_size": ("gauge", "Ranks training together."),
    "trainer_world_size_least": ("gauge", "Ranks below which an elastic run waits."),
    "trainer_world_size_most": ("gauge", "Ranks that an elastic run takes at most."),
    "trainer_generation": ("gauge", "How often the run has been started or resumed."),
    "trainer_throughput_samples_per_second": ("gauge", "Samples a second, all ranks."),
    "trainer_loss": ("gauge", "Mean training loss since the line before."),
    "trainer_train_top1_ratio": ("gauge", "Training top-1 accuracy since the line before (0-1)."),
    "trainer_label_agreement_ratio": ("gauge", "Self-label: mean score of the labels (0-1)."),
    "trainer_prediction_spread_ratio": ("gauge", "Self-label: classes predicted, over labelled."),
    "trainer_learning_rate": ("gauge", "Learning rate of the last update."),
    "trainer_gradient_norm": ("gauge", "Gradient norm of the last update."),
    "trainer_nonfinite_updates_total": ("counter", "Updates skipped for a non-finite gradient."),
    "trainer_damaged_samples_total": ("counter", "Samples that could not be read, on rank 0."),
    "trainer_data_wait_seconds_total": ("counter", "Time rank 0 waited for batches (in s)."),
    "trainer_update_seconds_total": ("counter", "Time rank 0 spent in updates (in s)."),
    "trainer_update_duration_seconds": ("histogram", "Time of one update on rank 0 (in s)."),
    "trainer_evaluation_seconds_total": ("counter", "Time spent evaluating (in s)."),
    "trainer_validation_loss": ("gauge", "Validation loss of the averaged weights."),
    "trainer_validation_top1_ratio": ("gauge", "Validation top-1 accuracy (0-1)."),
    "trainer_validation_top5_ratio": ("gauge", "Validation top-5 accuracy (0-1)."),
    "trainer_validation_class_top1_ratio": ("gauge", "Top-1, mean over classes (0-1)."),
    "trainer_validation_class_top5_ratio": ("gauge", "Top-5, mean over classes (0-1)."),
    "trainer_checkpoints_total": ("counter", "Checkpoints committed by this process."),
    "trainer_checkpoints_kept": ("gauge", "Checkpoints that the last retention left."),
    "trainer_checkpoint_failures_total": ("counter", "Checkpoints that failed."),
    "trainer_checkpoint_skipped_total": ("counter", "Checkpoints skipped, one being under way."),
    "trainer_checkpoint_blocked_seconds_total": ("counter", "Training stood still for it (in s)."),
    "trainer_checkpoint_background_seconds_total": ("counter", "Uploading beside it (in s)."),
    "trainer_checkpoint_interval_seconds": ("gauge", "Most time between two of them (in s)."),
    "trainer_checkpoint_size_bytes": ("gauge", "Size of the last checkpoint (in bytes)."),
    "trainer_checkpoint_last_timestamp_seconds": ("gauge", "When the last was committed."),
    "trainer_shard_hits_total": ("counter", "Samples found in the node's cache, on rank 0."),
    "trainer_shard_downloads_total": ("counter", "Shards that rank 0 downloaded."),
    "trainer_shard_download_bytes_total": ("counter", "Size of what rank 0 downloaded (in bytes)."),
    "trainer_shard_download_failures_total": ("counter", "Downloads of rank 0 that failed."),
    "trainer_gpu_memory_bytes": ("gauge", "Most memory in tensors on rank 0's GPU (in bytes)."),
    "trainer_join_seconds": ("gauge", "Time that the ranks took to connect last (in s)."),
    "trainer_recovery_seconds": (
        "gauge",
        "From the last line before the resume to an update (in s).",
    ),
    "trainer_lost_updates": ("gauge", "Updates run again after the last resume, at least."),
    "trainer_update_last_timestamp_seconds": ("gauge", "When the last update was logged."),
}
"""Every metric of the endpoint: type and help with its unit."""

BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
"""Upper ends of the histogram's buckets, in s; one above them all has no end."""


class Endpoint(Collector):
    """The Prometheus endpoint of rank 0: the values of TABLE, each labelled with the run's name.

    The label is training_job, since a scrape gives `job` a meaning of its own.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.values: dict[str, float] = {}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._update_s = 0.0

    def set(self, **values: float) -> None:
        """Sets metrics by their names without trainer_. Raises KeyError for an unknown one."""
        for name, value in values.items():
            full = f"trainer_{name}"
            TABLE[full]
            self.values[full] = value

    def observe_update(self, elapsed_s: float) -> None:
        """Counts an update into the histogram of their durations."""
        self._buckets[bisect.bisect_left(BUCKETS_S, elapsed_s)] += 1
        self._update_s += elapsed_s

    def collect(self) -> list[Metric]:
        """The values as they are now."""
        families: list[Metric] = [self._durations()] if any(self._buckets) else []
        for name, value in sorted(self.values.items()):
            kind, text = TABLE[name]
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, text, labels=["training_job"])
            metric.add_metric([self.run], value)
            families.append(metric)
        return families

    def _durations(self) -> Metric:
        name = "trainer_update_duration_seconds"
        ends = [*(str(end) for end in BUCKETS_S), "+Inf"]
        sums = list(zip(ends, itertools.accumulate(self._buckets), strict=True))
        metric = HistogramMetricFamily(name, TABLE[name][1], labels=["training_job"])
        metric.add_metric([self.run], sums, self._update_s)
        return metric

    def serve(self, port: int) -> int:
        """Serves /metrics on the port, or on any free one where it is taken. Returns the port."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            server, _ = start_http_server(port, registry=registry)
        except OSError as error:
            server, _ = start_http_server(0, registry=registry)
            logger.warning("metrics port %d is taken (%s): using another", port, error.strerror)
        return int(server.server_port)


class Lines:
    """The run's metrics.jsonl: kept in memory, put as a whole beside training.

    A store that fails delays lines, it does not stop training; the next put has them all.
    """

    def __init__(self, store: Store, generation: int, clock: Callable[[], float] = time.time):
        self.store, self.generation, self.clock = store, generation, clock
        self.every_s = 0.0 if store.address.startswith("file:") else UPLOAD_EVERY_S
        self.pool = ThreadPoolExecutor(1, "metrics")
        self.pending: Future[None] | None = None
        self.uploaded_at = 0.0
        try:
            self.text = store.get(METRICS_KEY).decode()
        except NotFound:
            self.text = ""
        if self.text and not self.text.endswith("\n"):
            self.text += "\n"

    def last_at(self) -> float | None:
        """When the last line was written, in Unix seconds; None where there is none."""
        for line in reversed(self.text.splitlines()):
            with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
                return float(json.loads(line)["at"])
        return None

    def last_update(self) -> int:
        """The highest update that any line tells of; 0 where none does."""
        updates = [0]
        for line in self.text.splitlines():
            try:
                updates.append(int(json.loads(line).get("update", 0)))
            except (ValueError, AttributeError, TypeError):
                continue  # a torn line of another writer says nothing
        return max(updates)

    def add(self, event: str, **values: Any) -> None:
        """Adds a line, and puts them all where the span since the last put is over.

        JSON knows no NaN and no infinity: null stands for them.
        """
        now = self.clock()
        line = {"event": event, "at": round(now, 3), "generation": self.generation}
        line |= {key: value if _is_json(value) else None for key, value in values.items()}
        self.text += json.dumps(line, allow_nan=False) + "\n"
        busy = self.pending is not None and not self.pending.done()
        if not busy and now - self.uploaded_at >= self.every_s:
            self.uploaded_at = now
            self.pending = self.pool.submit(self._put, self.text)

    def flush(self) -> None:
        """Puts all lines and waits for it."""
        self.pool.submit(self._put, self.text).result()

    def _put(self, text: str) -> None:
        try:
            self.store.put(METRICS_KEY, text.encode())
        except StorageError as error:
            logger.warning("metrics not stored now, later lines will bring them: %s", error)


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def log_line(seen: int, goal: int, values: Mapping[str, float], world: int) -> str:
    """One line for people: seen 1,280/12,800  loss 3.214  top1 0.412  lr 0.087  512 img/s ..."""
    workers = "1 worker" if world == 1 else f"{world} workers"
    return (
        f"seen {seen:,}/{goal:,}  loss {values['loss']:.3f}  top1 {values['top1']:.3f}"
        f"  lr {values['lr']:.4f}  {values['samples_per_s']:,.0f} img/s  {workers}"
    )
