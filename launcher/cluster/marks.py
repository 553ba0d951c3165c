"""Labels and annotations by which launcher, controller and operator tell each other about a job."""

from __future__ import annotations

from launcher.spec import DOMAIN, PROGRAM

SUBMISSION = f"{DOMAIN}/submission"
"""Whose creation an object is, should the answer to it be lost."""
CANCELLED = f"{DOMAIN}/cancelled-at"
"""The user stopped the job for good: RFC 3339."""
SUSPENDED = f"{DOMAIN}/suspended-at"
"""The user paused the job: RFC 3339. Kueue suspends too, so the field alone does not tell."""
ENDED = f"{DOMAIN}/ended"
"""The controller stopped the job: the state it counts as, Failed."""
ENDED_REASON = f"{DOMAIN}/ended-reason"
ENDED_AT = f"{DOMAIN}/ended-at"
ADMITTED = f"{DOMAIN}/admitted-by"
"""The budget that has let the job start."""
BUDGET_REASON = f"{DOMAIN}/budget-reason"
"""Why the job's budget has suspended it."""
RESTARTS = f"{DOMAIN}/restarts"
"""Workers lost or failed so far, replaced pods included; the controller counts."""

JOB_NAME = "training.kubeflow.org/job-name"
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
BATCH_JOB_NAME = "batch.kubernetes.io/job-name"
"""What finds the workers of a PyTorchJob, those of a TrainJob, and the pods of a Job."""
REPLICA_INDEX = "training.kubeflow.org/replica-index"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""A worker's number, likewise."""
CONTAINER = "pytorch"
"""The training operator wants the trainer's container called so."""
CONTAINERS = (CONTAINER, "node", PROGRAM)
"""And Trainer v2 the second."""
