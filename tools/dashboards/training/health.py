"""Is it healthy, and what has it learned."""

from __future__ import annotations

from tools.dashboards.panels import Panel, Query, Row
from tools.dashboards.training.series import (
    ENDED,
    EPOCH,
    ETA,
    GOAL,
    INTERVALS,
    JOB,
    NO_KUBE,
    RATE,
    RESUMED,
    SEEN,
    STATE,
    WORLD,
    of_job,
)

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
            width=4,
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
            width=4,
        ),
        Panel(
            "Self-label",
            (
                "What the teacher gives the labels on average, and how many of the classes it "
                "predicts: a fall of the second tells that it collapses."
            ),
            "percentunit",
            (
                Query(of_job("trainer_label_agreement_ratio"), "{{training_job}} agreement"),
                Query(of_job("trainer_prediction_spread_ratio"), "{{training_job}} spread"),
            ),
            width=4,
            least=0,
            empty="no run with the self-label loss",
        ),
    ),
)
