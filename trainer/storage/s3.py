"""A bucket of an S3 server as a store: the only module that knows boto3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from trainer.storage.interface import (
    PART_BYTES,
    Changed,
    Clock,
    Entries,
    Entry,
    Exists,
    NotFound,
    StorageError,
    checked,
    clock_for,
    counted,
    whole,
)

IN_FLIGHT = 4
"""Parts of one object under way at once."""

_T = TypeVar("_T")
_Parts = list[dict[str, Any]]


class S3Store:
    """A bucket, or a folder in one, of any server that speaks S3 with conditional writes."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        connect_timeout_s: float,
        read_timeout_s: float,
        attempts: int,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._limits = (connect_timeout_s, read_timeout_s, attempts)
        self._client: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}

    @property
    def address(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def local(self, key: str) -> None:
        return None

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        wanted = self._name(key)
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"

        def attempt() -> bytes:
            answer = self._call("get_object", key, **wanted)
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
            return data

        try:
            return self._body_repeated(key, attempt)
        except _PastTheEnd:
            return b""

    def get_parallel(self, key: str, size: int, part_bytes: int = PART_BYTES) -> Iterator[bytes]:
        pool = ThreadPoolExecutor(IN_FLIGHT, "storage-get")
        address = f"{self.address}/{key}"
        parts: deque[tuple[int, Future[bytes]]] = deque()
        try:
            for start in range(0, size, part_bytes):
                wanted = min(part_bytes, size - start)
                parts.append((wanted, pool.submit(self.get, key, start, wanted)))
                if len(parts) == IN_FLIGHT:
                    wanted, part = parts.popleft()
                    yield whole(part.result(), wanted, address)
            for wanted, part in parts:
                yield whole(part.result(), wanted, address)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def size(self, key: str) -> int:
        return int(self._call("head_object", key, **self._name(key))["ContentLength"])

    def put(self, key: str, data: bytes) -> None:
        self._call("put_object", key, **self._name(key), Body=data, ContentMD5=_md5(data))

    def create(self, key: str, data: bytes) -> None:
        self._put_if(key, data, {"IfNoneMatch": "*"})

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        def attempt() -> tuple[bytes, str]:
            answer = self._call("get_object", key, **self._name(key))
            with contextlib.closing(answer["Body"]) as body:
                return body.read(), str(answer["ETag"])

        return self._body_repeated(key, attempt)

    def replace(self, key: str, data: bytes, tag: str) -> None:
        try:
            self._put_if(key, data, {"IfMatch": tag})
        except (Exists, NotFound) as error:
            raise Changed(f"{self.address}/{key} was changed meanwhile") from error

    def _put_if(self, key: str, data: bytes, condition: dict[str, str]) -> None:
        """Raises Exists where the condition does not hold and the bytes there are not these."""
        wanted = self._name(key) | {"Body": data, "ContentMD5": _md5(data)} | condition
        failure: StorageError | None = None
        for pause_s in _pauses(self._limits[2]):
            try:
                self._call("put_object", key, **wanted)
                return
            except Exists as error:
                if self.get(key) == data:
                    return
                raise error
            except (_Conflict, _Unanswered) as error:
                # Two writers at once (AWS says: repeat), or nobody knows: the next try tells.
                failure = error
                time.sleep(pause_s)
        assert failure is not None
        raise failure

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes | memoryview],
        size: int,
        deadline_s: float | None = None,
    ) -> None:
        address = f"{self.address}/{key}"
        clock = clock_for(deadline_s, address)
        # S3 takes at most 10,000 parts.
        part_bytes = max(PART_BYTES, -(-size // 9000))
        parts = _regrouped(counted(chunks, size, clock, address), part_bytes)
        if size <= part_bytes:
            self.put(key, b"".join(parts))
            return
        upload_id = self._call("create_multipart_upload", key, **self._name(key))["UploadId"]
        try:
            done = self._send_parts(key, upload_id, parts, clock)
            self._complete(key, upload_id, done, size)
        except BaseException:
            with contextlib.suppress(StorageError):
                self._call("abort_multipart_upload", key, **self._name(key), UploadId=upload_id)
            raise

    def _send_parts(self, key: str, upload_id: str, parts: Iterator[bytes], clock: Clock) -> _Parts:
        def send(number: int, part: bytes) -> dict[str, Any]:
            answer = self._call(
                "upload_part",
                key,
                **self._name(key),
                UploadId=upload_id,
                PartNumber=number,
                Body=part,
                ContentMD5=_md5(part),
            )
            checksums = {k: v for k, v in answer.items() if k.startswith("Checksum") and v}
            checksums.pop("ChecksumType", None)
            return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

        pool = ThreadPoolExecutor(IN_FLIGHT, "storage-put")
        sent: list[Future[dict[str, Any]]] = []
        try:
            for number, part in enumerate(parts, 1):
                sent.append(pool.submit(send, number, part))
                while sum(not future.done() for future in sent) >= IN_FLIGHT:
                    wait([f for f in sent if not f.done()], clock(), "FIRST_COMPLETED")
                    clock()
                for future in sent:
                    if future.done():
                        future.result()  # a failed part ends it at once
            wait(sent, clock(), "FIRST_EXCEPTION")
            clock()
            return [future.result() for future in sent]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, key: str, upload_id: str, parts: _Parts, size: int) -> None:
        # After a lost answer botocore asks again, and some servers have forgotten the ended upload
        # by then: the object's size tells.
        with contextlib.suppress(NotFound):
            self._call(
                "complete_multipart_upload",
                key,
                **self._name(key),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        stored = self.size(key)
        if stored != size:
            raise StorageError(f"{self.address}/{key} has {stored} bytes, but {size} were sent")

    def download(self, key: str, path: Path) -> None:
        def attempt() -> None:
            answer = self._call("get_object", key, **self._name(key))
            with contextlib.closing(answer["Body"]) as body, open(path, "wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)

        try:
            self._body_repeated(key, attempt)
        except OSError as error:
            reason = (error.strerror or "failed").lower()
            raise StorageError(f"cannot write {path}: {reason}") from error

    def list(self, prefix: str = "") -> Entries:
        found: list[Entry] = []
        more: dict[str, str] = {}
        while True:
            page = self._call(
                "list_objects_v2",
                prefix,
                Bucket=self._bucket,
                Prefix=self._prefix + prefix,
                **more,
            )
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._prefix)
                found.append(Entry(key, item["Size"], item["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda entry: entry.key)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            self._call("delete_object", key, **self._name(key))

    def sweep(self, older_than_s: float) -> int:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        answer = self._call("list_multipart_uploads", "", Bucket=self._bucket, Prefix=self._prefix)
        stale = [u for u in answer.get("Uploads", []) if u["Initiated"] < before]
        for upload in stale:
            with contextlib.suppress(NotFound):
                self._call(
                    "abort_multipart_upload",
                    upload["Key"].removeprefix(self._prefix),
                    Bucket=self._bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )
        return len(stale)

    def _name(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + checked(key)}

    def _connected(self) -> Any:
        """This process's client. Two threads may make one each at the start: both work."""
        if self._client is None or self._client[0] != os.getpid():
            import boto3
            from botocore.config import Config

            connect_timeout_s, read_timeout_s, attempts = self._limits
            config = Config(
                connect_timeout=connect_timeout_s,
                read_timeout=read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=4 * IN_FLIGHT,
            )
            # Its own session: boto3's default one is not made for several threads.
            session = boto3.session.Session()
            self._client = (os.getpid(), session.client("s3", config=config))
        return self._client[1]

    def _call(self, operation: str, key: str, **wanted: Any) -> Any:
        """One request with botocore's retries; its failures as StorageErrors."""
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        address = f"{self.address}/{key}".rstrip("/")
        act = operation.replace("_", " ")
        try:
            return getattr(self._connected(), operation)(**wanted)
        except ClientError as error:
            raise self._refusal(act, address, error.response) from error
        except (HTTPClientError, ConnectionError) as error:
            raise _Unanswered(f"{act} of {address} failed: {_line(error)}") from error
        except (BotoCoreError, ValueError) as error:
            hint = "; check the AWS_* variables"
            raise StorageError(f"{act} of {address} failed: {_line(error)}{hint}") from error

    def _refusal(self, act: str, address: str, response: Any) -> StorageError:
        code = response.get("Error", {}).get("Code", "")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return NotFound(f"no such bucket: s3://{self._bucket}")
        if status == 404:
            return NotFound(f"no such object: {address}")
        if status == 412:
            return Exists(f"{address} exists already")
        message = (
            f"{act} of {address} failed: {code} {response.get('Error', {}).get('Message', '')}"
        )
        message = _line(message)
        if status == 416:
            return _PastTheEnd(message)
        if status == 409 and code == "ConditionalRequestConflict":
            return _Conflict(message)
        if status in (401, 403):
            return StorageError(
                f"{message}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's rights"
            )
        return _Unanswered(message) if status >= 500 else StorageError(message)

    def _body_repeated(self, key: str, attempt: Callable[[], _T]) -> _T:
        """Repeats a read whose body was cut: botocore retries requests, not bodies."""
        from botocore.exceptions import BotoCoreError

        failure: Exception | None = None
        for pause_s in _pauses(self._limits[2]):
            try:
                return attempt()
            except BotoCoreError as error:
                failure = error
                time.sleep(pause_s)
        raise StorageError(
            f"reading {self.address}/{key} was cut {self._limits[2]} times: {_line(failure)}"
        ) from failure


class _Unanswered(StorageError):
    """Time-out, reset or server error: the request may or may not have been carried out."""


class _Conflict(StorageError):
    """Another conditional write of the key was under way."""


class _PastTheEnd(StorageError):
    """The range begins after the object's end."""


def _line(error: object) -> str:
    # One line; some servers answer with a page of HTML.
    return " ".join(str(error).split())[:256]


def _md5(data: bytes) -> str:
    # Content-MD5 is the one checksum that old Ceph gateways check as well.
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _pauses(attempts: int) -> Iterator[float]:
    """Seconds to wait after each failed attempt: doubling, with jitter, none after the last."""
    for attempt in range(attempts):
        last = attempt == attempts - 1
        yield 0.0 if last else 0.2 * 2**attempt * random.uniform(0.5, 1.0)


def _regrouped(chunks: Iterable[bytes | memoryview], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in parts of `part_bytes`, the last one shorter."""
    part = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while len(view):
            taken = view[: part_bytes - len(part)]
            part += taken
            view = view[len(taken) :]
            if len(part) == part_bytes:
                yield bytes(part)
                part = bytearray()
    if part:
        yield bytes(part)
