"""The dashboard "Fleet": all GPUs and jobs of the clusters, and whoever looks after them."""

from __future__ import annotations

from tools.dashboards import training
from tools.dashboards.panels import Board, Panel, Query, Row, Variable

UID = "launcher-fleet"
CLUSTER = 'cluster=~"$cluster"'
RESOURCES = 'resource=~"nvidia_com_gpu|amd_com_gpu|gpu_intel_com_i915"'

UPDATED = "max by (training_job) (trainer_update_last_timestamp_seconds)"
DONE = (
    "max by (training_job) (trainer_samples_total)"
    " >= on (training_job) max by (training_job) (trainer_samples_goal)"
)
TRAINS = f"count(time() - {UPDATED} < 1200 unless on (training_job) ({DONE})) or vector(0)"
STANDS = f"count(time() - {UPDATED} >= 1200 unless on (training_job) ({DONE})) or vector(0)"
STARTS = "count(launcher:job_gpus:sum > 0 unless on (training_job) trainer_world_size) or vector(0)"
WAITING = (
    "count by (training_job) (launcher:pod:info and on (cluster, namespace, pod)"
    ' (kube_pod_status_scheduled{condition="false"} == 1))'
)
HELD = "sum(launcher:pod_gpus:sum)"
ALL = f"sum(kube_node_status_allocatable{{{RESOURCES}}})"
READY = 'kube_node_status_condition{condition="Ready",status="true"}'

NO_KUEUE = "needs Kueue"
NO_KUBE = "needs kube-state-metrics"
NO_GPU = "needs NVIDIA's DCGM exporter"

OVERVIEW = Row(
    "Now",
    (
        Panel(
            "GPUs of the clusters",
            "That nodes offer.",
            "none",
            (Query(ALL, "all"),),
            "stat",
            4,
            empty=NO_KUBE,
        ),
        Panel(
            "Held by jobs",
            "By pods that have a node.",
            "none",
            (Query(HELD, "held"),),
            "stat",
            4,
            empty=NO_KUBE,
        ),
        Panel(
            "Idle",
            "Held by jobs, and doing next to nothing.",
            "none",
            (Query("sum(launcher:job_gpus_idle:count)", "idle"),),
            "stat",
            4,
            red_above=(1, 8),
            empty=NO_GPU,
        ),
        Panel(
            "Jobs",
            (
                "Trains: an update within 20 minutes. Stands: none. Starts: holds GPUs, "
                "and no trainer tells anything."
            ),
            "none",
            (Query(TRAINS, "train"), Query(STARTS, "start"), Query(STANDS, "stand")),
            "stat",
            6,
        ),
        Panel(
            "Nodes lost",
            "Nodes that are not ready. The controller gives their pods up after its node grace.",
            "none",
            (Query(f"count({READY} == 0) or vector(0)", "lost"),),
            "stat",
            3,
            red_above=(1, 2),
        ),
        Panel(
            "Leaders",
            (
                "Controllers that act: one. None: nobody looks after jobs, and budgets "
                "are not enforced."
            ),
            "none",
            (Query("sum(launcher_controller_leading) or vector(0)", "leading"),),
            "stat",
            3,
            red_below=(0.5, 1),
        ),
    ),
    height=4,
)

GPUS = Row(
    "GPUs",
    (
        Panel(
            "By budget",
            "As the ledger charges them.",
            "none",
            (Query(f"sum by (budget) (launcher_gpus_allocated{{{CLUSTER}}})", "{{budget}}"),),
            "stack",
            least=0,
        ),
        Panel(
            "By node",
            "As kube-state-metrics sees them held.",
            "none",
            (Query("sum by (node) (launcher:pod_gpus:sum)", "{{node}}"),),
            "stack",
            least=0,
            empty=NO_KUBE,
        ),
        Panel(
            "By type",
            "GPU-days a day, mean of the hour before each moment.",
            "none",
            (
                Query(
                    (
                        "sum by (gpu_type) "
                        f"(rate(launcher_gpu_allocated_seconds_total{{{CLUSTER}}}[1h]))"
                    ),
                    "{{gpu_type}}",
                ),
            ),
            "stack",
            least=0,
        ),
        Panel(
            "Idle GPUs by job",
            "Engine active for less than 5 %.",
            "none",
            (Query("topk(10, launcher:job_gpus_idle:count > 0)", "{{training_job}}"),),
            "steps",
            least=0,
            empty="no GPU is idle",
        ),
        Panel(
            "Worst goodput",
            "The five budgets whose GPUs train the smallest share of their time, over a day.",
            "percentunit",
            (Query(f"bottomk(5, budget:gpu_goodput:ratio{{{CLUSTER}}})", "{{budget}}"),),
            least=0,
            most=1,
        ),
        Panel(
            "XID errors",
            "GPUs whose driver reported a fault.",
            "none",
            (Query("max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS) > 0", "{{Hostname}} {{gpu}}"),),
            "steps",
            least=0,
            no_value="none",
            empty="no GPU has a fault",
        ),
    ),
)

