"""Packing as a command: what it writes, what it tells, how it refuses and what it leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.raws import SYNSETS, Tree, big, flaw, picture, samples, write_dataset
from trainer import pack
from trainer.data import order
from trainer.data.cache import Reader
from trainer.data.records import names_of
from trainer.data.shards import INDEX, DatasetError, open_dataset

Captured = pytest.CaptureFixture[str]
VAL = [(2, picture(90)), (2, picture(91)), (0, picture(92))]


@pytest.fixture(autouse=True)
def _handler_of_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return Tree(tmp_path / "raw").write(samples(12), VAL).root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "set"


def run(raw: object, out: object, *flags: str) -> int:
    return pack.main([str(raw), str(out), "--processes", "0", *flags])


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def packed(out: Path) -> list[dict[str, Any]]:
    """The texts of all samples, with image and label as the index has them."""
    dataset = open_dataset(str(out), out)
    found = []
    for shard in read(out / "manifest.json")["shards"]:
        lines = (out / shard["texts"]["key"]).read_text(encoding="utf-8").splitlines()
        found += [json.loads(line) for line in lines]
    for row, record in zip(dataset.index(), found, strict=True):
        start, length = int(row["offset"]), int(row["length"])
        tar = (out / dataset.shards[row["shard"]].key).read_bytes()
        record |= {"image": tar[start : start + length], "label": int(row["label"])}
        assert zlib.crc32(record["image"]) == row["crc32"]
    return found


def one_line(captured: Captured) -> str:
    """What is told on stderr beside the progress."""
    lines = captured.readouterr().err.splitlines()
    (line,) = (line for line in lines if not line.endswith(" to go"))
    assert line.startswith("trainer.pack: ")
    return line.removeprefix("trainer.pack: ")


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["1.0", "2.0"])
def test_every_image_is_kept_with_label_and_texts(
    layout: Any, tmp_path: Path, out: Path, capsys: Captured
) -> None:
    tree = Tree(tmp_path / "raw", layout).write(samples(12), VAL)
    assert run(tree.root, out) == 0
    told = capsys.readouterr().out.splitlines()
    counts = "damaged 0, missing 0, mismatched 0, unreadable texts 0"
    assert told[0] == f"packed 12 of 12 images, {counts}"
    assert told[1].endswith(f"images/s; file://{out}")
    records = packed(out)
    assert [record["id"] for record in records] == list(range(12))
    by_name = {record["name"]: record for record in records}
    for number, sample in enumerate(samples(12)):
        record = by_name[tree.image(sample)]
        assert (record["image"], record["label"]) == (sample.data, sample.label)
        assert record["title"] == f"title {number}"
        assert record["query"] == f"query {sample.query}"


def test_a_test_list_keeps_its_order_and_every_line(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    images: list[bytes | None] = [picture(i) for i in range(30)]
    images[7], images[11] = b"<html>", None
    root = Tree(tmp_path / "raw").write(samples(3), test=images).root
    assert run(root, out, "--split", "test") == 0
    assert "packed 28 of 30 images, damaged 1, missing 1" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="packed from a test list, which tells no labels"):
        open_dataset(str(out), tmp_path / "cache")
    dataset = open_dataset(str(out), tmp_path / "cache", labelled=False)
    assert not dataset.labelled
    names = [f"test_images_resized/test{number:06d}.jpg" for number in range(1, 31)]
    assert names_of(dataset) == names
    index = dataset.index()
    assert not index["label"].any()
    reader = Reader(dataset, tmp_path / "cache", 1 << 20)
    kept = [reader.read(number) for number in range(30)]
    assert kept == [image if number not in (7, 11) else b"" for number, image in enumerate(images)]
    assert (out / "missing.txt").read_text() == f"{names[11]}\tno such file\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a.jpg", "b.jpg", "a.jpg"], "line 3 is 'a.jpg', as line 1 is"),
        (["a.jpg 4"], "line 1 is 'a.jpg 4', but it must be an image's path"),
        (["../a.jpg"], "line 1 is '../a.jpg', but it must be an image's path"),
        ([], "is empty; it must name at least one image"),
    ],
)
def test_a_wrong_test_list_names_its_line(
    tmp_path: Path, out: Path, capsys: Captured, lines: list[str], said: str
) -> None:
    root = Tree(tmp_path / "raw").write(samples(3), test=[picture(1)]).root
    (root / "info/test_filelist.txt").write_text("\n".join(lines))
    assert run(root, out, "--split", "test") == 1
    assert said in one_line(capsys)
    assert not out.exists()


def test_manifest_and_report(raw: Path, out: Path) -> None:
    assert run(raw, out) == 0
    manifest, report = read(out / "manifest.json"), read(out / "report.json")
    index, (shard,) = manifest.pop("index"), manifest.pop("shards")
    assert manifest == {
        "format": "shards/1",
        "num_samples": 12,
        "num_classes": 3,
        "classes": list(SYNSETS),
        "source": {
            "layout": "webvision-2.0",
            "split": "train",
            "source": "all",
            "short_side_px": 16,
        },
    }
    assert sorted(shard) == ["key", "num_samples", "sha256", "size", "texts"]
    for described in (index, shard, shard["texts"]):
        content = (out / described["key"]).read_bytes()
        assert described["size"] == len(content)
        assert described["sha256"] == hashlib.sha256(content).hexdigest()
    assert np.load(out / index["key"], allow_pickle=False).dtype == INDEX
    digest = hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert (report["dataset_sha256"], report["bytes"]) == (digest, shard["size"])
    assert sorted(path.name for path in out.glob("*.*")) == ["manifest.json", "report.json"]


def test_shards_are_webdataset_tars(tmp_path: Path, out: Path) -> None:
    members = big(7)
    assert run(Tree(tmp_path / "raw").write(members).root, out, *BIG) == 0
    shards = read(out / "manifest.json")["shards"]
    assert [shard["num_samples"] for shard in shards] == [3, 3, 1]
    records = packed(out)
    names = []
    for shard in shards:
        assert shard["size"] <= 1 << 20
        with tarfile.open(out / shard["key"], "r:") as tar:
            assert (out / shard["key"]).read_bytes()[257:263] == b"ustar\0"
            for image, label in zip(*[iter(tar.getmembers())] * 2, strict=True):
                record = records[len(names) // 2]
                names += [image.name, label.name]
                assert image.offset_data % 512 == 0
                assert tar.extractfile(image).read() == record["image"]  # type: ignore[union-attr]
                assert tar.extractfile(label).read() == b"%d" % record["label"]  # type: ignore[union-attr]
    assert names == [f"{i:010d}.{kind}" for i in range(7) for kind in ("jpg", "cls")]


def test_the_seed_alone_decides_the_order(raw: Path, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(raw, tmp_path / name, "--seed", seed) == 0
        orders.append([record["name"] for record in packed(tmp_path / name)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) != orders[0]  # raw data is grouped by query


def test_the_validation_split(raw: Path, out: Path) -> None:
    (raw / "info/queries_synsets_map.txt").write_text("nobody asks it about val")
    assert run(raw, out, "--split", "val", "--strict") == 0
    manifest = read(out / "manifest.json")
    source = {"layout": "webvision-2.0", "split": "val", "short_side_px": 16}
    assert (manifest["source"], manifest["num_classes"]) == (source, 3)
    expected = {f"val_images_resized/val{n:06d}.jpg": pair for n, pair in enumerate(VAL, 1)}
    found = {record["name"]: (record["label"], record["image"]) for record in packed(out)}
    assert found == expected


def test_one_source_and_the_first_classes(raw: Path, out: Path) -> None:
    (raw / "google_images_resized/q00001/img0000.jpg").write_bytes(picture(1, 40, 30))
    assert run(raw, out, "--source", "google", "--classes", "2") == 0
    manifest = read(out / "manifest.json")
    source = {"layout": "webvision-2.0", "split": "train", "source": "google"}
    assert manifest["source"] == source  # no short side: they differ
    assert (manifest["num_classes"], manifest["classes"]) == (2, list(SYNSETS[:2]))
    assert sorted(record["label"] for record in packed(out)) == [0, 0, 1, 1]


def test_the_manifest_names_the_source_that_was_there(raw: Path, out: Path) -> None:
    for name in ("train_filelist_flickr.txt", "train_filelist_all.txt"):
        (raw / "info" / name).unlink()
    assert run(raw, out) == 0
    assert read(out / "manifest.json")["source"]["source"] == "google"


# --- what is not quite right --------------------------------------------------------------------


def check_report(out: Path, names: dict[str, list[str]], num_packed: int) -> None:
    report = read(out / "report.json")
    assert (report["listed"], report["packed"]) == (12, num_packed)
    for kind, lines in names.items():
        assert report[kind] == len(lines)
        assert (out / f"{kind}.txt").read_text().splitlines() == lines


COUNTS = "packed 10 of 12 images, damaged 1, missing 1, mismatched 2, unreadable texts 1"


def test_flaws_are_counted_and_named(raw: Path, out: Path, capsys: Captured) -> None:
    names = flaw(raw)
    assert run(raw, out) == 0
    assert capsys.readouterr().out.splitlines()[0] == COUNTS
    check_report(out, names, 10)
    records = {Path(record["name"]).stem: record for record in packed(out)}
    assert sorted(records) == sorted(f"img{i:04d}" for i in range(2, 12))
    assert records["img0002"]["label"] == 1  # the list's label is the truth
    assert records["img0005"]["title"] == "title 5"  # found by its id
    assert records["img0003"]["title"] == ""  # its texts could not be read


def test_strict_packs_nothing_but_names_all(raw: Path, out: Path, capsys: Captured) -> None:
    names = flaw(raw)
    assert run(raw, out, "--strict") == 1
    where = f"nothing was packed, the names are in file://{out}"
    assert one_line(capsys) == f"--strict: {COUNTS}; {where}"
    check_report(out, names, 10)
    assert read(out / "report.json")["dataset_sha256"] == ""
    assert {path.name for path in out.iterdir()} == {"report.json", *(f"{k}.txt" for k in names)}
    for name in ("google_images_resized/q00001/img0000", "flickr_images_resized/q00002/img0001"):
        (raw / f"{name}.jpg").write_bytes(picture(1))
    assert run(raw, out) == 0  # the place is still free
    assert not (out / "damaged.txt").exists()
    assert (out / "mismatched.txt").exists()


@pytest.mark.parametrize(
    ("file", "content", "flaw_of"),
    [
        ("google_images_resized/q00001/img0000.jpg", "<html>", "damaged 1"),
        ("google_images_resized/q00001/img0000.jpg", None, "missing 1"),
        ("google/q00001.json", '[{}, {"id": "img0006"}]', "mismatched 1"),
        ("info/queries_synsets_map.txt", "1 0\n2 1\n3 1\n", "mismatched 4"),
        ("google/q00001.json", None, "unreadable texts 1"),
    ],
)
def test_strict_refuses_each_flaw_alone(
    file: str, content: str | None, flaw_of: str, raw: Path, out: Path, capsys: Captured
) -> None:
    (raw / file).unlink()
    if content is not None:
        (raw / file).write_text(content)
    assert run(raw, out, "--strict") == 1
    assert f", {flaw_of}" in one_line(capsys)
    assert not (out / "manifest.json").exists()


def test_strict_is_content_with_flawless_data(raw: Path, out: Path) -> None:
    assert run(raw, out, "--strict") == 0
    assert len(packed(out)) == 12


def test_nothing_good_is_no_dataset(raw: Path, out: Path, capsys: Captured) -> None:
    for path in raw.glob("*_images_resized/q*/*.jpg"):
        path.write_bytes(b"")
    assert run(raw, out) == 1
    assert one_line(capsys).startswith("none of the 12 images is good; packed 0 of 12 images, dam")
    assert files_below(out) == []


# --- twice, at once, interrupted ----------------------------------------------------------------

BIG = ("--source", "google", "--shard-mib", "1")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """A raw folder whose packing writes two shards and then waits for the last image."""
    members = big(8)
    tree = Tree(tmp_path / "raw").write(members)
    last = tree.root / tree.image(members[order.permutation(8, "pack", 0)[-1]])
    last.unlink()
    os.mkfifo(last)
    return tree.root


def meanwhile(out: Path, act: Callable[[], object]) -> threading.Thread:
    """Acts once the first shard is there."""

    def wait() -> None:
        ends_at = time.monotonic() + 60
        while not list(out.glob("*/*.tar")) and time.monotonic() < ends_at:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_main(number: signal.Signals, stuck: Path) -> None:
    """Signals the packer, and lets it go on where it opened the pipe only after the signal came."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)
    (fifo,) = (path for path in stuck.rglob("*.jpg") if path.is_fifo())
    for _ in range(100):
        time.sleep(0.05)
        with contextlib.suppress(OSError):  # nobody waits there
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            return


