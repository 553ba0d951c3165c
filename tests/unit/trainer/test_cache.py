"""Reading samples in place, and the rules of the node's cache on a folder as the far store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
from pathlib import Path

import pytest

from tests.raws import picture, write_dataset
from trainer.data import cache
from trainer.data.cache import DamagedSample, Reader, room_bytes
from trainer.data.fetch import CorruptObject, NodeCache
from trainer.data.shards import Dataset, open_dataset
from trainer.storage import NotFound, StorageError, Store, open_store

IMAGES = [picture(i) for i in range(40)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_dataset(str(tmp_path / "set"), IMAGES)
    return open_dataset(str(tmp_path / "set"), tmp_path / "cache")


def test_reader_gives_the_packed_bytes(dataset: Dataset, tmp_path: Path) -> None:
    assert len(dataset.shards) > 3
    reader = Reader(pickle.loads(pickle.dumps(dataset)), tmp_path / "cache", 1)
    assert [reader.read(i) for i in range(40)] == IMAGES
    reader.close()
    assert not (tmp_path / "cache").exists()


def test_reader_keeps_few_files_open(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_OPEN", 2)
    reader = Reader(dataset, tmp_path / "cache", 1)
    before = len(os.listdir("/proc/self/fd"))
    for sample in [*range(40), *range(0, 40, 3)]:
        assert reader.read(sample) == IMAGES[sample]
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_changed_byte_or_a_cut_shard_is_a_damaged_sample(
    dataset: Dataset, tmp_path: Path
) -> None:
    shard = dataset.shards[1]
    path = tmp_path / "set" / shard.key
    index = dataset.index()
    sample = int((index["shard"] == 1).argmax())
    content = bytearray(path.read_bytes())
    content[int(index[sample]["offset"]) + 100] ^= 1
    path.write_bytes(content)
    reader = Reader(dataset, tmp_path / "cache", 1)
    with pytest.raises(DamagedSample, match=f"^sample {sample} in shard {shard.key} has a wrong"):
        reader.read(sample)
    assert reader.read(sample + 1) == IMAGES[sample + 1]
    path.write_bytes(content[:600])
    with pytest.raises(DamagedSample, match=f"^sample {sample + 1} in shard {shard.key}"):
        reader.read(sample + 1)
    reader.close()


def test_a_shard_that_vanished_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "set" / dataset.shards[0].key).unlink()
    reader = Reader(dataset, tmp_path / "cache", 1)
    with pytest.raises(StorageError, match=f"cannot read shard .*{dataset.shards[0].key}: no such"):
        reader.read(0)
    reader.close()


def test_room_is_what_the_lanes_span(dataset: Dataset) -> None:
    total = sum(shard.size for shard in dataset.shards)
    largest = max(shard.size for shard in dataset.shards)
    assert room_bytes(dataset, lanes=192, window=4096) == total
    assert room_bytes(dataset, lanes=1, window=1) == min(total, 4 * largest)


# --- the node's cache ---------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "far"))


def put(far: Store, key: str, size: int = 1000) -> tuple[Store, str, int, str]:
    """Stores an object; gives the arguments of NodeCache.open."""
    data = hashlib.sha256(key.encode()).digest() * (size // 32 + 1)
    far.put(key, data[:size])
    return far, key, size, hashlib.sha256(data[:size]).hexdigest()


def use(node: NodeCache, wanted: tuple[Store, str, int, str]) -> bytes:
    descriptor = node.open(*wanted)
    with open(descriptor, "rb") as file:
        return file.read()


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_object_is_downloaded_once(far: Store, tmp_path: Path) -> None:
    wanted = put(far, "a")
    first, second = NodeCache(tmp_path / "node", 5000), NodeCache(tmp_path / "node", 5000)
    assert use(first, wanted) == use(first, wanted) == use(second, wanted) == far.get("a")
    assert (first.num_downloads, second.num_downloads) == (1, 0)
    assert first.downloaded_bytes == 1000
    assert (first.num_hits, second.num_hits, first.num_failures) == (1, 1, 0)


def test_the_least_recently_used_goes_and_the_bound_holds(far: Store, tmp_path: Path) -> None:
    node = NodeCache(tmp_path / "node", 3000)
    a, b, c, d = (put(far, key) for key in "abcd")
    for age_s, wanted in ((30, a), (20, b), (10, c)):
        use(node, wanted)
        path = node.path(wanted[3])
        os.utime(path, ns=(0, path.stat().st_mtime_ns - age_s * 10**9))
    use(node, a)  # now the youngest
    use(node, d)
    assert [node.path(wanted[3]).exists() for wanted in (a, b, c, d)] == [True, False, True, True]
    assert kept(tmp_path / "node") == 3000
    assert use(node, b) == far.get("b")
    assert kept(tmp_path / "node") == 3000


def test_an_evicted_object_can_still_be_read_by_who_opened_it(far: Store, tmp_path: Path) -> None:
    node = NodeCache(tmp_path / "node", 1500)
    a, b = put(far, "a"), put(far, "b")
    descriptor = node.open(*a)
    use(node, b)
    assert not node.path(a[3]).exists()
    assert os.pread(descriptor, 1000, 0) == far.get("a")
    os.close(descriptor)


def test_an_object_larger_than_the_bound_is_refused_with_the_figure(
    far: Store, tmp_path: Path
) -> None:
    node = NodeCache(tmp_path / "node", 999)
    with pytest.raises(StorageError, match=r"far/a has 1,000 bytes, but .* may hold 999 \(data\."):
        use(node, put(far, "a"))


def test_a_corrupt_object_is_fetched_again_then_named(
    far: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = NodeCache(tmp_path / "node", 5000, pause_s=0.01)
    wanted = put(far, "a")
    good = far.get("a")
    for bad, words in ((b"x" + good[1:], "has the SHA-256"), (good[:-1], "has 999 bytes")):
        far.put("a", bad)
        caplog.clear()
        with pytest.raises(CorruptObject, match=f"{far.address}/a {words}.*in each of 3 downl"):
            use(node, wanted)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert kept(tmp_path / "node") == 0
    assert node.num_downloads == 6
    far.put("a", good)
    assert use(node, wanted) == good


def test_an_absent_object_is_not_asked_for_again(far: Store, tmp_path: Path) -> None:
    node = NodeCache(tmp_path / "node", 5000, pause_s=60)
    wanted = put(far, "a")
    far.remove("a")
    with pytest.raises(NotFound, match=f"no such object: {far.address}/a"):
        use(node, wanted)


def test_leftovers_of_the_dead_go_and_living_downloads_stay(tmp_path: Path) -> None:
    NodeCache(tmp_path / "node", 5000)
    incoming = tmp_path / "node/incoming"
    dead, alive = incoming / f"{'0' * 64}.500.dead", incoming / f"{'1' * 64}.500.alive"
    dead.write_bytes(bytes(400))
    with open(alive, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        NodeCache(tmp_path / "node", 5000)
        assert list(incoming.iterdir()) == [alive]


def test_downloads_under_way_count_with_their_full_size(far: Store, tmp_path: Path) -> None:
    node = NodeCache(tmp_path / "node", 3000)
    a, b = put(far, "a"), put(far, "b")
    use(node, a)
    with open(tmp_path / "node/incoming" / f"{'1' * 64}.1500.alive", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # nothing written yet
        use(node, b)
    assert not node.path(a[3]).exists()
    assert node.path(b[3]).exists()
