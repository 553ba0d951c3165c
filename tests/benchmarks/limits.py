"""The most pictures a second that this GPU was seen to do, by formulas fitted to published figures.

A picture takes its arithmetic at a share of the peak, and then its activations through the memory:
32.5 bytes each in training and 4 in inference, where convolution, norm and ReLU are one. Training
is fitted to MLPerf's ResNet-50 on H100 and A100, inference to timm's compiled tables.
"""

from __future__ import annotations

import torch

from launcher.plan.estimate import TRAINING_OPERATIONS, bound_s
from launcher.plan.hardware import read_hardware
from launcher.plan.networks import packaged_networks

TRAINING, INFERENCE = (TRAINING_OPERATIONS, 32.5), (2, 4.0)
"""Operations of a multiply-accumulate, and bytes of an activation."""


def limit(name: str, work: tuple[float, float]) -> float:
    """Pictures a second; 0 where the network or the GPU is not known. work: as above."""
    hardware = read_hardware()
    known = packaged_networks().get(name)
    gpu = hardware.find(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if known is None or gpu is None:
        return 0.0
    tflops = hardware.formula.peak_share * gpu.peak_tflops["amp"]
    return 1 / bound_s(known.gmac, known.mact, tflops, gpu.bandwidth_tb_s, *work)