JOBS = Row(
    "Jobs",
    (
        Panel(
            "By state",
            "As in the figures above.",
            "none",
            (Query(TRAINS, "train"), Query(STARTS, "start"), Query(STANDS, "stand")),
            "stack",
            least=0,
        ),
        Panel(
            "Waiting for a node",
            "Pods of each job that no node has room for.",
            "none",
            (Query(WAITING, "{{training_job}}"),),
            "stack",
            least=0,
            no_value="none waits",
            empty="no pod waits",
        ),
        Panel(
            "Resumes in an hour",
            "Of each job. Three and more are a loop.",
            "none",
            (
                Query(
                    "topk(10, max by (training_job) (max_over_time(trainer_generation[1h]))"
                    " - min by (training_job) (min_over_time(trainer_generation[1h])))",
                    "{{training_job}}",
                ),
            ),
            "steps",
            least=0,
        ),
        Panel(
            "Queue: waiting workloads",
            "Of Kueue, by cluster queue. Inadmissible ones wait for quota or for somebody.",
            "none",
            (
                Query(
                    "sum by (cluster_queue, status) (kueue_pending_workloads)",
                    "{{cluster_queue}} {{status}}",
                ),
            ),
            "stack",
            least=0,
            empty=NO_KUEUE,
        ),
        Panel(
            "Queue: admitted workloads",
            "Of Kueue, by cluster queue.",
            "none",
            (
                Query(
                    "sum by (cluster_queue) (kueue_admitted_active_workloads)", "{{cluster_queue}}"
                ),
            ),
            "stack",
            least=0,
            empty=NO_KUEUE,
        ),
        Panel(
            "Queue: time until admission",
            "Of those that Kueue admitted within the hour before each moment.",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({share}, sum by (cluster_queue, le)"
                    " (rate(kueue_admission_wait_time_seconds_bucket[1h])))",
                    f"{{{{cluster_queue}}}} {name}",
                )
                for share, name in ((0.5, "p50"), (0.95, "p95"))
            ),
            least=0,
            empty=NO_KUEUE,
        ),
    ),
)

TABLE = Row(
    "All jobs",
    (
        Panel(
            "Who holds what",
            "Those that hold GPUs or tell of themselves.",
            "none",
            (
                Query(
                    (
                        "launcher:job_gpus:sum * on (training_job) group_left (budget, "
                        "model, stage) launcher:job:info"
                    ),
                    "training_job budget model stage",
                    "GPUs",
                    decimals=0,
                ),
                Query(
                    (
                        "max by (training_job) (trainer_samples_total) / on "
                        "(training_job) max by (training_job) (trainer_samples_goal)"
                    ),
                    "",
                    "done",
                    unit="percentunit",
                ),
                Query(
                    "max by (training_job) (trainer_throughput_samples_per_second)",
                    "",
                    "pictures/s",
                    decimals=0,
                ),
                Query(f"time() - {UPDATED}", "", "last update", unit="s"),
            ),
            "table",
            24,
            decimals=1,
            link=training.UID,
        ),
    ),
    height=9,
)

CONTROLLER = Row(
    "The controller",
    (
        Panel(
            "Jobs, and those that are due",
            "Due ones wait for their look; they must fall to 0 between two ticks.",
            "none",
            (
                Query("sum(launcher_controller_jobs)", "jobs"),
                Query("sum(launcher_controller_due)", "due"),
            ),
            least=0,
        ),
        Panel(
            "Actions in an hour, by reason",
            "Error: a request failed. Defect: a fault of the controller itself.",
            "none",
            (
                Query(
                    "sum by (reason) (increase(launcher_controller_actions_total[1h]))",
                    "{{reason}}",
                ),
            ),
            "stack",
            least=0,
            empty="it had nothing to do",
        ),
        Panel(
            "Ledger: open intervals",
            "Pods whose GPU time is being charged.",
            "none",
            (Query(f"launcher_ledger_open_intervals{{{CLUSTER}}}", "{{cluster}}"),),
            least=0,
        ),
        Panel(
            "Ledger: age and failed writes",
            "Seconds since the last write, and failures of the hour before each moment.",
            "s",
            (
                Query(
                    f"time() - launcher_ledger_last_success_timestamp_seconds{{{CLUSTER}}}",
                    "{{cluster}} age",
                ),
                Query(
                    f"increase(launcher_ledger_write_failures_total{{{CLUSTER}}}[1h])",
                    "{{cluster}} failures",
                    unit="none",
                ),
            ),
            least=0,
        ),
        Panel(
            "Ledger: closed by estimate",
            "GPU time whose true end nobody told.",
            "s",
            (Query(f"launcher_ledger_unreconciled_seconds{{{CLUSTER}}}", "{{cluster}}"),),
            least=0,
        ),
        Panel(
            "Version",
            "Of the controllers that are scraped.",
            "none",
            (Query("sum by (version) (launcher_build_info)", "{{version}}"),),
            "stat",
            shown="name",
        ),
    ),
)

BOARD = Board(
    UID,
    "Fleet",
    (
        "All GPUs and jobs: who holds what, what waits, what fails, and whether the "
        "controller is well."
    ),
    (
        Variable(
            "cluster",
            "Cluster",
            "label_values(launcher_ledger_last_success_timestamp_seconds, cluster)",
        ),
    ),
    (OVERVIEW, GPUS, JOBS, TABLE, CONTROLLER),
    "now-6h",
)
