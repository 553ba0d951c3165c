"""What its GPUs do, and what of their time trains."""

from __future__ import annotations

from tools.dashboards.panels import Panel, Query, Row
from tools.dashboards.training.series import (
    BLOCKED,
    BUSY,
    EVALUATION,
    GPUS,
    JOB,
    NO_GPU,
    PRODUCTIVE,
    WAIT,
    WORLD,
    of_gpu,
    of_job,
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
