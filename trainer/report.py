"""What rank 0 tells while a run trains: log lines, metrics.jsonl, the Prometheus endpoint."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict

import torch

from trainer.checkpoint import Keeper
from trainer.config import TrainConfig
from trainer.data.cache import Fetched
from trainer.exits import Collapsed, NonFinite
from trainer.learn.engine import State
from trainer.learn.evaluation import Accuracy
from trainer.metrics import Endpoint, Lines, log_line
from trainer.world import World

logger = logging.getLogger(__name__)


class Report:
    """The run's figures at each interval. Every rank has one; rank 0's alone has lines."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        *,
        goal: int,
        epoch_samples: int,
        lines: Lines | None,
    ) -> None:
        self.config, self.world, self.lines = config, world, lines
        self.goal, self.epoch_samples = goal, epoch_samples
        self.endpoint = Endpoint(config.name)
        self.logged_at = self.logged_seen = 0.0
        self.first_update = 0
        self.damaged = 0
        self.nonfinite = 0.0
        self.evaluation_s = 0.0
        self.update_s = 0.0
        self.fetched = Fetched()
        self.went_on_after: float | None = None
        if lines is not None and config.log.metrics_port:
            port = self.endpoint.serve(config.log.metrics_port)
            logger.info("metrics at http://127.0.0.1:%d/metrics", port)

    def start(self, state: State, generation: int, parent_update: int) -> None:
        """Tells from where this generation goes on."""
        self.logged_at, self.logged_seen = time.monotonic(), state.seen
        self.first_update = state.updates
        self.endpoint.set(
            world_size=self.world.size,
            generation=generation,
            samples_goal=self.goal,
            epoch_samples=self.epoch_samples,
            join_seconds=self.world.join_s,
            checkpoint_interval_seconds=self.config.checkpoint.every_s,
        )
        if (sizes := elastic_sizes(os.environ)) is not None:
            self.endpoint.set(world_size_least=sizes[0], world_size_most=sizes[1])
        if self.lines is None:
            return
        self.went_on_after = self.lines.last_at()
        lost = max(0, self.lines.last_update() - parent_update)
        self.endpoint.set(lost_updates=lost)
        self.lines.add(
            "start",
            **self._position(state),
            parent_update=parent_update,
            goal=self.goal,
            epoch_samples=self.epoch_samples,
            lost_updates=lost,
        )
        logger.info(
            "generation %d goes on from update %d, seen %d of %d, world size %d",
            generation,
            parent_update,
            state.seen,
            self.goal,
            self.world.size,
        )

    def due(self, state: State) -> bool:
        """Whether rank 0 wants to tell after this update: the first one, and each interval."""
        first = state.updates == self.first_update
        return first or time.monotonic() - self.logged_at >= self.config.log.every_s

    def updated(self, state: State) -> None:
        """Counts the update that was just done, and tells of the first one how long it was in
        coming."""
        self.endpoint.observe_update(state.timings["step"] - self.update_s)
        self.update_s = state.timings["step"]
        if self.went_on_after is not None:
            self.endpoint.set(recovery_seconds=max(0.0, time.time() - self.went_on_after))
            self.went_on_after = None

    def tell(self, state: State, lr: float, keeper: Keeper | None) -> None:
        """Reads the device's counters and tells them. Every rank must call it.

        Raises NonFinite on every rank after update.nonfinite_limit skipped updates in a row, and
        Collapsed where the loss sounds its alarm.
        """
        read = state.counters.read()
        figures = {name: float(value) for name, value in state.loss.figures().items()}
        self.nonfinite += read["nonfinite"]
        sums = self.world.sum(torch.tensor([read["loss"], read["weight"], read["correct"]]))
        loss, weight, correct = sums.tolist()
        elapsed_s = max(1e-9, time.monotonic() - self.logged_at)
        rate = (state.seen - self.logged_seen) / elapsed_s
        self.logged_at, self.logged_seen = time.monotonic(), state.seen
        values = {
            "loss": loss / weight if weight else math.nan,
            "top1": correct / weight if weight else math.nan,
            "lr": lr,
            "samples_per_s": rate,
            "grad_norm": read["grad_norm"],
            **figures,
        }
        if self.lines is not None:
            logger.info("%s", log_line(state.seen, self.goal, values, self.world.size))
            self.lines.add("train", **self._position(state), **values, nonfinite=self.nonfinite)
            self._gauges(state, values, keeper)
        if read["in_a_row"] >= self.config.update.nonfinite_limit:
            self.end(state, "nonfinite")
            raise NonFinite(
                f"{read['in_a_row']:.0f} updates in a row had a non-finite loss or gradient"
                f" (update.nonfinite_limit {self.config.update.nonfinite_limit}) at update"
                f" {state.updates}; lower optim.lr, set optim.clip_norm or update.precision=fp32"
            )
        if problem := state.loss.alarm(figures):
            self.end(state, "collapsed")
            raise Collapsed(f"{problem} (update {state.updates})")

    def evaluated(self, state: State, result: Accuracy, elapsed_s: float) -> None:
        """Tells an evaluation's result."""
        self.evaluation_s += elapsed_s
        if self.lines is None:
            return
        self.lines.add(
            "evaluate", **self._position(state), **asdict(result), elapsed_s=round(elapsed_s, 3)
        )
        logger.info(
            "validation top1 %.4f  top5 %.4f  class top1 %.4f  top5 %.4f  loss %.4f  (%d pictures)",
            result.top1,
            result.top5,
            result.class_top1,
            result.class_top5,
            result.loss,
            result.num_samples,
        )
        self.endpoint.set(
            validation_loss=result.loss,
            validation_top1_ratio=result.top1,
            validation_top5_ratio=result.top5,
            validation_class_top1_ratio=result.class_top1,
            validation_class_top5_ratio=result.class_top5,
            evaluation_seconds_total=self.evaluation_s,
        )

    def unreadable(self, names: tuple[str, ...]) -> None:
        """Counts damaged samples and names the first of them."""
        for name in names:
            self.damaged += 1
            if self.damaged <= 20:
                logger.warning("left out of the loss: %s", name)
        self.endpoint.set(damaged_samples_total=self.damaged)

    def took(self, fetched: Fetched) -> None:
        """Adds up what a batch's loader process had from the node's cache."""
        self.fetched += fetched

    def end(self, state: State, reason: str) -> None:
        """Tells the end of this generation, and puts all lines."""
        if self.lines is not None:
            self.lines.add("end", **self._position(state), reason=reason)
            self.lines.flush()

    def _position(self, state: State) -> dict[str, float]:
        return {
            "update": state.updates,
            "seen": state.seen,
            "epoch": round(state.seen / self.epoch_samples, 4),
            "world": self.world.size,
        }

    def _gauges(self, state: State, values: dict[str, float], keeper: Keeper | None) -> None:
        self.endpoint.set(
            samples_total=state.seen,
            updates_total=state.updates,
            throughput_samples_per_second=values["samples_per_s"],
            loss=values["loss"],
            train_top1_ratio=values["top1"],
            learning_rate=values["lr"],
            gradient_norm=values["grad_norm"],
            nonfinite_updates_total=self.nonfinite,
            data_wait_seconds_total=state.timings["data"],
            update_seconds_total=state.timings["step"],
            update_last_timestamp_seconds=time.time(),
            shard_hits_total=self.fetched.hits,
            shard_downloads_total=self.fetched.downloads,
            shard_download_bytes_total=self.fetched.download_bytes,
            shard_download_failures_total=self.fetched.failures,
        )
        for figure in ("label_agreement", "prediction_spread"):
            if figure in values:
                self.endpoint.set(**{f"{figure}_ratio": values[figure]})
        if self.world.device.type == "cuda":
            most_bytes = torch.cuda.max_memory_allocated(self.world.device)
            self.endpoint.set(gpu_memory_bytes=most_bytes)
        if keeper is None:
            return
        self.endpoint.set(
            checkpoints_total=keeper.saves,
            checkpoints_kept=keeper.kept,
            checkpoint_failures_total=keeper.failures,
            checkpoint_skipped_total=keeper.skipped,
            checkpoint_blocked_seconds_total=keeper.blocked_s,
            checkpoint_background_seconds_total=keeper.background_s,
            checkpoint_size_bytes=keeper.last_bytes,
        )
        if keeper.last_saved_at:
            self.endpoint.set(checkpoint_last_timestamp_seconds=keeper.last_saved_at)


def elastic_sizes(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Least and most ranks of the run, by its agent's variables; None where they say nothing."""
    least, _, most = environment.get("PET_NNODES", "").partition(":")
    ranks = environment.get("PET_NPROC_PER_NODE", "1")
    if not (least.isdigit() and (most or least).isdigit() and ranks.isdigit()):
        return None
    return int(least) * int(ranks), int(most or least) * int(ranks)
