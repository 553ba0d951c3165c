"""The S3 store against a real server, a faulty network, a hanging server and wrong settings."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers import BUCKET, READER, Proxy, S3Server, proxy
from trainer.storage import Changed, Exists, NotFound, StorageError, open_store

MIB = 1 << 20


@pytest.fixture
def faulty(s3: S3Server, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


def one_line(caught: pytest.ExceptionInfo[StorageError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "secret-of-tests" not in text
    return text


def test_objects_come_back(s3_address: str, tmp_path: Path) -> None:
    store = open_store(s3_address)
    store.put("a/b", b"0123456789")
    store.put("a/b", b"abcdefghij")
    assert store.get("a/b") == b"abcdefghij"
    assert store.get("a/b", 4) == b"efghij"
    assert store.get("a/b", 4, 3) == b"efg"
    assert store.get("a/b", 8, 100) == b"ij"
    assert store.get("a/b", 10) == store.get("a/b", 3, 0) == b""
    assert store.size("a/b") == 10
    store.put("empty", b"")
    assert store.get("empty") == b""
    store.download("a/b", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"abcdefghij"
    store.remove("a/b")
    store.remove("a/b")
    for use in (store.get, store.size, lambda key: store.download(key, tmp_path / "copy")):
        with pytest.raises(NotFound, match=f"^no such object: {s3_address}/a/b$"):
            use("a/b")


def test_list_takes_all_pages_in_order(s3_address: str) -> None:
    store = open_store(s3_address)
    keys = [f"k/{number:04d}" for number in range(1005)] + ["k-1", "other"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, key.encode()), keys))
    assert [entry.key for entry in store.list()] == sorted(keys)
    assert [entry.key for entry in store.list("k/1")] == [f"k/{n:04d}" for n in range(1000, 1005)]
    entry = store.list("other")[0]
    assert entry.size == 5
    assert abs(entry.modified_at - time.time()) < 60
    assert store.list("absent/") == []


def test_a_large_object_travels_in_parts(s3: S3Server, s3_address: str, tmp_path: Path) -> None:
    store = open_store(s3_address)
    data = os.urandom(MIB) * 70 + b"end"
    chunks = (data[start : start + 3 * MIB] for start in range(0, len(data), 3 * MIB))
    store.upload("big", chunks, len(data), deadline_s=60)
    assert store.size("big") == len(data)
    assert b"".join(store.get_parallel("big", len(data))) == data
    store.download("big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == data
    with pytest.raises(StorageError, match="shorter than expected"):
        list(store.get_parallel("big", len(data) + 1))
    assert uploads_under_way(s3) == []


def uploads_under_way(s3: S3Server) -> list[str]:
    return [u["Key"] for u in s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


def test_an_upload_that_fails_leaves_nothing(s3: S3Server, s3_address: str) -> None:
    store = open_store(s3_address)

    def torn() -> Iterator[bytes]:
        yield bytes(40 * MIB)
        raise StorageError("the source ended")

    with pytest.raises(StorageError, match="the source ended"):
        store.upload("big", torn(), 80 * MIB)
    with pytest.raises(StorageError, match="was given 41943040 bytes, but 83886080"):
        store.upload("big", [bytes(40 * MIB)], 80 * MIB)
    with pytest.raises(StorageError, match=r"big did not end within 0\.0001 s"):
        store.upload("big", [bytes(MIB)] * 80, 80 * MIB, deadline_s=0.0001)
    assert store.list() == []
    assert uploads_under_way(s3) == []


def test_sweep_ends_uploads_of_the_dead(s3: S3Server, s3_address: str) -> None:
    store = open_store(s3_address)
    prefix = s3_address.removeprefix(f"s3://{BUCKET}/")
    client = s3.client()
    for key in (f"{prefix}/dead", "elsewhere/alive"):
        started = client.create_multipart_upload(Bucket=BUCKET, Key=key)
    assert store.sweep(older_than_s=3600) == 0
    time.sleep(1.1)  # the server's times are whole seconds
    assert store.sweep(older_than_s=0) == 1
    assert uploads_under_way(s3) == ["elsewhere/alive"]
    client.abort_multipart_upload(
        Bucket=BUCKET, Key="elsewhere/alive", UploadId=started["UploadId"]
    )


def test_one_of_eight_writers_creates(s3_address: str) -> None:
    stores = [open_store(s3_address) for _ in range(8)]
    tokens = [b"token-%d" % number for number in range(8)]
    barrier = threading.Barrier(8)

    def write(number: int, key: str) -> bool:
        stores[number].list()  # connected before the start
        barrier.wait()
        try:
            stores[number].create(key, tokens[number])
        except Exists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for key in ("first", "second", "third", "fourth", "fifth"):
            won = list(pool.map(write, range(8), [key] * 8))
            assert won.count(True) == 1
            assert stores[0].get(key) == tokens[won.index(True)]


def test_a_lost_answer_does_not_lose_the_win(faulty: Proxy, s3_address: str) -> None:
    store = open_store(s3_address)
    faulty.arm("drop answer")
    store.create("claim", b"ours")
    assert faulty.struck == 1
    assert store.get("claim") == b"ours"
    faulty.arm("drop answer")
    with pytest.raises(Exists):
        store.create("claim", b"theirs")
    assert store.get("claim") == b"ours"


def test_each_version_is_replaced_by_one_writer(s3_address: str) -> None:
    stores = [open_store(s3_address) for _ in range(4)]
    stores[0].create("count", b"0 nobody")
    barrier = threading.Barrier(4)

    def count(number: int) -> int:
        """As a ledger's writers: read, add one, replace; read again if another was faster."""
        refused = 0
        barrier.wait()
        for _ in range(10):
            while True:
                data, tag = stores[number].get_tagged("count")
                more = b"%d writer-%d" % (int(data.split()[0]) + 1, number)
                try:
                    stores[number].replace("count", more, tag)
                    break
                except Changed:
                    refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(count, range(4)))
    assert stores[0].get("count").split()[0] == b"40"
    assert refused > 0, "they were in each other's way"


