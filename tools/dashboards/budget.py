"""The dashboard "GPU-day budget": what there is, where it goes, and until when it lasts."""

from __future__ import annotations

from tools.dashboards import training
from tools.dashboards.panels import Board, Panel, Query, Row, Variable

UID = "launcher-gpu-budget"
BUDGET = 'budget=~"$budget"'
DAY = 86400


def days(name: str) -> str:
    """A figure of the budget in GPU-days."""
    return f"launcher_gpu_budget_{name}_seconds{{{BUDGET}}} / {DAY}"


START = f"launcher_gpu_budget_period_start_timestamp_seconds{{{BUDGET}}}"
END = f"launcher_gpu_budget_period_end_timestamp_seconds{{{BUDGET}}}"
ELAPSED = (
    f"clamp_max((time() - {START}) / on (cluster, budget) ({END} - on (cluster, budget) "
    f"{START}), 1)"
)
BURN = f"budget:gpu_burn:gpu_days_per_day{{{BUDGET}}}"
BURN_7D = f"budget:gpu_burn_7d:gpu_days_per_day{{{BUDGET}}}"
LEFT = f"({days('limit')} - on (cluster, budget) {days('used')})"
ON_TRACK = f"launcher:gpu_budget_used:ratio{{{BUDGET}}} <= bool on (cluster, budget) {ELAPSED}"

INFO = f"launcher:job:info{{{BUDGET}}}"
SO_FAR = f"sum_over_time(launcher:job_gpus:sum[$__range:5m]) * 300 / {DAY}"
TOP = f"topk(10, {SO_FAR} * on (training_job) group_left (budget, model) {INFO})"
ONLY_TOP = f"and on (training_job) ({TOP})"
PROGRESS = (
    "(max by (training_job) (trainer_samples_total)"
    " / on (training_job) max by (training_job) (trainer_samples_goal))"
)
GOODPUT = (
    "(sum by (training_job) (rate(trainer_update_seconds_total[10m]))"
    " - on (training_job) sum by (training_job)"
    " (rate(trainer_data_wait_seconds_total[10m])))"
    " * on (training_job) max by (training_job) (trainer_world_size)"
    " / on (training_job) (launcher:job_gpus:sum > 0)"
)

NEVER = "never at this rate"
OPEN = "the budget has no period"
GPU_DAYS = "suffix:GPU-days"

FIGURES = Row(
    "Where it stands",
    (
        Panel(
            "Limit",
            "What the period has.",
            GPU_DAYS,
            (Query(days("limit"), "{{budget}}"),),
            "stat",
            4,
            decimals=1,
        ),
        Panel(
            "Used",
            "Charged so far in this period.",
            GPU_DAYS,
            (Query(f"budget:gpu_used:gpu_days{{{BUDGET}}}", "{{budget}}"),),
            "stat",
            4,
            decimals=1,
        ),
        Panel(
            "Committed",
            "Held by running jobs up to their deadlines, and by jobs that wait.",
            GPU_DAYS,
            (Query(days("reserved"), "{{budget}}"),),
            "stat",
            4,
            decimals=1,
        ),
        Panel(
            "Remaining",
            "Limit less used less committed: what a new job may take.",
            GPU_DAYS,
            (Query(f"budget:gpu_remaining:gpu_days{{{BUDGET}}}", "{{budget}}"),),
            "stat",
            4,
            red_below=(0, 1),
            decimals=1,
        ),
        Panel(
            "Used of the limit",
            "Alerts come at 80, 95 and 100 %.",
            "percentunit",
            (
                Query(f"launcher:gpu_budget_used:ratio{{{BUDGET}}}", "{{budget}} used"),
                Query(
                    f"launcher:gpu_budget_committed:ratio{{{BUDGET}}}", "{{budget}} with committed"
                ),
            ),
            "stat",
            4,
            red_above=(0.8, 0.95),
            decimals=0,
        ),
        Panel(
            "Enforced",
            "Watched: alerts only. Enforced: jobs are refused, and ended at the limit.",
            "none",
            (Query(f"launcher_gpu_budget_enforced{{{BUDGET}}}", "{{budget}}"),),
            "stat",
            4,
            names={0: ("watched", "yellow"), 1: ("enforced", "green")},
        ),
        Panel(
            "Burn",
            "GPU-days a day: mean of the last day, and of 7 days.",
            "suffix:a day",
            (Query(BURN, "{{budget}} 1 d"), Query(BURN_7D, "{{budget}} 7 d")),
            "stat",
            6,
            decimals=1,
        ),
        Panel(
            "Runs out, if all that is committed runs",
            "At the rate of the last day, with what is committed counted as used.",
            "dateTimeFromNow",
            (Query(f"1000 * budget:gpu_exhaustion:timestamp_seconds{{{BUDGET}}}", "{{budget}}"),),
            "stat",
            6,
            no_value=NEVER,
            empty="nothing burns",
        ),
        Panel(
            "Runs out, at the rate of 7 days",
            (
                "What is committed not counted: the optimistic date. And the "
                "controller's own projection."
            ),
            "dateTimeFromNow",
            (
                Query(
                    f"1000 * (time() + {DAY} * {LEFT} / on (cluster, budget) ({BURN_7D} > 0))",
                    "{{budget}} 7 d",
                ),
                Query(
                    (
                        "1000 * "
                        f"launcher_gpu_budget_projected_exhaustion_timestamp_seconds{{{BUDGET}}}"
                    ),
                    "{{budget}} projected",
                ),
            ),
            "stat",
            6,
            no_value=NEVER,
            empty="nothing burns",
        ),
        Panel(
            "Period ends",
            "Then the budget begins anew.",
            "dateTimeFromNow",
            (Query(f"1000 * {END}", "{{budget}}"),),
            "stat",
            3,
            no_value="never",
            empty=OPEN,
        ),
        Panel(
            "On track?",
            "Yes while the share used is not above the share of the period that is over.",
            "none",
            (Query(ON_TRACK, "{{budget}}"),),
            "stat",
            3,
            names={0: ("too fast", "red"), 1: ("on track", "green")},
            no_value="no period",
            empty=OPEN,
        ),
    ),
    height=4,
)

