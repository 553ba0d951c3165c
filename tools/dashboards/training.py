"""The dashboard "Training job": is it healthy, does it learn, how fast, at which price."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, Variable

UID = "launcher-training-job"
JOB = 'training_job=~"$training_job"'
RATE = "$__rate_interval"


def of_job(metric: str, how: str = "max") -> str:
    """The trainer's value of each job, whichever of its pods tells it."""
    return f"{how} by (training_job) ({metric}{{{JOB}}})"


def growth(metric: str) -> str:
    """What a counter of the trainer adds in a second."""
    return f"sum by (training_job) (rate({metric}{{{JOB}}}[{RATE}]))"


def of_gpu(metric: str) -> str:
    """A value of each GPU that a job holds, by node and number."""
    pods = (
        f"max by (cluster, Hostname, gpu, training_job) (launcher:gpu_engine_active:ratio{{{JOB}}})"
    )
    return (
        f"max by (cluster, Hostname, gpu) ({metric}) * on (cluster, Hostname, gpu)"
        f" group_left (training_job) ({pods} * 0 + 1)"
    )


SEEN, GOAL = of_job("trainer_samples_total"), of_job("trainer_samples_goal")
EPOCH = of_job("trainer_epoch_samples")
WORLD = of_job("trainer_world_size")
UPDATED_S = f"time() - {of_job('trainer_update_last_timestamp_seconds')}"
STATE = (
    f"2 * ({SEEN} >= bool on (training_job) {GOAL}) + on (training_job) ({UPDATED_S} < bool 1200)"
    f" or on (training_job) 0 * launcher:job:info{{{JOB}}} - 1"
)
ETA = (
    f"({GOAL} - on (training_job) {SEEN}) / on (training_job) "
    f"(avg_over_time(trainer_throughput_samples_per_second{{{JOB}}}[10m]) > 0)"
)
INTERVALS = (
    f"(time() - {of_job('trainer_checkpoint_last_timestamp_seconds')})"
    f" / on (training_job) ({of_job('trainer_checkpoint_interval_seconds')} > 0)"
)
RESUMED = (
    f"max by (training_job) (max_over_time(trainer_generation{{{JOB}}}[24h]))"
    f" - min by (training_job) (min_over_time(trainer_generation{{{JOB}}}[24h]))"
)
ENDED = (
    "count by (reason) (max by (cluster, namespace, pod, uid, reason) (max_over_time("
    'kube_pod_container_status_terminated_reason{reason!="Completed"}[24h])) > 0'
    " and on (cluster, namespace, pod) max by (cluster, namespace, pod)"
    f" (max_over_time(launcher:pod:info{{{JOB}}}[24h])))"
)
WAIT = growth("trainer_data_wait_seconds_total")
UPDATE = growth("trainer_update_seconds_total")
BLOCKED = growth("trainer_checkpoint_blocked_seconds_total")
EVALUATION = growth("trainer_evaluation_seconds_total")
HITS = growth("trainer_shard_hits_total")
DOWNLOADS = growth("trainer_shard_downloads_total")
GPUS = f"sum by (training_job) (launcher:job_gpus:sum{{{JOB}}})"
NONE = f"on (training_job) 0 * {UPDATE}"
"""Before the first checkpoint or evaluation there is no series of them."""
BUSY = (
    f"{UPDATE} + on (training_job) ({BLOCKED} or {NONE})"
    f" + on (training_job) ({EVALUATION} or {NONE})"
)
PRODUCTIVE = f"({UPDATE} - on (training_job) {WAIT}) * on (training_job) {WORLD}"

IN_PLACE = "shards of a folder are read in place, without the node's cache"
NO_GPU = "needs NVIDIA's DCGM exporter"
NO_KUBE = "needs kube-state-metrics; nothing was lost"
ONCE_RESUMED = "only after a resume"

