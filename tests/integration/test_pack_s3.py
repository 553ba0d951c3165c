"""Packing into a bucket of a real S3 server, and reading back through the node's cache."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.raws import Tree, big, flaw, picture, samples
from tests.servers import BUCKET, READER, S3Server
from trainer import pack
from trainer.data import order
from trainer.data.cache import Fetched, Reader
from trainer.data.fetch import CorruptObject
from trainer.data.shards import Dataset, DatasetError, open_dataset
from trainer.storage import open_store

BIG = ("--source", "google", "--shard-mib", "1")
ROOM = 1 << 30


@pytest.fixture(autouse=True)
def _handler_of_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def packed(tmp_path: Path, address: str) -> Dataset:
    """Eight pictures of 270 KB each, in shards of three."""
    members = big(8)
    for number, sample in enumerate(members):
        sample.data = picture(number, 300, 300, format="BMP")
    root = Tree(tmp_path / "raw").write(members).root
    assert pack.main([str(root), address, "--processes", "0", *BIG]) == 0
    return open_dataset(address, tmp_path / "cache")


def keys(address: str) -> list[str]:
    return [entry.key for entry in open_store(address).list()]


def started(raw: Path, address: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.pack", str(raw), address, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_a_bucket_s_dataset_is_read_through_the_cache(tmp_path: Path, s3_address: str) -> None:
    dataset = packed(tmp_path, s3_address)
    assert dataset.address == s3_address
    assert len(keys(s3_address)) == 9  # three shards, their texts, index, manifest, report
    expected = {picture(number, 300, 300, format="BMP") for number in range(8)}
    reader = Reader(dataset, tmp_path / "cache", ROOM)
    reader.prefetch(2)
    assert {reader.read(sample) for sample in range(8)} == expected
    reader.close()
    assert reader.cache.num_downloads == 3
    assert reader.fetched().download_bytes == sum(shard.size for shard in dataset.shards)
    for key in keys(s3_address):
        open_store(s3_address).remove(key)
    again = Reader(dataset, tmp_path / "cache", ROOM)  # all is on the node
    assert {again.read(sample) for sample in range(8)} == expected
    again.close()
    assert again.fetched() == Fetched(hits=8)


def test_a_small_cache_holds_its_bound(tmp_path: Path, s3_address: str) -> None:
    dataset = packed(tmp_path, s3_address)
    room = 2 * max(shard.size for shard in dataset.shards)
    reader = Reader(dataset, tmp_path / "cache", room)
    for sample in [*range(8), *range(8)]:
        reader.read(sample)
        shards = (tmp_path / "cache/shards").rglob("*")
        assert sum(path.stat().st_size for path in shards if path.is_file()) <= room
    reader.close()
    assert reader.cache.num_downloads > 3


def test_flaws_are_told_beside_the_dataset(tmp_path: Path, s3_address: str) -> None:
    root = Tree(tmp_path / "raw").write(samples(12)).root
    names = flaw(root)
    arguments = [str(root), s3_address, "--processes", "0"]
    assert pack.main([*arguments, "--strict"]) == 1
    told = sorted(["report.json", *(f"{kind}.txt" for kind in names)])
    assert keys(s3_address) == told
    assert pack.main(arguments) == 0
    assert len(open_dataset(s3_address, tmp_path / "cache").index()) == 10
    for kind, lines in names.items():
        assert open_store(s3_address).get(f"{kind}.txt").decode().splitlines() == lines


def test_one_of_two_packers_wins_and_the_other_leaves_nothing(
    tmp_path: Path, s3_address: str
) -> None:
    root = Tree(tmp_path / "raw").write(samples(12)).root
    both = [started(root, s3_address, "--processes", "0") for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1]
    assert "manifest.json exists already" in told[codes.index(1)]
    assert len(keys(s3_address)) == 5  # one shard, its texts, index, manifest, report
    dataset = open_dataset(s3_address, tmp_path / "cache")
    reader = Reader(dataset, tmp_path / "cache", ROOM)
    assert {reader.read(number) for number in range(12)} == {s.data for s in samples(12)}
    reader.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_while_packing(
    number: signal.Signals, tmp_path: Path, s3: S3Server, s3_address: str
) -> None:
    members = big(20)
    tree = Tree(tmp_path / "raw").write(members)
    last = tree.root / tree.image(members[order.permutation(20, "pack", 0)[-1]])
    last.unlink()
    os.mkfifo(last)  # a picture that takes for ever
    process = started(tree.root, s3_address, *BIG, "--processes", "2")
    ends_at = time.monotonic() + 120
    while not keys(s3_address) and time.monotonic() < ends_at:
        time.sleep(0.1)
    process.send_signal(number)
    while process.poll() is None:  # the process that reads the picture ends with its chunk
        feed(last)
    process.communicate()
    with pytest.raises(DatasetError, match=f"^no dataset at {s3_address}: it has no manifest"):
        open_dataset(s3_address, tmp_path / "cache")
    assert s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert keys(s3_address) == []
    last.unlink()
    assert pack.main([str(tree.root), s3_address, "--processes", "0", *BIG]) == 0
    assert open_dataset(s3_address, tmp_path / "cache").num_samples == 19


def feed(fifo: Path) -> None:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody reads it
        time.sleep(0.05)


def test_a_changed_shard_is_named(tmp_path: Path, s3_address: str) -> None:
    dataset = packed(tmp_path, s3_address)
    store, shard = open_store(s3_address), dataset.shards[1]
    content = store.get(shard.key)
    store.put(shard.key, content[:-1] + b"x")
    reader = Reader(dataset, tmp_path / "cache", ROOM)
    first = int((dataset.index()["shard"] == 1).argmax())
    with pytest.raises(CorruptObject, match=f"^{s3_address}/{shard.key} has the SHA-256 "):
        reader.read(first)
    store.put(shard.key, content)
    assert len(reader.read(first)) == int(dataset.index()["length"][first])
    reader.close()


def test_a_bad_dataset_in_a_bucket_is_told_in_one_line(tmp_path: Path, s3_address: str) -> None:
    packed(tmp_path, s3_address)
    store = open_store(s3_address)
    index = next(key for key in keys(s3_address) if key.endswith("index.npy"))
    content = store.get(index)
    store.put(index, content[:-24])
    said = f"^{s3_address}/{index} has {len(content) - 24} bytes, but its manifest says "
    with pytest.raises(CorruptObject, match=said):
        open_dataset(s3_address, tmp_path / "another node")
    store.remove(index)
    said = f"^the index {s3_address}/{index} is missing, but the manifest names it$"
    with pytest.raises(DatasetError, match=said):
        open_dataset(s3_address, tmp_path / "another node")
    with pytest.raises(DatasetError, match=r"^no dataset at s3://absent/set: it has no manifest"):
        open_dataset("s3://absent/set", tmp_path / "cache")


def test_buckets_that_may_not_be_written(
    tmp_path: Path,
    s3: S3Server,
    s3_address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = Tree(tmp_path / "raw").write(samples(4)).root
    assert pack.main([str(root), "s3://absent/set", "--processes", "0"]) == 1
    assert "trainer.pack: no such bucket: s3://absent" in capsys.readouterr().err
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    assert pack.main([str(root), s3_address, "--processes", "0"]) == 1
    assert "AccessDenied" in capsys.readouterr().err
    assert keys(s3_address) == []
