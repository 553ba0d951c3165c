"""A network compiled to be asked, not trained: its weights are constants of the code.

So normalisations fold into convolutions, and weights are packed once as the processor likes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def frozen(network: nn.Module, *, dynamic: bool) -> Callable[..., Any]:
    """The network, compiled by its first call, without gradients; do not change its weights later.

    dynamic: one compiling for all shapes, rather than one for each.
    """
    import torch._inductor.config as inductor

    compiled = torch.compile(network, dynamic=dynamic)

    @torch.no_grad()
    def ask(*args: Any, **more: Any) -> Any:
        # As an option of torch.compile it comes too late: weights are taken for inputs then, packed
        # at every call and nothing folds (torch 2.15; half the speed). Settings are of a thread.
        with inductor.patch(freezing=True):
            return compiled(*args, **more)

    return ask
