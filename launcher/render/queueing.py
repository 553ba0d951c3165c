"""Labels of the job itself by which queues take it. `suspend` is theirs to set, never ours."""

from __future__ import annotations

from launcher.spec import QUEUE_LABEL, Spec

PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
MAX_EXEC_LABEL = "kueue.x-k8s.io/max-exec-time-seconds"
KAI_QUEUE_LABEL = "kai.scheduler/queue"


def queue_labels(spec: Spec) -> dict[str, str]:
    """Empty where no queue was asked for."""
    job, found = spec.job, {}
    if job.queue:
        found[QUEUE_LABEL] = job.queue
        if job.kueue.priority_class:
            found[PRIORITY_LABEL] = job.kueue.priority_class
        # Unlike runPolicy.activeDeadlineSeconds it is kept (kubeflow/trainer#3358).
        if most_s := job.kueue.max_exec_time_s or job.deadline_s:
            found[MAX_EXEC_LABEL] = str(most_s)
    if job.gang.scheduler == "kai" and job.gang.queue:
        found[KAI_QUEUE_LABEL] = job.gang.queue
    return found
