"""What a job is, resolved: size, place, resources, and its run. Pure data and arithmetic.

`launcher.resolve` makes a JobSpec of flags, settings and a recipe; `launcher.render` makes objects.
"""

from launcher.spec.checks import check_platform, gpu_products, parse_toleration
from launcher.spec.config import (
    BACKENDS,
    LOCAL_RENDEZVOUS,
    FabricConfig,
    GangConfig,
    JobConfig,
    KueueConfig,
    ProxyConfig,
    RendezvousConfig,
)
from launcher.spec.job import (
    JobSpec,
    Workers,
    gpu_workers,
    local_workers,
    name_most_chars,
    uneven_worlds,
)
from launcher.spec.names import (
    BUDGET_LABEL,
    CHECKPOINTS_ANNOTATION,
    DEADLINE_ANNOTATION,
    DOMAIN,
    HANG_ANNOTATION,
    JOB_LABEL,
    MODEL_ANNOTATION,
    NAME_MOST_CHARS,
    QUEUE_LABEL,
    RESTART_WINDOW_ANNOTATION,
    RESTARTS_ALLOWED_ANNOTATION,
    STAGE_LABEL,
    check_address,
    check_label,
    check_name,
    check_object_name,
    default_name,
)
from launcher.spec.patches import Patch, read_patches
from launcher.spec.secrets import secret_in

__all__ = [
    "BACKENDS",
    "BUDGET_LABEL",
    "CHECKPOINTS_ANNOTATION",
    "DEADLINE_ANNOTATION",
    "DOMAIN",
    "HANG_ANNOTATION",
    "JOB_LABEL",
    "LOCAL_RENDEZVOUS",
    "MODEL_ANNOTATION",
    "NAME_MOST_CHARS",
    "QUEUE_LABEL",
    "RESTARTS_ALLOWED_ANNOTATION",
    "RESTART_WINDOW_ANNOTATION",
    "STAGE_LABEL",
    "FabricConfig",
    "GangConfig",
    "JobConfig",
    "JobSpec",
    "KueueConfig",
    "Patch",
    "ProxyConfig",
    "RendezvousConfig",
    "Workers",
    "check_address",
    "check_label",
    "check_name",
    "check_object_name",
    "check_platform",
    "default_name",
    "gpu_products",
    "gpu_workers",
    "local_workers",
    "name_most_chars",
    "parse_toleration",
    "read_patches",
    "secret_in",
    "uneven_worlds",
]
