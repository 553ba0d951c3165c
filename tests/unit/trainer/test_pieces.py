"""What is computed piece by piece: made once, checked when read, never mixed up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.raws import write_dataset
from tests.unit.trainer.shards import write_shards
from trainer.config import TextConfig
from trainer.data.records import texts_of_shard
from trainer.data.shards import Dataset, DatasetError, Shard, open_dataset
from trainer.data.write import Writer
from trainer.pieces import PIECE_SAMPLES, Pieces, Span, spans
from trainer.storage import open_store
from trainer.text import parts
from trainer.text.ngrams import Ngrams

SPAN, NEXT = Span(0, 0, 4, range(2)), Span(1, 4, 2, range(2, 3))
MADE_OF = [1, "dataset", {"tags": True}]


def arrays(value: float = 0.0, rows: int = 4) -> dict[str, np.ndarray]:
    return {"vectors": np.full((rows, 3), value, np.float16), "facts": np.arange(rows)}


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) and first[name].dtype == second[name].dtype
        for name in first
    )


def test_a_piece_is_missing_until_it_is_kept_and_read_as_it_was(tmp_path: Path) -> None:
    pieces = Pieces.of(str(tmp_path), "texts", MADE_OF)
    assert pieces.missing([SPAN, NEXT]) == [SPAN, NEXT]
    pieces.keep(SPAN, arrays())
    assert pieces.missing([SPAN, NEXT]) == [NEXT]
    again = Pieces.of(str(tmp_path), "texts", list(MADE_OF))
    assert again.missing([SPAN]) == []
    assert same(again.read(SPAN), arrays())
    with pytest.raises(DatasetError, match=r"000001\.json is missing .*; run it again"):
        again.read(NEXT)


@pytest.mark.parametrize(
    ("folder", "made_of"), [("features", MADE_OF), ("texts", [2, *MADE_OF[1:]]), ("texts", [])]
)
def test_what_is_made_otherwise_stands_beside(
    tmp_path: Path, folder: str, made_of: list[Any]
) -> None:
    Pieces.of(str(tmp_path), "texts", MADE_OF).keep(SPAN, arrays())
    other = Pieces.of(str(tmp_path), folder, made_of)
    assert other.missing([SPAN]) == [SPAN]
    other.keep(SPAN, arrays(7.0))
    assert same(Pieces.of(str(tmp_path), "texts", MADE_OF).read(SPAN), arrays())
    assert same(other.read(SPAN), arrays(7.0))


def test_arrays_without_their_manifest_are_no_piece(tmp_path: Path) -> None:
    pieces = Pieces.of(str(tmp_path), "texts", MADE_OF)
    pieces.keep(SPAN, arrays())
    [manifest] = tmp_path.rglob("000000.json")
    manifest.unlink()
    assert pieces.missing([SPAN]) == [SPAN]
    pieces.keep(SPAN, arrays())
    assert same(pieces.read(SPAN), arrays())


def test_two_writers_of_one_piece_never_mix_their_arrays(tmp_path: Path) -> None:
    first, second = (Pieces.of(str(tmp_path), "texts", MADE_OF) for _ in range(2))
    first.keep(SPAN, arrays(1.0))
    [manifest] = tmp_path.rglob("000000.json")
    of_first = manifest.read_bytes()
    second.keep(SPAN, arrays(2.0))
    assert same(first.read(SPAN), arrays(2.0)), "the later manifest counts"
    manifest.write_bytes(of_first)
    assert same(second.read(SPAN), arrays(1.0)), "the arrays of both are there"


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    return found[0]


def flip(folder: Path) -> None:
    path = only(folder, "*.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def manifest_of(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = only(folder, "*.json")
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return rewrite


DAMAGED: list[tuple[Callable[[Path], Any], str]] = [
    (flip, "is damaged (an array has another SHA-256); remove that file"),
    (lambda folder: only(folder, "*.npy").write_bytes(b""), "is damaged"),
    (lambda folder: only(folder, "*.npy").unlink(), "is damaged"),
    (lambda folder: only(folder, "*.json").write_bytes(b'{"arr'), "is damaged"),
    (manifest_of(lambda told: []), "is damaged"),
    (manifest_of(lambda told: {"format": told["format"]}), "is damaged"),
    (manifest_of(lambda told: told | {"arrays": {"vectors": 7}}), "is damaged"),
    (manifest_of(lambda told: told | {"arrays": ["vectors"]}), "is damaged"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGED, ids=[said[-30:] for _, said in DAMAGED])
def test_a_damaged_piece_is_told_in_a_line_and_made_anew_without_its_manifest(
    tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    pieces = Pieces.of(str(tmp_path), "texts", MADE_OF)
    pieces.keep(SPAN, arrays())
    damage(tmp_path)
    with pytest.raises(DatasetError) as caught:
        pieces.read(SPAN)
    message = str(caught.value)
    assert said in message
    assert f"file://{tmp_path}/texts/" in message
    assert "\n" not in message
    only(tmp_path, "000000.json").unlink()
    assert pieces.missing([SPAN]) == [SPAN]
    pieces.keep(SPAN, arrays())
    assert same(pieces.read(SPAN), arrays())


def test_a_piece_of_other_rows_is_refused(tmp_path: Path) -> None:
    pieces = Pieces.of(str(tmp_path), "texts", MADE_OF)
    pieces.keep(SPAN, arrays(rows=3))
    with pytest.raises(DatasetError, match="has not 4 rows; remove that file"):
        pieces.read(SPAN)
    pieces.keep(SPAN, {**arrays(), "odd": np.float32(3.0)})
    with pytest.raises(DatasetError, match="has not 4 rows; remove that file"):
        pieces.read(SPAN)


def dataset_of(sizes: list[int]) -> Dataset:
    shards = tuple(Shard(f"{i}.tar", 1, "", size) for i, size in enumerate(sizes))
    return Dataset("file:///data", "", sum(sizes), 3, (), shards, Path("index.npy"))


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([3], [3]),
        ([PIECE_SAMPLES], [PIECE_SAMPLES]),
        ([PIECE_SAMPLES - 1, 5, 6], [PIECE_SAMPLES + 4, 6]),
        ([4000] * 7, [12_000, 12_000, 4000]),
        ([20_000, 1, 20_000], [20_000, 20_001]),
    ],
)
def test_pieces_are_whole_shards_and_hold_every_sample_once(
    sizes: list[int], rows: list[int]
) -> None:
    found = spans(dataset_of(sizes))
    assert [span.rows for span in found] == rows
    assert [span.number for span in found] == list(range(len(found)))
    assert [shard for span in found for shard in span.shards] == list(range(len(sizes)))
    ends = np.cumsum(rows).tolist()
    assert [(span.ids.start, span.ids.stop) for span in found] == list(
        zip([0, *ends[:-1]], ends, strict=True)
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    address = write_shards(tmp_path / "data", count=20)
    return open_dataset(address, tmp_path / "cache")


def test_the_texts_of_a_piece_stand_in_the_order_of_the_ids(dataset: Dataset) -> None:
    [span] = spans(dataset)
    assert len(span.shards) > 1
    found = parts.encode_span(dataset, span, Ngrams(), TextConfig())
    expected = Ngrams().encode(["picture"] * 20)
    assert found["vectors"].dtype == np.float16
    assert found["vectors"] == pytest.approx(expected, abs=1e-3)
    # The tests' titles are "picture 0", whose only word tells nothing.
    assert found["facts"].dtype == parts.FACTS
    assert found["facts"]["words"].tolist() == [0] * 20
    records = texts_of_shard(dataset, 1)
    first = dataset.shards[0].num_samples
    assert [record["id"] for record in records] == list(range(first, first + len(records)))


def test_the_facts_of_a_text(tmp_path: Path) -> None:
    writer = Writer(open_store(str(tmp_path / "data")), 8192, 4)
    for texts in (
        {"name": "google_images_resized/q1/a.jpg", "query": "tench", "title": "A tench in a lake"},
        {"name": "flickr/q1/b.jpg", "query": "tench", "title": "", "tags": ["Tenches", "carp"]},
        {"name": None, "title": ["fish"]},
        {},
    ):
        writer.add(b"x", 0, 0, texts)
    writer.commit(("n01 tench",), {})
    writer.close(keep=True)
    made = open_dataset(str(tmp_path / "data"), tmp_path / "cache")
    facts = parts.encode_span(made, spans(made)[0], Ngrams(), TextConfig())["facts"]
    assert facts.tolist() == [(2, 1, 1), (2, 1, 2), (1, 0, 0), (0, 0, 0)]


def with_texts(dataset: Dataset, lines: bytes) -> Dataset:
    """The dataset with other texts of its first shard, of which it knows."""
    shard = dataset.shards[0]
    assert shard.texts is not None
    open_store(dataset.address).put(shard.texts.key, lines)
    known = replace(shard.texts, sha256=hashlib.sha256(lines).hexdigest())
    return replace(dataset, shards=(replace(shard, texts=known), *dataset.shards[1:]))


def test_a_line_that_is_no_object_has_no_texts(tmp_path: Path) -> None:
    lines = [b"[1]", b"{", b'{"title": "tench"}', b'{"title": "\xff"}', b"[" * 100_000]
    write_dataset(str(tmp_path / "data"), [b"x"] * len(lines), shard_bytes=1 << 20)
    made = open_dataset(str(tmp_path / "data"), tmp_path / "cache")
    found = texts_of_shard(with_texts(made, b"\n".join([*lines, b""])), 0)
    assert found == [{}, {}, {"title": "tench"}, {"title": "\ufffd"}, {}]


def test_texts_that_do_not_fit_are_refused(dataset: Dataset) -> None:
    refused(
        with_texts(dataset, b"{}\n"), f"are 1 lines, but it has {dataset.shards[0].num_samples}"
    )
    refused(dataset, "have another SHA-256")
    bare = replace(dataset, shards=(replace(dataset.shards[0], texts=None), *dataset.shards[1:]))
    refused(bare, "has no texts; pack the dataset again with its texts")


def refused(dataset: Dataset, said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        texts_of_shard(dataset, 0)
    assert said in str(caught.value)
    assert dataset.address in str(caught.value)