GRAPHS = Row(
    "Where it goes",
    (
        Panel(
            "Used, beside limit and plan",
            "The plan uses the limit evenly over the period.",
            GPU_DAYS,
            (
                Query(f"budget:gpu_used:gpu_days{{{BUDGET}}}", "{{budget}} used"),
                Query(days("limit"), "{{budget}} limit"),
                Query(f"{days('limit')} * on (cluster, budget) {ELAPSED}", "{{budget}} plan"),
            ),
            width=12,
            least=0,
            empty=OPEN,
        ),
        Panel(
            "Used at the end of the period, forecast",
            (
                "What would be used by then at the rates of 1 and 7 days. Above the "
                "limit: it runs out before."
            ),
            GPU_DAYS,
            (
                Query(
                    (
                        f"budget:gpu_used:gpu_days{{{BUDGET}}} + on (cluster, budget) "
                        f"{BURN} * on (cluster, budget) ({END} - time()) / {DAY}"
                    ),
                    "{{budget}} at the rate of 1 d",
                ),
                Query(
                    (
                        f"budget:gpu_used:gpu_days{{{BUDGET}}} + on (cluster, budget) "
                        f"{BURN_7D} * on (cluster, budget) ({END} - time()) / {DAY}"
                    ),
                    "{{budget}} at the rate of 7 d",
                ),
                Query(days("limit"), "{{budget}} limit"),
            ),
            width=12,
            least=0,
            empty=OPEN,
        ),
        Panel(
            "Burn by model",
            "GPU-days a day.",
            "none",
            (
                Query(
                    f"sum by (model) (rate(launcher_gpu_allocated_seconds_total{{{BUDGET}}}[1d]))",
                    "{{model}}",
                ),
            ),
            "stack",
            least=0,
        ),
        Panel(
            "Burn by budget",
            "GPU-days a day. The plan is what lasts until the end of the period.",
            "none",
            (
                Query(BURN, "{{budget}}"),
                Query(f"budget:gpu_plan:gpu_days_per_day{{{BUDGET}}}", "{{budget}} plan"),
            ),
            least=0,
            empty=OPEN,
        ),
        Panel(
            "Used by stage, each day",
            "GPU-days of the day before each moment.",
            GPU_DAYS,
            (
                Query(
                    f"sum by (stage) (launcher:gpu_allocated:gpu_days_1d{{{BUDGET}}})", "{{stage}}"
                ),
            ),
            "stack",
            least=0,
        ),
        Panel(
            "Waste by cause",
            "Allocated GPU time that trained nothing, GPU-days of the day before each moment.",
            GPU_DAYS,
            (
                Query(
                    (
                        "sum by (reason) "
                        f"(increase(launcher_gpu_waste_seconds_total{{{BUDGET}}}[1d])) / "
                        f"{DAY}"
                    ),
                    "{{reason}}",
                ),
            ),
            "stack",
            least=0,
        ),
        Panel(
            "Goodput and refunds",
            "Share of allocated GPU time that trained; GPU-days given back, by reason.",
            "percentunit",
            (
                Query(f"budget:gpu_goodput:ratio{{{BUDGET}}}", "{{budget}} goodput"),
                Query(
                    (
                        "sum by (reason) "
                        f"(increase(launcher_gpu_refunded_seconds_total{{{BUDGET}}}[1d])) "
                        f"/ {DAY}"
                    ),
                    "refunded: {{reason}}",
                    unit=GPU_DAYS,
                ),
            ),
            least=0,
            empty="nothing was refunded",
        ),
        Panel(
            "Refused jobs",
            "Submits of the day before each moment that the budget could not carry.",
            "none",
            (
                Query(
                    (
                        "sum by (budget, reason) "
                        f"(increase(launcher_gpu_budget_refused_total{{{BUDGET}}}[1d]))"
                    ),
                    "{{budget}} {{reason}}",
                ),
            ),
            "stack",
            least=0,
            empty="nothing was refused",
        ),
    ),
)

