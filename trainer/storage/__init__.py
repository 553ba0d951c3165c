"""Objects under an address: s3://bucket/prefix, file:///folder or a plain path, one interface.

Both kinds keep the same promises: an object is visible whole or not at all, `create` lets one
writer win, and every failure is a StorageError of one line that names the full address. S3's
endpoint and credentials come from the environment as boto3 reads them (AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, ...). No torch here: the launcher uses it too.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainer.storage.files import FileStore
from trainer.storage.interface import (
    BadAddress,
    Changed,
    Entry,
    Exists,
    NotFound,
    StorageError,
    Store,
    parse,
)
from trainer.storage.s3 import S3Store

__all__ = [
    "BadAddress",
    "Changed",
    "Entry",
    "Exists",
    "NotFound",
    "StorageError",
    "Store",
    "open_store",
    "split",
]

ATTEMPTS = 4
"""Tries of a request, and of a body that was cut, which botocore does not repeat itself."""

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0
"""A hanging store is noticed after this; boto3's own 60 s outlast a grace period when repeated."""


def open_store(
    address: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    attempts: int = ATTEMPTS,
) -> Store:
    """The store of an address; nothing is contacted yet. The times and tries concern s3:// only."""
    scheme, rest = parse(address)
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise BadAddress(
                f"address {address!r} names the bucket {bucket!r}; "
                "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens"
            )
        return S3Store(bucket, prefix, connect_timeout_s, read_timeout_s, attempts)
    return FileStore(Path(rest))


def split(address: str) -> tuple[str, str]:
    """The folder's address and the last part, of the address of a single object."""
    scheme, rest = parse(address)
    folder, _, name = rest.rpartition("/")
    if not name or (scheme == "s3" and not folder):
        raise BadAddress(f"address {address!r} names no object; expected a folder and a name")
    return f"{scheme}://{folder or '/'}", name
