"""Indexed Job (batch/v1): independent parts, each a pod of its own that may be started again."""

from __future__ import annotations

from launcher.render.objects import Object, named, notes
from launcher.render.pods import index_template
from launcher.render.queueing import queue_labels
from launcher.spec import INDEXED, KIND_LABEL, IndexedSpec


def indexedjob(spec: IndexedSpec) -> list[Object]:
    """Its one object. `suspend` is whoever's who sends it, or the queue's."""
    job = named(spec, "indexed-job.yaml", spec.name)
    job["metadata"]["labels"] |= {KIND_LABEL: INDEXED} | queue_labels(spec)
    job["metadata"]["annotations"] = notes(spec)
    body = job["spec"]
    body["completions"], body["parallelism"] = spec.indexes, spec.parallelism
    body["backoffLimitPerIndex"] = spec.retries
    body["maxFailedIndexes"] = spec.failures_most
    body["ttlSecondsAfterFinished"] = spec.job.keep_finished_s
    if spec.job.deadline_s:
        body["activeDeadlineSeconds"] = spec.job.deadline_s
    body["template"] = index_template(spec)
    return [job]