HEALTH = Row(
    "Is it healthy?",
    (
        Panel(
            "State",
            (
                "Trains: an update within 20 minutes. Stands: none. Starts: no trainer "
                "tells anything yet, or any more."
            ),
            "none",
            (Query(STATE, "{{training_job}}"),),
            "stat",
            4,
            names={
                -1: ("starts", "blue"),
                0: ("stands", "red"),
                1: ("trains", "green"),
                2: ("done", "text"),
                3: ("done", "text"),
            },
            no_value="no such job",
        ),
        Panel(
            "Epoch",
            "Epochs seen, and how many the run will have.",
            "none",
            (
                Query(f"{SEEN} / on (training_job) {EPOCH}", "now"),
                Query(f"{GOAL} / on (training_job) {EPOCH}", "of"),
            ),
            "stat",
            4,
            decimals=1,
        ),
        Panel(
            "Done in",
            "What is left, at the speed of the last 10 minutes.",
            "s",
            (Query(ETA, "{{training_job}}"),),
            "stat",
            3,
            no_value="not at this rate",
        ),
        Panel(
            "Pictures a second",
            "Of all ranks together, now.",
            "none",
            (Query(of_job("trainer_throughput_samples_per_second"), "{{training_job}}"),),
            "stat",
            3,
            decimals=0,
        ),
        Panel(
            "Ranks",
            (
                "How many train together now, below how many the run waits, and how many "
                "it takes at most."
            ),
            "none",
            (
                Query(WORLD, "now"),
                Query(of_job("trainer_world_size_least"), "least"),
                Query(of_job("trainer_world_size_most"), "most"),
            ),
            "stat",
            4,
        ),
        Panel(
            "Checkpoint age",
            "In intervals of the run: the work that a loss would cost. Red above 2.",
            "suffix:× interval",
            (Query(INTERVALS, "{{training_job}}"),),
            "stat",
            3,
            red_above=(1.2, 2),
            decimals=1,
            no_value="none yet",
        ),
        Panel(
            "Validation top-1",
            "Of the averaged weights, at the last evaluation.",
            "percentunit",
            (Query(of_job("trainer_validation_top1_ratio"), "{{training_job}}"),),
            "stat",
            3,
            decimals=1,
            no_value="not evaluated yet",
        ),
        Panel(
            "Resumes in 24 h",
            "How often the group of ranks was formed anew.",
            "none",
            (Query(RESUMED, "{{training_job}}"),),
            "stat",
            6,
            red_above=(1, 10),
        ),
        Panel(
            "Containers ended in 24 h, by reason",
            "Completed ones aside. OOMKilled: more memory, or fewer loader processes.",
            "none",
            (Query(ENDED, "{{reason}}"),),
            "stat",
            6,
            red_above=(1, 10),
            shown="value_and_name",
            no_value="none",
            empty=NO_KUBE,
        ),
        Panel(
            "GPU-days so far",
            "GPUs that the job has held within the range of time above, added up.",
            "suffix:GPU-days",
            (
                Query(
                    f"sum_over_time(launcher:job_gpus:sum{{{JOB}}}[$__range:1m]) / 1440",
                    "{{training_job}}",
                ),
            ),
            "stat",
            6,
            decimals=2,
        ),
        Panel(
            "Updates",
            "Optimiser steps since the run began.",
            "none",
            (Query(of_job("trainer_updates_total"), "{{training_job}}"),),
            "stat",
            6,
            decimals=0,
        ),
    ),
    height=4,
)


