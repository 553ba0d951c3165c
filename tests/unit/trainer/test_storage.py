"""Addresses, keys, and the folder as a store; S3 is tested against a real server."""

from __future__ import annotations

import os
import pickle
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.storage import (
    BadAddress,
    Changed,
    Entry,
    Exists,
    NotFound,
    StorageError,
    open_store,
    split,
)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://models/run/selection.npy", ("s3://models/run", "selection.npy")),
        ("s3://models/selection.npy", ("s3://models", "selection.npy")),
        ("file:///data/a b.npy", ("file:///data", "a b.npy")),
        ("/data/a.npy", ("file:///data", "a.npy")),
        ("/a.npy", ("file:///", "a.npy")),
    ],
)
def test_split_gives_folder_and_name(address: str, parts: tuple[str, str]) -> None:
    assert split(address) == parts


def test_open_store_knows_s3_files_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("data/set/").address == f"file://{tmp_path}/data/set"
    assert open_store(f"file://{tmp_path}/").address == f"file://{tmp_path}"
    assert open_store("s3://models/run/a/").address == "s3://models/run/a"
    assert open_store("s3://models").address == "s3://models"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "address is empty"),
        ("gs://models/a", "'gs://models/a' has no known form"),
        ("s3:/models/a", "'s3:/models/a' has no known form"),
        ("file://data/a", "'file://data/a' has no absolute path"),
        ("s3://", "names the bucket ''"),
        ("s3://Models/a", "names the bucket 'Models'"),
        ("s3://models//a", "two slashes in a row"),
    ],
)
def test_open_store_refuses_other_addresses_in_one_line(address: str, words: str) -> None:
    with pytest.raises(BadAddress) as caught:
        open_store(address)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://models", "s3://models/"])
def test_split_refuses_a_bucket_alone(address: str) -> None:
    with pytest.raises(BadAddress, match="names no object"):
        split(address)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\0b"])
@pytest.mark.parametrize("address", ["", "s3://models/run"])
def test_no_key_leads_out_of_the_store(tmp_path: Path, address: str, key: str) -> None:
    store = open_store(address or str(tmp_path))
    for use in (store.get, store.size, store.remove, lambda key: store.put(key, b"")):
        with pytest.raises(BadAddress, match="not a relative path"):
            use(key)


@given(data=st.binary(max_size=200), start=st.integers(0, 250), length=st.integers(0, 250))
def test_get_slices_like_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int, length: int
) -> None:
    store = open_store(str(tmp_path_factory.getbasetemp() / "slices"))
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.get("a/b", start) == data[start:]
    assert store.get("a/b", start, length) == data[start : start + length]
    assert store.size("a/b") == len(data)
    assert b"".join(store.get_parallel("a/b", len(data), part_bytes=64)) == data


def test_list_is_sorted_and_takes_any_prefix(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "absent"))
    assert store.list() == []
    for key in ("b", "a/2", "a/1", "a-b/c"):
        store.put(key, key.encode())
    assert [entry.key for entry in store.list()] == ["a-b/c", "a/1", "a/2", "b"]
    assert [entry.key for entry in store.list("a")] == ["a-b/c", "a/1", "a/2"]
    assert [entry.key for entry in store.list("a/")] == ["a/1", "a/2"]
    entry = store.list("b")[0]
    assert entry == Entry("b", 1, entry.modified_at)
    assert abs(entry.modified_at - time.time()) < 60


def test_an_unreadable_folder_is_an_error_not_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot list file://.*: not a directory"):
        open_store(str(tmp_path / "file")).list()


def test_absent_objects_are_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "folder").mkdir()
    for key in ("a/b", "folder"):
        for use in (store.get, store.size):
            with pytest.raises(NotFound, match=f"no such object: file://{tmp_path}/{key}$"):
                use(key)
    store.remove("a/b")


def test_remove_takes_empty_folders_along(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a/b/c", b"1")
    store.put("a/d", b"2")
    store.remove("a/b/c")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]
    store.remove("a/d")
    assert list(tmp_path.iterdir()) == []


def test_create_keeps_the_first_and_accepts_the_same_bytes(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("manifest", b"ours")
    store.create("manifest", b"ours")
    with pytest.raises(Exists, match=f"file://{tmp_path}/manifest exists already"):
        store.create("manifest", b"theirs")
    assert store.get("manifest") == b"ours"


def test_replace_takes_the_version_that_was_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("snapshot", b"1")
    data, tag = store.get_tagged("snapshot")
    assert data == b"1"
    store.replace("snapshot", b"2", tag)
    store.replace("snapshot", b"2", tag)
    with pytest.raises(Changed, match=f"file://{tmp_path}/snapshot was changed meanwhile"):
        store.replace("snapshot", b"3", tag)
    with pytest.raises(Changed):
        store.replace("absent", b"3", tag)
    assert store.get("snapshot") == b"2"
    assert [entry.key for entry in store.list()] == ["snapshot"]


def test_each_version_is_replaced_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("count", b"0 -")

    def count(number: int) -> None:
        for _ in range(20):
            while True:
                data, tag = store.get_tagged("count")
                try:
                    store.replace("count", b"%d %d" % (int(data.split()[0]) + 1, number), tag)
                    break
                except Changed:
                    pass

    writers = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.get("count").split()[0] == b"80"


def test_one_of_many_writers_creates(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    barrier, winners = threading.Barrier(8), []

    def write(token: bytes) -> None:
        barrier.wait()
        try:
            store.create("a/claim", token)
        except Exists:
            return
        winners.append(token)

    writers = [threading.Thread(target=write, args=(b"%d" % i,)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert winners == [store.get("a/claim")]
    assert len(store.list()) == 1


def test_upload_of_a_wrong_size_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.upload("big", [b"ab", memoryview(b"cd")], size=4)
    assert store.get("big") == b"abcd"
    for size in (3, 5):
        with pytest.raises(StorageError, match=f"was given 4 bytes, but {size} were announced"):
            store.upload("other", [b"ab", b"cd"], size=size)
    assert [entry.key for entry in store.list()] == ["big"]
    assert len(list(tmp_path.iterdir())) == 1


def test_upload_gives_up_at_its_deadline(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def slow() -> object:
        for _ in range(10):
            time.sleep(0.05)
            yield b"a"

    with pytest.raises(StorageError, match=r"upload of file://.*/big did not end within 0\.1 s"):
        store.upload("big", slow(), size=10, deadline_s=0.1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_only_old_drafts(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a/state", b"kept")
    for name, age_s in (("old", 7200), ("new", 0)):
        draft = tmp_path / "a" / f".state.{name}.draft"
        draft.write_bytes(b"torn")
        os.utime(draft, (time.time() - age_s,) * 2)
    assert [entry.key for entry in store.list()] == ["a/state"]
    assert store.sweep(older_than_s=3600) == 1
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".state.new.draft", "state"]


def test_download_copies_and_local_points(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "set"))
    store.put("a", b"123")
    store.download("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"123"
    assert store.local("a") == tmp_path / "set/a"
    assert open_store("s3://models/run").local("a") is None


def test_stores_can_be_pickled(tmp_path: Path) -> None:
    for address in (f"file://{tmp_path}", "s3://models/run"):
        assert pickle.loads(pickle.dumps(open_store(address))).address == address
