"""The staging copy: the state's bytes in host memory, taken at a step's end, written beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from trainer.checkpoint.layout import Layout, lay_out

CHUNK_BYTES = 32 << 20


class Staging:
    """One block of memory laid out as the file is, allocated once and filled again and again.

    Pinned where the state lies on a CUDA device: then the copy runs on the device's own queue, in
    order with the training's kernels, and `fill` returns at once.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.layout: Layout = lay_out(state)
        pinned = any(tensor.is_cuda for tensor in state.values())
        # Filled once, so that no page is mapped while training waits.
        self._block = torch.empty(self.layout.data_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._block.zero_()
        self._strides = {name: _strides(state[name]) for name in self.layout.fields}
        self._views = [
            self._block[field.start : field.end]
            .view(field.dtype)
            .as_strided(field.shape, self._strides[name])
            for name, field in self.layout.fields.items()
        ]
        self._copied: list[torch.cuda.Event] = []

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the state has the same names, kinds, shapes and strides as at the start."""
        return state.keys() == self.layout.fields.keys() and all(
            state[name].dtype == field.dtype
            and tuple(state[name].shape) == field.shape
            and _strides(state[name]) == self._strides[name]
            for name, field in self.layout.fields.items()
        )

    @torch.no_grad()
    def fill(self, state: Mapping[str, Tensor]) -> None:
        """Takes the state's values of now; later in-place changes to it do not show."""
        sources = [state[name] for name in self.layout.fields]
        if sources:
            torch._foreach_copy_(self._views, sources, non_blocking=True)
        self._copied = []
        for device in {source.device for source in sources if source.is_cuda}:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._copied.append(event)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file's bytes in order, once the copy is complete."""
        for event in self._copied:
            event.synchronize()
        yield self.layout.header
        start = end = 0
        for view, field in zip(self._views, self.layout.fields.values(), strict=True):
            if not view.is_contiguous():
                # Kept in its own memory order, which copies fastest; put into rows only here.
                yield from _pieces(self._block[start:end])
                yield from _pieces(view.contiguous().view(-1).view(torch.uint8))
                start = field.end
            end = field.end
        yield from _pieces(self._block[start:end])


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own strides where it fills its memory, else those of rows."""
    if tensor.is_contiguous():
        return tensor.stride()
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.stride()
    return torch.empty(tensor.shape, device="meta").stride()


def _pieces(block: Tensor) -> Iterator[memoryview]:
    whole = block.numpy().data
    for start in range(0, len(whole), CHUNK_BYTES):
        yield whole[start : start + CHUNK_BYTES]
