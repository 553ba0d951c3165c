"""A folder of this machine as a store."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.storage.interface import (
    PART_BYTES,
    Changed,
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


class FileStore:
    """A folder of this machine, or of a file system that it has mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def address(self) -> str:
        return f"file://{self._folder}"

    def local(self, key: str) -> Path:
        return self._folder / checked(key)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._errors("read", key), open(self.local(key), "rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def get_parallel(self, key: str, size: int, part_bytes: int = PART_BYTES) -> Iterator[bytes]:
        with self._errors("read", key), open(self.local(key), "rb") as file:
            for start in range(0, size, part_bytes):
                wanted = min(part_bytes, size - start)
                yield whole(file.read(wanted), wanted, f"{self.address}/{key}")

    def size(self, key: str) -> int:
        with self._errors("read", key):
            path = self.local(key)
            if path.is_dir():
                raise IsADirectoryError
            return path.stat().st_size

    def put(self, key: str, data: bytes) -> None:
        with self._errors("write", key), self._new_file(key, [data]) as draft:
            os.replace(draft, self.local(key))

    def create(self, key: str, data: bytes) -> None:
        with self._errors("write", key), self._new_file(key, [data]) as draft:
            try:
                os.link(draft, self.local(key))
            except FileExistsError as error:
                if self.get(key) != data:
                    raise Exists(f"{self.address}/{key} exists already") from error

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, hashlib.sha256(data).hexdigest()

    def replace(self, key: str, data: bytes, tag: str) -> None:
        with self._errors("write", key), self._new_file(key, [data]) as draft:
            folder = os.open(draft.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # a writer waits for another's few milliseconds
                known = self.local(key)
                found = known.read_bytes() if known.exists() else None
                if found == data:
                    return
                if found is None or hashlib.sha256(found).hexdigest() != tag:
                    raise Changed(f"{self.address}/{key} was changed meanwhile")
                os.replace(draft, known)
            finally:
                os.close(folder)

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes | memoryview],
        size: int,
        deadline_s: float | None = None,
    ) -> None:
        address = f"{self.address}/{key}"
        sized = counted(chunks, size, clock_for(deadline_s, address), address)
        with self._errors("write", key), self._new_file(key, sized) as draft:
            os.replace(draft, self.local(key))

    def download(self, key: str, path: Path) -> None:
        with self._errors("read", key):
            shutil.copyfile(self.local(key), path)

    def list(self, prefix: str = "") -> Entries:
        found = []
        top = self._folder / checked(prefix + "*").rpartition("/")[0]
        with self._errors("list", prefix):
            for folder, _, names in os.walk(top, onerror=_unless_absent):
                for name in names:
                    key = os.path.relpath(os.path.join(folder, name), self._folder)
                    if not key.startswith(prefix) or _is_draft(name):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        stat = os.stat(os.path.join(folder, name))
                        found.append(Entry(key, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: entry.key)

    def remove(self, key: str) -> None:
        path = self.local(key)
        with self._errors("remove", key), contextlib.suppress(FileNotFoundError):
            path.unlink()
        for parent in path.parents:  # S3 has no empty folders either
            if parent == self._folder:
                break
            try:
                parent.rmdir()
            except OSError:
                break

    def sweep(self, older_than_s: float) -> int:
        removed = 0
        for folder, _, names in os.walk(self._folder):
            for name in filter(_is_draft, names):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    if time.time() - os.stat(path).st_mtime > older_than_s:
                        os.unlink(path)
                        removed += 1
        return removed

    @contextlib.contextmanager
    def _new_file(self, key: str, chunks: Iterable[bytes | memoryview]) -> Iterator[Path]:
        """A durable file beside the key's place, hidden from `list`; the body gives it its name."""
        path = self.local(key)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
        descriptor = self._open_new(draft)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            yield draft
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # else a power cut may undo the rename
            finally:
                os.close(folder)
        finally:
            draft.unlink(missing_ok=True)

    @staticmethod
    def _open_new(path: Path) -> int:
        for _ in range(10):
            path.parent.mkdir(parents=True, exist_ok=True)
            # `remove` elsewhere may take the still empty folder away in between
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        raise FileNotFoundError(2, "folder vanishes again and again", str(path.parent))

    @contextlib.contextmanager
    def _errors(self, act: str, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if act == "read":
                raise NotFound(f"no such object: {self.address}/{key}") from error
            reason = (error.strerror or "failed").lower()
            raise StorageError(f"cannot {act} {self.address}/{key}: {reason}") from error
        except OSError as error:
            reason = (error.strerror or "failed").lower()
            raise StorageError(f"cannot {act} {self.address}/{key}: {reason}") from error


def _unless_absent(error: OSError) -> None:
    # os.walk would hide a folder that may not be read, and a run would seem to have no checkpoints.
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_draft(name: str) -> bool:
    return name.startswith(".") and name.endswith(".draft")
