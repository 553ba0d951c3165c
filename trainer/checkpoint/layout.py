"""The safetensors layout: eight bytes of header length, a JSON header, then the tensors' bytes.

Made here and not by the library because the bytes are streamed from the staging copy, and read
into memory by parallel ranges while their hash is computed; the library wants a file or one bytes
object. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_HEADER_BYTES = 100_000_000  # the library's own limit

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Field:
    """One tensor: its kind and where its bytes lie, counted from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """Names in the order of their bytes, and the header with its length in front."""

    fields: dict[str, Field]
    header: bytes

    @property
    def data_bytes(self) -> int:
        return max((field.end for field in self.fields.values()), default=0)

    @property
    def file_bytes(self) -> int:
        return len(self.header) + self.data_bytes


def lay_out(state: Mapping[str, Tensor]) -> Layout:
    """Where each tensor of the state goes: wide dtypes first, so that every start is aligned."""
    fields: dict[str, Field] = {}
    start = 0
    for name in sorted(state, key=lambda name: (-state[name].element_size(), name)):
        tensor = state[name]
        if tensor.dtype not in NAMES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in NAMES)
            raise ValueError(f"tensor {name!r} of the state is {tensor.dtype}; allowed: {allowed}")
        end = start + tensor.numel() * tensor.element_size()
        fields[name] = Field(tensor.dtype, tuple(tensor.shape), start, end)
        start = end
    return Layout(fields, _header(fields))


def _header(fields: Mapping[str, Field]) -> bytes:
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, field in fields.items():
        described[name] = {
            "dtype": NAMES[field.dtype],
            "shape": field.shape,
            "data_offsets": (field.start, field.end),
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def header_bytes(first: bytes, size: int) -> int:
    """Length of the header with the eight bytes before it, from the file's first bytes and size."""
    if len(first) < 8:
        raise ValueError(f"the file has {size} bytes, too few for a header")
    length = int.from_bytes(first[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"the header claims {length} bytes of a file of {size}")
    return 8 + length


def parse_header(header: bytes, size: int) -> Layout:
    """The layout of a file of `size` bytes; its tensors must cover the data without gap or overlap.

    Raises ValueError that names the tensor.
    """
    try:
        described = json.loads(header[8:])
    except ValueError as error:
        raise ValueError("the header is not JSON") from error
    if not isinstance(described, dict):
        raise ValueError("the header is not a JSON object")
    described.pop("__metadata__", None)
    fields = {name: _field(name, entry) for name, entry in described.items()}
    fields = dict(sorted(fields.items(), key=lambda item: (item[1].start, item[1].end)))
    at = 0
    for name, field in fields.items():
        if field.start != at:
            raise ValueError(f"tensor {name!r} starts at byte {field.start}, expected {at}")
        at = field.end
    if len(header) + at != size:
        raise ValueError(f"the tensors end at byte {len(header) + at} of a file of {size}")
    return Layout(fields, header)


def _field(name: str, entry: Any) -> Field:
    try:
        dtype, (start, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
        shape = tuple(entry["shape"])
        right = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} has a damaged header entry") from error
    if not right or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name!r} has bytes {start} to {end} for the shape {shape}")
    return Field(dtype, shape, start, end)


def differences(layout: Layout, like: Mapping[str, Tensor]) -> str:
    """How the layout differs from the expected tensors, in words; empty where it does not."""
    for name, tensor in like.items():
        field = layout.fields.get(name)
        if field is None:
            return f"tensor {name!r} is missing"
        if field.shape != tuple(tensor.shape):
            return f"tensor {name!r} has shape {field.shape}, expected {tuple(tensor.shape)}"
        if field.dtype != tensor.dtype:
            return f"tensor {name!r} is {field.dtype}, expected {tensor.dtype}"
    for name in layout.fields:
        if name not in like:
            return f"tensor {name!r} is not expected"
    return ""
