"""The dashboard "Training job": is it healthy, does it learn, how fast, at which price."""

from __future__ import annotations

from tools.dashboards.panels import Board, Query, Variable
from tools.dashboards.training.gpus import GOODPUT, GPU
from tools.dashboards.training.health import HEALTH, LEARNING
from tools.dashboards.training.series import JOB, UID
from tools.dashboards.training.speed import CHECKPOINTS, ELASTICITY, SPEED

__all__ = ["BOARD", "UID"]

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