def test_a_second_time_is_refused(raw: Path, out: Path, capsys: Captured) -> None:
    assert run(raw, out) == 0
    before = files_below(out)
    capsys.readouterr()
    assert run(raw, out) == 1
    said = f"file://{out}/manifest.json exists already; pack into another folder"
    assert one_line(capsys) == said
    assert files_below(out) == before


def test_sigterm_leaves_nothing(stuck: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = stuck.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    meanwhile(out, lambda: signal_main(signal.SIGTERM, stuck))
    with pytest.raises(SystemExit) as caught:
        run(stuck, out, *BIG)
    assert caught.value.code == 143
    assert files_below(out) == []
    assert list(scratch.iterdir()) == []


@pytest.fixture
def heeds_control_c() -> Iterator[None]:
    """A background job of a shell is started with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_control_c")
def test_control_c_leaves_nothing(stuck: Path, out: Path, capsys: Captured) -> None:
    meanwhile(out, lambda: signal_main(signal.SIGINT, stuck))
    assert run(stuck, out, *BIG) == 130
    assert one_line(capsys) == "interrupted; nothing was packed"
    assert files_below(out) == []


def test_until_the_manifest_is_there_is_no_dataset(stuck: Path, out: Path) -> None:
    refusals: list[str] = []

    def look_then_go_on() -> None:
        try:
            open_dataset(str(out), out)
        except DatasetError as error:
            refusals.append(str(error))
        feed(stuck)

    meanwhile(out, look_then_go_on)
    assert run(stuck, out, *BIG) == 0
    assert refusals[0].startswith(f"no dataset at file://{out}")
    assert len(packed(out)) == 8


def feed(stuck: Path) -> None:
    (fifo,) = (path for path in stuck.rglob("*.jpg") if path.is_fifo())
    fifo.write_bytes(big(1)[0].data or b"")


def test_the_slower_of_two_packers_leaves_the_other_s_dataset(
    stuck: Path, out: Path, capsys: Captured
) -> None:
    def other() -> None:
        write_dataset(str(out), [b"other"])
        feed(stuck)

    thread = meanwhile(out, other)
    assert run(stuck, out, *BIG) == 1
    thread.join()
    assert "exists already: another packer was faster; pack elsewhere" in one_line(capsys)
    assert [record["image"] for record in packed(out)] == [b"other"]
    assert len(files_below(out)) == 4  # manifest, index, shard, texts


def test_leftovers_of_a_killed_packer_do_no_harm(raw: Path, out: Path) -> None:
    left = out / "0123456789abcdef/000000.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert run(raw, out) == 0
    assert len(packed(out)) == 12
    assert left.read_bytes() == b"half"


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RAW"], "the following arguments are required: DATASET"),
        (["RAW/absent", "OUT"], "argument RAW: no such folder: RAW/absent"),
        ([f"RAW/{'a' * 300}", "OUT"], "argument RAW: no such folder: RAW/aaa"),
        (["s3://b/raw", "OUT"], "no such folder: s3://b/raw; raw data is read from a local folder"),
        (["RAW", "OUT", "--split", "tests"], "argument --split: invalid choice: 'tests'"),
        (["RAW", "OUT", "--source", "bing"], "argument --source: invalid choice: 'bing'"),
        (["RAW", "OUT", "--classes", "0"], "'0' is not a whole number from 1 to 1048576"),
        (["RAW", "OUT", "--shard-mib", "1e3"], "'1e3' is not a whole number from 1 to 4096"),
        (["RAW", "OUT", "--seed", "-1"], "argument --seed: "),
        (["RAW", "OUT", "--quick"], "unrecognized arguments: --quick"),
        (["RAW", "gs://b/set"], "address 'gs://b/set' has no known form; expected s3://bucket/f"),
        (["RAW", "s3://B/set"], "address 's3://B/set' names the bucket 'B'"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, raw: Path, out: Path, capsys: Captured
) -> None:
    given = [text.replace("RAW", str(raw)).replace("OUT", str(out)) for text in arguments]
    try:
        code = pack.main(given)
    except SystemExit as error:  # argparse's way
        code = int(error.code or 0)
    assert code == 2
    assert said.replace("RAW/", f"{raw}/") in one_line(capsys)
    assert not out.exists()


def test_what_is_not_webvision_fails(
    tmp_path: Path, raw: Path, out: Path, capsys: Captured
) -> None:
    assert run(tmp_path, out) == 1
    assert one_line(capsys).startswith(f"{tmp_path} is not WebVision's layout")
    assert run(raw, out, "--classes", "4") == 1
    assert one_line(capsys) == f"--classes is 4, but {raw}/info/synsets.txt has 3"
    labels = raw / "info/val_filelist.txt"
    labels.write_text("val000003.jpg 2\n")
    assert run(raw, out, "--split", "val", "--classes", "1") == 1
    assert one_line(capsys) == "no listed image is of the first 1 classes"
    assert not out.exists()


def test_a_place_that_cannot_be_written_fails(raw: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("")
    assert run(raw, tmp_path / "file/set") == 1
    assert one_line(capsys).startswith(f"cannot write file://{tmp_path}/file/set/")
