"""Networks in 8-bit integers on CPUs: calibrated on pictures, by torchao (optional).

Letters: n pictures, s their side.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from trainer.config import ConfigError

logger = logging.getLogger(__name__)

PICTURES = 64
"""That ranges of activations are measured on."""


def check_int8(device: torch.device) -> None:
    """Raises ConfigError where precision int8 cannot be had."""
    if device.type != "cpu":
        raise ConfigError("precision is int8, which is for CPUs; on a GPU set precision to bf16")
    try:
        import torchao  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "precision is int8, which needs torchao; pip install '.[train,int8]', or set precision"
            " to auto"
        ) from error


@torch.no_grad()
def quantised(network: nn.Module, pixels: Tensor, batch: int) -> nn.Module:
    """The network with convolutions and matrices in int8, for passes of exactly `batch` pictures.

    pixels: (n, 3, s, s) float32 as the network takes them, n a multiple of the batch: what ranges
    are measured on. Static quantisation of the exported network, a scale a channel of weights.
    Source: Jacob et al., arXiv:1712.05877.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    own = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    exported = torch.export.export(own, (pixels[:batch],)).module()
    prepared = prepare_pt2e(exported, quantizer)
    for each in torch.split(pixels, batch):
        prepared(each)
    converted = convert_pt2e(prepared)
    logger.info("int8: ranges measured on %d pictures of %d px", len(pixels), pixels.shape[-1])
    assert isinstance(converted, nn.Module)
    return converted
