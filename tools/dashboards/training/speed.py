"""How fast it goes, over changes of size and saves."""

from __future__ import annotations

from tools.dashboards.panels import Panel, Query, Row
from tools.dashboards.training.series import (
    BLOCKED,
    DOWNLOADS,
    EVALUATION,
    HITS,
    IN_PLACE,
    JOB,
    RATE,
    UPDATE,
    WAIT,
    WORLD,
    growth,
    of_job,
)

SPEED = Row(
    "Speed",
    (
        Panel(
            "Throughput",
            "Pictures a second of all ranks. It follows the number of ranks.",
            "none",
            (Query(of_job("trainer_throughput_samples_per_second"), "{{training_job}}"),),
            width=6,
            least=0,
        ),
        Panel(
            "Throughput per GPU",
            "Pictures a second of one rank. Elasticity plays no part in it: a fall is a fault.",
            "none",
            (
                Query(
                    f"launcher:job_throughput_per_gpu:samples_per_second{{{JOB}}}",
                    "{{training_job}}",
                ),
            ),
            width=6,
            least=0,
        ),
        Panel(
            "Update time",
            "Of rank 0, waiting for data included.",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({share}, sum by (training_job, le)"
                    f" (rate(trainer_update_duration_seconds_bucket{{{JOB}}}[{RATE}])))",
                    f"{{{{training_job}}}} {name}",
                )
                for share, name in ((0.5, "p50"), (0.95, "p95"))
            ),
            width=6,
            least=0,
        ),
        Panel(
            "Where rank 0's time goes",
            "Shares of a second. All-reduce runs beside the backward pass and counts with it.",
            "percentunit",
            (
                Query(
                    f"{UPDATE} - on (training_job) {WAIT}",
                    "{{training_job}} forward, backward, all-reduce",
                ),
                Query(WAIT, "{{training_job}} data wait"),
                Query(BLOCKED, "{{training_job}} checkpoint"),
                Query(EVALUATION, "{{training_job}} evaluation"),
            ),
            "stack",
            width=6,
            least=0,
        ),
        Panel(
            "Data-wait ratio",
            (
                "Share of an update that waits for pictures. Above 10 %: more loader "
                "processes, or a faster store."
            ),
            "percentunit",
            (Query(f"{WAIT} / on (training_job) ({UPDATE} > 0)", "{{training_job}}"),),
            width=6,
            least=0,
        ),
        Panel(
            "Cache hits",
            (
                "Share of reads that the node's cache had. Low after the first epoch: "
                "data.cache_bytes is too small."
            ),
            "percentunit",
            (
                Query(
                    f"{HITS} / on (training_job) ({HITS} + on (training_job) {DOWNLOADS} > 0)",
                    "{{training_job}}",
                ),
            ),
            width=6,
            least=0,
            most=1,
            empty=IN_PLACE,
        ),
        Panel(
            "Read from the bucket",
            "By rank 0's loader processes.",
            "Bps",
            (Query(growth("trainer_shard_download_bytes_total"), "{{training_job}}"),),
            width=6,
            least=0,
        ),
        Panel(
            "Failed downloads, damaged pictures",
            (
                "Downloads are repeated before a run fails. A damaged picture is left "
                "out of the loss. By rank 0."
            ),
            "none",
            (
                Query(
                    f"increase(trainer_shard_download_failures_total{{{JOB}}}[{RATE}])",
                    "{{training_job}} failed",
                ),
                Query(of_job("trainer_damaged_samples_total"), "{{training_job}} damaged"),
            ),
            width=6,
            least=0,
            empty="no picture was damaged",
        ),
    ),
)

ELASTICITY = Row(
    "Elasticity",
    (
        Panel(
            "Ranks over time",
            "Restarts are marked in every graph.",
            "none",
            (
                Query(WORLD, "{{training_job}}"),
                Query(of_job("trainer_world_size_least"), "{{training_job}} least"),
                Query(of_job("trainer_world_size_most"), "{{training_job}} most"),
            ),
            "steps",
            least=0,
        ),
        Panel(
            "Time to come together, and to recover",
            (
                "Join: the ranks connect. Recovery: from the last line before a resume "
                "to the first update after it."
            ),
            "s",
            (
                Query(of_job("trainer_join_seconds"), "{{training_job}} join"),
                Query(of_job("trainer_recovery_seconds"), "{{training_job}} recovery"),
            ),
            "steps",
            least=0,
        ),
        Panel(
            "Lost work",
            "Updates run again after the last resume.",
            "none",
            (
                Query(of_job("trainer_lost_updates"), "{{training_job}} updates"),
                Query(of_job("trainer_generation"), "{{training_job}} starts and resumes"),
            ),
            "steps",
            least=0,
        ),
    ),
    height=6,
)

CHECKPOINTS = Row(
    "Checkpoints",
    (
        Panel(
            "Age",
            "What a loss of all workers would cost now, and the interval that is asked for.",
            "s",
            (
                Query(
                    f"time() - {of_job('trainer_checkpoint_last_timestamp_seconds')}",
                    "{{training_job}}",
                ),
                Query(of_job("trainer_checkpoint_interval_seconds"), "{{training_job}} interval"),
            ),
            width=6,
            least=0,
        ),
        Panel(
            "Time for one",
            "Blocking: training stands still. Background: uploading beside it.",
            "s",
            tuple(
                Query(
                    f"{growth(f'trainer_checkpoint_{name}_seconds_total')} / on (training_job)"
                    f" ({growth('trainer_checkpoints_total')} > 0)",
                    f"{{{{training_job}}}} {text}",
                )
                for name, text in (("blocked", "blocking"), ("background", "background"))
            ),
            width=6,
            least=0,
        ),
        Panel(
            "Size",
            "Of the last one.",
            "bytes",
            (Query(of_job("trainer_checkpoint_size_bytes"), "{{training_job}}"),),
            width=6,
            least=0,
        ),
        Panel(
            "Kept, failed, skipped",
            "Skipped: one was still under way.",
            "none",
            (
                Query(of_job("trainer_checkpoints_kept"), "{{training_job}} kept"),
                Query(of_job("trainer_checkpoint_failures_total"), "{{training_job}} failed"),
                Query(of_job("trainer_checkpoint_skipped_total"), "{{training_job}} skipped"),
            ),
            "steps",
            width=6,
            least=0,
        ),
    ),
    height=6,
)
