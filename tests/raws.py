"""Small WebVision folders and datasets for tests: real JPEGs of noise, in the real layouts."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from trainer.data.write import Writer
from trainer.storage import open_store

SYNSETS = ("n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark")


def picture(seed: int, width: int = 20, height: int = 16, **options: Any) -> bytes:
    """A small image file; `format` and `mode` may be given, else it is an RGB JPEG."""
    mode, kind = options.pop("mode", "RGB"), options.pop("format", "JPEG")
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@dataclass
class Sample:
    """One training image of a list."""

    id: str
    source: str = "google"
    query: int = 1
    label: int = 0
    data: bytes | None = None
    """None: there is no file."""
    text: dict[str, Any] = field(default_factory=dict)
    """Beside the id; may overwrite it."""


def samples(count: int, num_classes: int = 3) -> list[Sample]:
    """Good samples, alternately of google and flickr, a query for each class."""
    return [
        Sample(
            f"img{i:04d}",
            source=("google", "flickr")[i % 2],
            query=i % num_classes + 1,
            label=i % num_classes,
            data=picture(i),
            text={"title": f"title {i}", "description": f"description {i}"},
        )
        for i in range(count)
    ]


def big(count: int) -> list[Sample]:
    """Good samples of google, of which three fill a shard of 1 MiB."""
    data = picture(1, 300, 300, format="BMP")
    return [Sample(f"img{i:04d}", data=data) for i in range(count)]


@dataclass
class Tree:
    """Writes a raw folder; what tests want broken they change afterwards or by the fields."""

    root: Path
    layout: Literal["1.0", "2.0"] = "2.0"
    class_base: int | None = None
    """Of queries_synsets_map.txt; by default 1 in 1.0 and 0 in 2.0."""
    query_base: int = 1
    synsets: tuple[str, ...] = SYNSETS

    def image(self, sample: Sample) -> str:
        """The sample's path in the lists."""
        if self.layout == "1.0":
            return f"{sample.source}/q{sample.query:04d}/{sample.id}.jpg"
        return f"{sample.source}_images_resized/q{sample.query:05d}/{sample.id}.jpg"

    def meta(self, sample: Sample) -> str:
        digits = 4 if self.layout == "1.0" else 5
        return f"{sample.source}/q{sample.query:0{digits}d}.json"

    def write(
        self,
        members: list[Sample],
        val: Sequence[tuple[int, bytes]] = (),
        test: Sequence[bytes | None] = (),
    ) -> Tree:
        """val: label and image file of each validation image. test: files of the test list's."""
        info = self.root / "info"
        info.mkdir(parents=True)
        texts: dict[str, list[dict[str, Any]]] = {}
        lists: dict[str, list[str]] = {"google": [], "flickr": []}
        metas: dict[str, list[str]] = {"google": [], "flickr": []}
        for sample in members:
            rows = texts.setdefault(self.meta(sample), [])
            rows.append({"id": sample.id, "rank": str(len(rows)), **sample.text})
            lists[sample.source].append(f"{self.image(sample)} {sample.label}")
            metas[sample.source].append(f"{self.meta(sample)} {len(rows)}")
            path = self.root / self.image(sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            if sample.data is not None:
                path.write_bytes(sample.data)
        for meta, rows in texts.items():
            path = self.root / meta
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows))
        for source in lists:
            _lines(info / f"train_filelist_{source}.txt", lists[source])
            _lines(info / f"train_meta_list_{source}.txt", metas[source])
        _lines(info / "train_filelist_all.txt", [*lists["google"], *lists["flickr"]])
        if self.layout == "1.0":
            _lines(info / "train_meta_list_all.txt", [*metas["google"], *metas["flickr"]])
        self._write_queries(members)
        _lines(info / "synsets.txt", self.synsets)
        images = self.root / ("val_images_256" if self.layout == "1.0" else "val_images_resized")
        images.mkdir()
        for number, (_, data) in enumerate(val, 1):
            (images / f"val{number:06d}.jpg").write_bytes(data)
        entries = [f"val{number:06d}.jpg {label}" for number, (label, _) in enumerate(val, 1)]
        _lines(info / "val_filelist.txt", entries)
        if test:
            self._write_test(test)
        return self

    def _write_test(self, test: Sequence[bytes | None]) -> None:
        images = self.root / ("test_images_256" if self.layout == "1.0" else "test_images_resized")
        images.mkdir()
        names = [f"test{number:06d}.jpg" for number in range(1, len(test) + 1)]
        for name, data in zip(names, test, strict=True):
            if data is not None:
                (images / name).write_bytes(data)
        _lines(self.root / "info/test_filelist.txt", names)

    def _write_queries(self, members: list[Sample]) -> None:
        info = self.root / "info"
        classes = {sample.query: sample.label for sample in members}
        words = [f"{query} query+{query}" for query in sorted(classes)]
        if self.layout == "1.0":
            _lines(info / "queries_google.txt", words)
            _lines(info / "queries_flickr.txt", words)
        else:
            _lines(info / "queries.txt", words)
        base = self.class_base
        base = int(self.layout == "1.0") if base is None else base
        pairs = [f"{q - 1 + self.query_base} {c + base}" for q, c in sorted(classes.items())]
        _lines(info / "queries_synsets_map.txt", pairs)


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def flaw(raw: Path) -> dict[str, list[str]]:
    """Breaks a 2.0 folder of `samples` in each way; gives the lines of pack's files of names."""
    (raw / "google_images_resized/q00001/img0000.jpg").write_bytes(b"<html>")
    (raw / "flickr_images_resized/q00002/img0001.jpg").unlink()
    (raw / "flickr/q00001.json").write_text("{}")
    labels = raw / "info/train_filelist_google.txt"
    labels.write_text(labels.read_text().replace("img0002.jpg 2", "img0002.jpg 1"))
    rows = raw / "info/train_meta_list_flickr.txt"
    rows.write_text(rows.read_text().replace("flickr/q00003.json 1", "flickr/q00003.json 3"))
    image = "google_images_resized/q0000"
    return {
        "damaged": [f"{image}1/img0000.jpg\tnot a whole picture: in no format that Pillow knows"],
        "missing": ["flickr_images_resized/q00002/img0001.jpg\tno such file"],
        "mismatched": [
            f"{image}3/img0002.jpg\tlabel 1, but query 3 is of class 2",
            "flickr_images_resized/q00003/img0005.jpg\t"
            "row 3 of flickr/q00003.json, whose rows are 1 to 2",
        ],
        "unreadable_texts": ["flickr/q00001.json\tnot a JSON array, but dict"],
    }


def write_dataset(address: str, images: list[bytes], shard_bytes: int = 8192) -> None:
    """A packed dataset of these images, of class id % 3, in shards of about `shard_bytes`."""
    writer = Writer(open_store(address), shard_bytes, len(images))
    for number, data in enumerate(images):
        texts = {"name": f"{number}.jpg", "title": f"picture {number}"}
        writer.add(data, zlib.crc32(data), number % 3, texts)
    writer.commit(SYNSETS, {"layout": "webvision-2.0", "split": "train"})
    writer.close(keep=True)