JOBS = Row(
    "Who uses it",
    (
        Panel(
            "Top 10 jobs",
            (
                "By GPU-days within the range of time above. `launcher usage` has the "
                "exact figures, of ended jobs too."
            ),
            "none",
            (
                Query(TOP, "training_job budget model", "GPU-days so far", unit="none"),
                Query(f"launcher:job_gpus:sum {ONLY_TOP}", "", "GPUs", decimals=0),
                Query(
                    f"{SO_FAR} / on (training_job) ({PROGRESS} > 0) {ONLY_TOP}",
                    "",
                    "estimated total",
                ),
                Query(f"({GOODPUT}) {ONLY_TOP}", "", "goodput", unit="percentunit"),
                Query(
                    (
                        f"{SO_FAR} / on (training_job) (100 * max by (training_job) "
                        f"(trainer_validation_top1_ratio) > 0) {ONLY_TOP}"
                    ),
                    "",
                    "per point of top-1",
                ),
            ),
            "table",
            24,
            decimals=2,
            link=training.UID,
        ),
    ),
    height=9,
)

TRUST = Row(
    "Can the figures be trusted?",
    (
        Panel(
            "Ledger written",
            "How long ago. Above 5 minutes the figures here are old.",
            "s",
            (Query("time() - launcher_ledger_last_success_timestamp_seconds", "{{cluster}}"),),
            "stat",
            6,
            red_above=(120, 300),
            no_value="nobody writes it",
        ),
        Panel(
            "Failed writes in a day",
            "They are repeated until they succeed.",
            "none",
            (
                Query(
                    "sum by (cluster) (increase(launcher_ledger_write_failures_total[1d]))",
                    "{{cluster}}",
                ),
            ),
            "stat",
            6,
            red_above=(1, 100),
            decimals=0,
        ),
        Panel(
            "Closed by estimate",
            "GPU time whose true end nobody told.",
            "s",
            (Query("launcher_ledger_unreconciled_seconds", "{{cluster}}"),),
            "stat",
            6,
            red_above=(1, 3600),
        ),
        Panel(
            "Ledger and cluster apart by",
            "GPUs that are charged now, less those that kube-state-metrics sees held.",
            "none",
            (
                Query(
                    (
                        "sum by (cluster) (launcher_gpus_allocated) - on (cluster) "
                        "launcher:cluster_gpus:sum"
                    ),
                    "{{cluster}}",
                ),
            ),
            "stat",
            6,
            red_above=(1, 8),
            no_value="not comparable",
            empty="needs kube-state-metrics",
        ),
    ),
    height=4,
)

BOARD = Board(
    UID,
    "GPU-day budget",
    (
        "Budgets of GPU time: limit, use, commitments, burn, exhaustion, waste, the jobs "
        "that use them."
    ),
    (Variable("budget", "Budget", "label_values(launcher_gpu_budget_limit_seconds, budget)"),),
    (FIGURES, GRAPHS, JOBS, TRUST),
    "now-30d",
)