def test_what_is_absent_cannot_be_replaced(s3_address: str) -> None:
    store = open_store(s3_address)
    store.create("other", b"1")
    _, tag = store.get_tagged("other")
    with pytest.raises(Changed, match="snapshot was changed meanwhile"):
        store.replace("snapshot", b"2", tag)
    with pytest.raises(NotFound):
        store.get_tagged("snapshot")


def test_a_replacement_whose_answer_is_lost_is_ours(faulty: Proxy, s3_address: str) -> None:
    store = open_store(s3_address)
    store.create("snapshot", b"1")
    _, tag = store.get_tagged("snapshot")
    faulty.arm("drop answer")
    store.replace("snapshot", b"2", tag)
    assert faulty.struck == 1
    with pytest.raises(Changed):
        store.replace("snapshot", b"3", tag)
    assert store.get("snapshot") == b"2"


def test_no_answer_for_long_is_still_resolved(faulty: Proxy, s3_address: str) -> None:
    store = open_store(s3_address, attempts=2)
    faulty.arm("drop answer", times=3)  # botocore gives up once, we ask again
    store.create("claim", b"ours")
    assert faulty.struck == 3
    assert store.get("claim") == b"ours"


@pytest.mark.parametrize("times", [1, 2])
def test_a_conflict_of_conditional_writes_is_repeated(s3_address: str, times: int) -> None:
    from botocore.awsrequest import AWSResponse

    store = open_store(s3_address)
    answers: list[str] = []

    class Body:
        def stream(self) -> Iterator[bytes]:
            yield b"<Error><Code>ConditionalRequestConflict</Code><Message>busy</Message></Error>"

    def conflict(request: Any, **_: Any) -> AWSResponse | None:
        # Only AWS itself answers so, when two conditional writers meet.
        if request.method != "PUT" or len(answers) == times:
            return None
        answers.append(request.url)
        return AWSResponse(request.url, 409, {}, Body())

    store._connected().meta.events.register("before-send.s3", conflict)  # type: ignore[attr-defined]
    store.create("claim", b"ours")
    assert len(answers) == times
    assert store.get("claim") == b"ours"


