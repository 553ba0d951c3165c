"""Runs that lose their parts: each sample counts exactly once an epoch, and weights do not move."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.accounts import SAMPLES, exactly_once, lost
from tests.e2e.runs import Run, differing, distance, kill, launcher

EPOCHS = 5
UPDATES = EPOCHS * SAMPLES // 96
SNAPSHOT_UPDATES = 3
"""Updates between two checkpoints: a quarter of an epoch."""

FIXED = ("--workers=2", "--min-workers=2")
ELASTIC = ("--workers=2", "--min-workers=1", "--max-workers=3")
WITHOUT_BATCH_NORM = (
    "model.name=test_convnext",
    "model.width=1",
    "model.stem=default",
    "input.size_px=96",  # enough work for workers to come and go
    "update.mixup=0",
)
"""The gradient is then the same for any number of workers, but for the order of sums."""
TOLERANCE = 1e-3
"""Of a tensor's norm: what another order of sums may make of it by the end of a run."""


def test_losing_any_part_changes_no_bit(make_run: Callable[..., Run]) -> None:
    calm, storm = make_run("calm", *FIXED), make_run("storm", *FIXED)
    calm.submit()
    calm.finished()
    exactly_once(calm, EPOCHS)

    storm.submit()
    generation = storm.wait_for(7)
    kill(storm.trainers()[1])
    generation = storm.wait_for(18, generation + 1)
    kill(storm.agents()[0])
    generation = storm.wait_for(29, generation + 1)
    kill(storm.rendezvous())
    assert storm.wait_for(40, generation) == generation, "its loss stops nobody"
    launcher("cancel", storm.name, "--yes")
    launcher("wait", storm.name, "--timeout", "60s", check=False)
    assert storm.status()["state"] == "Cancelled"
    cancelled_at = storm.updates(generation)
    storm.submit()
    storm.finished()

    exactly_once(storm, EPOCHS)
    lost_updates = lost(storm)
    assert len(lost_updates) >= 3
    # One snapshot may still be on its way when the next is due.
    assert max(lost_updates.values()) <= 2 * SNAPSHOT_UPDATES
    last = [line for line in storm.metrics() if line["event"] == "start"][-1]
    assert last["parent_update"] == cancelled_at
    update, weights = storm.weights()
    calm_update, calm_weights = calm.weights()
    assert update == calm_update == UPDATES
    assert differing(weights, calm_weights) == []


def test_a_resize_in_mid_epoch_loses_no_update(make_run: Callable[..., Run]) -> None:
    calm = make_run("still", *FIXED, *WITHOUT_BATCH_NORM)
    run = make_run("elastic", *ELASTIC, *WITHOUT_BATCH_NORM)
    calm.submit()
    calm.finished()

    run.submit()
    first = run.wait_for(8)
    launcher("scale", run.name, "--workers", "3")
    second = run.wait_for(20, first + 1)
    launcher("scale", run.name, "--workers", "1")
    run.wait_for(30, second + 1)
    run.finished()

    exactly_once(run, EPOCHS)
    worlds = [line["world"] for line in run.metrics() if line["event"] == "start"]
    assert worlds[0] in (1, 2)
    assert 3 in worlds
    assert worlds[-1] == 1
    assert set(lost(run).values()) == {0}
    update, weights = run.weights()
    calm_update, calm_weights = calm.weights()
    assert update == calm_update == UPDATES
    assert distance(weights, calm_weights) <= TOLERANCE


def test_a_loss_costs_no_grace_period_with_loader_processes(make_run: Callable[..., Run]) -> None:
    # Loader processes ignore SIGTERM, so a rank that failed must not wait for them to end.
    run = make_run("loaders", *FIXED, "data.loader_processes=1", epochs=50)
    run.submit()
    generation = run.wait_for(3)
    kill(run.trainers()[1])
    shutdown_s = 240  # job.shutdown_timeout_s
    run.wait_for(4, generation + 1, timeout_s=shutdown_s / 2)
