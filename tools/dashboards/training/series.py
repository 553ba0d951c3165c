"""Queries of one job that several panels share."""

from __future__ import annotations

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