def test_a_cut_body_is_read_again(faulty: Proxy, s3_address: str, tmp_path: Path) -> None:
    store = open_store(s3_address)
    data = os.urandom(3 * MIB)
    store.put("object", data)
    faulty.arm("cut", times=2, after_bytes=MIB)
    assert store.get("object") == data
    assert faulty.struck == 2
    faulty.arm("cut", times=2, after_bytes=MIB)
    store.download("object", tmp_path / "copy")
    assert faulty.struck == 4
    assert (tmp_path / "copy").read_bytes() == data
    faulty.arm("cut", times=100, after_bytes=MIB)
    store = open_store(s3_address, attempts=2)
    with pytest.raises(StorageError, match=r"object was cut 2 times") as caught:
        store.get("object")
    one_line(caught)


def test_refused_connections_are_tried_again(faulty: Proxy, s3_address: str) -> None:
    faulty.arm("refuse", times=2)
    open_store(s3_address).put("object", b"1")
    assert faulty.struck == 2


def test_a_hanging_server_is_noticed_in_time(s3: S3Server, s3_address: str) -> None:
    store = open_store(s3_address, connect_timeout_s=0.5, read_timeout_s=0.5, attempts=2)
    store.put("object", b"1")
    s3.pause()
    try:
        began_s = time.monotonic()
        with pytest.raises(StorageError, match=r"^get object of s3://.*/object failed: Read time"):
            store.get("object")
        assert time.monotonic() - began_s < 5
        with pytest.raises(StorageError, match="Read timeout") as caught:
            store.create("claim", b"1")
        one_line(caught)
        assert time.monotonic() - began_s < 15
    finally:
        s3.resume()
    assert store.get("object") == b"1"


def test_wrong_settings_are_told_in_one_line(
    s3: S3Server, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal() -> str:
        with pytest.raises(StorageError) as caught:
            open_store(s3_address, attempts=1).get("object")
        return one_line(caught)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-tests")
    text = refusal()
    assert text.startswith(f"get object of {s3_address}/object failed: SignatureDoesNotMatch")
    assert text.endswith("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's rights")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    assert "InvalidAccessKeyId" in refusal()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Unable to locate credentials; check the AWS_* variables" in refusal()
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Could not connect to the endpoint URL" in refusal()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "nonsense" in refusal()


def test_rights_and_buckets_are_told_in_one_line(
    s3: S3Server, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(s3_address).put("object", b"1")
    with pytest.raises(NotFound, match=r"^no such bucket: s3://absent$"):
        open_store("s3://absent/run").list()
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    store = open_store(s3_address)
    assert store.get("object") == b"1"
    for use in (store.put, store.create):
        with pytest.raises(StorageError, match="AccessDenied") as caught:
            use("new", b"2")
        one_line(caught)
    assert store.get("object") == b"1"


def _read_own(store: Any, key: str, expected: bytes) -> None:
    for _ in range(40):
        if store.get(key) != expected:
            os._exit(1)


def test_children_of_a_fork_do_not_share_the_connection(s3_address: str) -> None:
    store = open_store(s3_address)
    contents = {f"object-{number}": os.urandom(MIB // 4) for number in range(3)}
    for key, data in contents.items():
        store.put(key, data)
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=_read_own, args=(store, key, data)) for key, data in contents.items()
    ]
    for child in children:
        child.start()
    _read_own(store, *next(iter(contents.items())))
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