LEARNING = Row(
    "Learning",
    (
        Panel(
            "Loss",
            "Training: the mean since the line before. Validation: of the averaged weights.",
            "none",
            (
                Query(of_job("trainer_loss"), "{{training_job}} training"),
                Query(of_job("trainer_validation_loss"), "{{training_job}} validation"),
            ),
            width=6,
        ),
        Panel(
            "Accuracy",
            (
                "Top-1 of training sees augmented pictures and noisy labels; it may lie "
                "below that of validation."
            ),
            "percentunit",
            (
                Query(of_job("trainer_train_top1_ratio"), "{{training_job}} top-1, training"),
                Query(of_job("trainer_validation_top1_ratio"), "{{training_job}} top-1"),
                Query(of_job("trainer_validation_top5_ratio"), "{{training_job}} top-5"),
                Query(
                    of_job("trainer_validation_class_top1_ratio"),
                    "{{training_job}} top-1, mean over classes",
                ),
                Query(
                    of_job("trainer_validation_class_top5_ratio"),
                    "{{training_job}} top-5, mean over classes",
                ),
            ),
            width=6,
            least=0,
        ),
        Panel(
            "Learning rate",
            "Of the last update.",
            "none",
            (Query(of_job("trainer_learning_rate"), "{{training_job}}"),),
            width=6,
        ),
        Panel(
            "Gradient norm and skipped updates",
            "Updates with a non-finite gradient are skipped; many in a row end the run.",
            "none",
            (
                Query(of_job("trainer_gradient_norm"), "{{training_job}} norm"),
                Query(
                    f"increase(trainer_nonfinite_updates_total{{{JOB}}}[{RATE}])",
                    "{{training_job}} skipped",
                ),
            ),
            width=6,
        ),
    ),
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

GPU = Row(
    "GPU",
    (
        Panel(
            "Engine active",
            "Share of time that a GPU computes. Cards without profiling tell their utilisation.",
            "percentunit",
            (Query(f"launcher:gpu_engine_active:ratio{{{JOB}}}", "{{Hostname}} {{gpu}}"),),
            width=6,
            least=0,
            most=1,
            empty=NO_GPU,
        ),
        Panel(
            "Tensor cores active",
            "Low with an active engine: fp32, or shapes that do not fit.",
            "percentunit",
            (Query(of_gpu("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"), "{{Hostname}} {{gpu}}"),),
            width=6,
            least=0,
            most=1,
            empty=NO_GPU,
        ),
        Panel(
            "Memory",
            "Of each GPU by DCGM; the most in tensors on rank 0's by torch.",
            "bytes",
            (
                Query(f"1048576 * ({of_gpu('DCGM_FI_DEV_FB_USED')})", "{{Hostname}} {{gpu}}"),
                Query(of_job("trainer_gpu_memory_bytes"), "{{training_job}} rank 0, tensors"),
            ),
            width=6,
            least=0,
            empty="needs a GPU",
        ),
        Panel(
            "Allocated and idle",
            "GPUs of the job that do next to nothing, while the budget pays for them.",
            "none",
            (Query(f"launcher:job_gpus_idle:count{{{JOB}}}", "{{training_job}}"),),
            "steps",
            width=6,
            least=0,
            empty=NO_GPU,
        ),
        Panel(
            "Power",
            "Of each GPU.",
            "watt",
            (Query(of_gpu("DCGM_FI_DEV_POWER_USAGE"), "{{Hostname}} {{gpu}}"),),
            least=0,
            empty=NO_GPU,
        ),
        Panel(
            "Temperature",
            "A GPU that throttles slows all ranks.",
            "celsius",
            (Query(of_gpu("DCGM_FI_DEV_GPU_TEMP"), "{{Hostname}} {{gpu}}"),),
            empty=NO_GPU,
        ),
        Panel(
            "XID errors",
            "The last one that the driver reported; 0: none.",
            "none",
            (Query(of_gpu("DCGM_FI_DEV_XID_ERRORS"), "{{Hostname}} {{gpu}}"),),
            "steps",
            least=0,
            empty=NO_GPU,
        ),
    ),
)

GOODPUT = Row(
    "Goodput",
    (
        Panel(
            "GPUs at work",
            (
                "What the allocated GPUs do, rank 0 standing for all. The rest is "
                "start-up, recovery and waiting for workers."
            ),
            "none",
            (
                Query(PRODUCTIVE, "{{training_job}} training"),
                Query(f"{WAIT} * on (training_job) {WORLD}", "{{training_job}} data wait"),
                Query(f"{BLOCKED} * on (training_job) {WORLD}", "{{training_job}} checkpoint"),
                Query(f"{EVALUATION} * on (training_job) {WORLD}", "{{training_job}} evaluation"),
                Query(
                    f"clamp_min({GPUS} - on (training_job) ({BUSY}) * on (training_job) {WORLD}, 0)"
                    f" or on (training_job) {GPUS}",
                    "{{training_job}} start-up and idle",
                ),
            ),
            "stack",
            width=16,
            least=0,
            empty="no evaluation yet",
        ),
        Panel(
            "Goodput now",
            "GPU time in forward and backward passes, of the GPU time that the budget pays for.",
            "percentunit",
            (Query(f"{PRODUCTIVE} / on (training_job) ({GPUS} > 0)", "{{training_job}}"),),
            "stat",
            red_below=(0.5, 0.8),
            decimals=0,
        ),
    ),
)

BOARD = Board(
    UID,
    "Training job",
    "One training job or a few: health, learning, speed, elasticity, checkpoints, GPUs, goodput.",
    (
        Variable("budget", "Budget", "label_values(launcher_job_info, budget)"),
        Variable("model", "Model", 'label_values(launcher_job_info{budget=~"$budget"}, model)'),
        Variable(
            "training_job",
            "Job",
            'label_values(launcher:job:info{budget=~"$budget",model=~"$model"}, training_job)',
            all_value="",
        ),
    ),
    (HEALTH, LEARNING, SPEED, ELASTICITY, CHECKPOINTS, GPU, GOODPUT),
    "now-3h",
    annotation=Query(
        f"changes(trainer_generation{{{JOB}}}[2m]) > 0", "{{training_job}} was resumed"
    ),
)
