"""Makes the demo's raw data without a download: real handwritten digits as noisy web images.

    python -m examples.demo.data OUT [--seed 0]

scikit-learn ships 1,797 real handwritten digits (UCI/NIST, 8x8 pixels, 17 grey values). They are
drawn larger and in colour, and put into WebVision 2.0's raw layout, as if each picture had been the
answer to a web query: two pictures in five carry a wrong label, most of them under a few bad
queries, and titles, descriptions and tags betray part of it. It is demo data, not a benchmark:
OUT/README.txt says so.

500 digits, 50 a class, are the clean validation set. The other 1,297 make the training set; each is
drawn about three times, with other colours, place and size. What each shows is in OUT/truth.json.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from examples.demo.texts import WORDS, Texts, describe

NUM_TRAIN = 4000
"""Lines of the training list; the three damaged and two missing files below are among them."""

NUM_VAL_PER_CLASS = 50
SHORT_SIDE_PX = 40

QUERIES = (
    ("handwritten+{word}", 0.10, 0.0),
    ("numeral+{digit}", 0.25, 0.0),
    ("smudged+{digit}", 0.55, 0.85),
    ("house+number+{digit}", 0.70, 0.0),
)
"""Each class's queries: text, share of wrong pictures, share of these that show the look-alike.

A house number has more digits than the one asked for, so it brings any class. The mean is 40 %.
"""

LOOK_ALIKE = (6, 7, 5, 8, 9, 2, 0, 1, 3, 4)
"""Which digit a smudged one is taken for; pairs, so that no class gains pictures."""

README = """\
Demo data in the raw layout of WebVision 2.0, made by examples/demo/data.py (seed {seed}).
It is neither WebVision nor a benchmark.

Pictures: scikit-learn's handwritten digits (Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, from NIST forms; 8x8 pixels), drawn larger, with made-up colours, place, size.
Labels: {num_train:,} training pictures of {num_queries} made-up queries; {noise:.1%} of the labels
are wrong on purpose. {num_val} validation pictures of other digits are labelled correctly.
Texts, queries and synset ids are made up.
As in the real crawl, on purpose: {num_damaged} damaged files, {num_missing} missing ones, a PNG
named .jpg, and metadata rows that belong to another picture.
truth.json: what each training picture really shows; to measure with, never to train on.
"""


@dataclass(frozen=True)
class Query:
    """One search and how many pictures it brings."""

    number: int
    """From 1, as in WebVision."""
    text: str
    label: int
    shown: tuple[int, ...]
    """What its pictures really show, one class a picture."""


@dataclass(frozen=True)
class Picture:
    """One line of the training list."""

    name: str
    """Path below the raw folder."""
    source: str
    query: Query
    truth: int
    digit: int
    """Row of scikit-learn's table."""
    texts: Texts

    @property
    def stem(self) -> str:
        return Path(self.name).stem


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.data", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another data set")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already; remove it or name another folder")
    make(options.out, options.seed)
    print(options.out)


def make(out: Path, seed: int = 0, num_train: int = NUM_TRAIN) -> None:
    """Writes the raw data set below `out`: the same bytes for the same seed and libraries."""
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    train, val = split(labels, rng)
    pictures = list(collect(plan_queries(num_train, rng), labels, train, rng))
    for picture in pictures:
        write(out / picture.name, draw(digits[picture.digit].reshape(8, 8), rng))
    for index, digit in enumerate(val):
        image = draw(digits[digit].reshape(8, 8), rng)
        write(out / f"val_images_resized/{val_name(index)}", image)

    write_lists(out, pictures, labels[val])
    write_metadata(out, pictures, rng)
    damaged, missing = damage(out, pictures)
    truth = {picture.name: picture.truth for picture in pictures}
    wrong = sum(picture.truth != picture.query.label for picture in pictures)
    write(out / "truth.json", json.dumps({"train": truth, "damaged": damaged, "missing": missing}))
    readme = README.format(
        num_train=len(pictures),
        num_queries=len({picture.query for picture in pictures}),
        noise=wrong / len(pictures),
        num_val=len(val),
        num_damaged=len(damaged),
        num_missing=len(missing),
        seed=seed,
    )
    write(out / "README.txt", readme)


def split(labels: NDArray[np.int64], rng: Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of the training and of the validation digits; the table does not name the writers."""
    rows = rng.permutation(len(labels))
    val = [rows[labels[rows] == label][:NUM_VAL_PER_CLASS] for label in range(len(WORDS))]
    chosen = np.concatenate(val)
    return rows[~np.isin(rows, chosen)], rng.permutation(chosen)


def plan_queries(num_train: int, rng: Generator) -> list[Query]:
    """The queries with what each brings; the rarest class has 60 % of the commonest's pictures."""
    sizes = np.linspace(1.25, 0.75, len(WORDS))[rng.permutation(len(WORDS))]
    sizes = np.repeat(sizes / sizes.sum(), len(QUERIES)) * num_train / len(QUERIES)
    sizes = np.diff(np.rint(np.cumsum(sizes)), prepend=0)
    queries = []
    for number, size in enumerate(sizes.astype(int), start=1):
        label, kind = divmod(number - 1, len(QUERIES))
        text, wrong_share, alike_share = QUERIES[kind]
        others = [other for other in range(len(WORDS)) if other != label]
        num_wrong = round(size * wrong_share)
        num_alike = round(num_wrong * alike_share)
        shown = [label] * (size - num_wrong) + [LOOK_ALIKE[label]] * num_alike
        shown += rng.choice(others, num_wrong - num_alike).tolist()
        text = text.format(word=WORDS[label][0], digit=label)
        queries.append(Query(number, text, label, tuple(rng.permutation(shown).tolist())))
    return queries


def collect(
    queries: list[Query], labels: NDArray[np.int64], train: NDArray[Any], rng: Generator
) -> Iterator[Picture]:
    """The pictures of all queries; each class's digits are taken in turn, so equally often."""
    turn = [_forever(train[labels[train] == label], rng) for label in range(len(WORDS))]
    for query in queries:
        for truth in query.shown:
            source = "google" if rng.random() < 0.6 else "flickr"
            name = f"{source}_images_resized/q{query.number:05d}/{rng.bytes(8).hex()}.jpg"
            texts = describe(query.text.replace("+", " "), query.label, truth, rng)
            yield Picture(name, source, query, truth, int(next(turn[truth])), texts)


def _forever(rows: NDArray[Any], rng: Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(rows)


def draw(digit: NDArray[np.float64], rng: Generator) -> bytes:
    """A JPEG whose short side is SHORT_SIDE_PX: the digit in one colour on a shaded ground.

    digit: (8, 8), 0 paper to 16 full ink.
    """
    from PIL import Image

    width, height = SHORT_SIDE_PX, SHORT_SIDE_PX
    if rng.random() < 0.5:
        width, height = rng.permutation([SHORT_SIDE_PX, int(rng.integers(40, 53))]).tolist()
    side = int(rng.integers(28, 37))
    small = Image.fromarray((digit * 255 / 16).astype(np.uint8))
    glyph = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)) / 255.0
    ink = np.zeros((height, width))
    top = (height - side) // 2 + int(rng.integers(-2, 3))
    left = (width - side) // 2 + int(rng.integers(-2, 3))
    ink[max(top, 0) : top + side, max(left, 0) : left + side] = glyph[
        max(-top, 0) :, max(-left, 0) :
    ][: height - max(top, 0), : width - max(left, 0)]

    ground, pen = rng.uniform(150, 255, 3), rng.uniform(0, 90, 3)
    slope = np.linspace(-1, 1, height)[:, None] * rng.uniform(-30, 30)
    slope = slope + np.linspace(-1, 1, width) * rng.uniform(-30, 30)
    paper = ground + slope[..., None] + rng.normal(0, 6, (height, width, 1))
    pixels = paper * (1 - ink[..., None]) + pen * ink[..., None]
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def write_lists(out: Path, pictures: list[Picture], val_labels: NDArray[Any]) -> None:
    """The lists of info/: WebVision 2.0 counts queries and metadata rows from 1, classes from 0."""
    queries = {picture.query.number: picture.query for picture in pictures}.values()
    images: dict[str, list[str]] = {"google": [], "flickr": []}
    rows: dict[str, list[str]] = {"google": [], "flickr": []}
    at: dict[tuple[str, int], int] = defaultdict(int)
    for picture in pictures:
        images[picture.source].append(f"{picture.name} {picture.query.label}")
        file = (picture.source, picture.query.number)
        # Each metadata file opens with a picture that is not listed: see write_metadata.
        rows[picture.source].append(f"{metadata_name(*file)} {at[file] + 2}")
        at[file] += 1
    write_lines(out / "info/train_filelist_all.txt", images["google"] + images["flickr"])
    for source in images:
        write_lines(out / f"info/train_filelist_{source}.txt", images[source])
        write_lines(out / f"info/train_meta_list_{source}.txt", rows[source])
    write_lines(out / "info/queries.txt", [f"{query.number} {query.text}" for query in queries])
    numbers = [f"{query.number} {query.label}" for query in queries]
    write_lines(out / "info/queries_synsets_map.txt", numbers)
    synsets = [f"n9{label:07d} {', '.join(words)}" for label, words in enumerate(WORDS)]
    write_lines(out / "info/synsets.txt", synsets)
    names = [f"{val_name(index)} {label}" for index, label in enumerate(val_labels)]
    write_lines(out / "info/val_filelist.txt", names)


def write_metadata(out: Path, pictures: list[Picture], rng: Generator) -> None:
    """One JSON array for each source and query, with the irregularities of the real ones."""
    files: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number, picture in enumerate(pictures):
        key = (picture.source, picture.query.number)
        # The crawl kept the metadata of pictures that could not be fetched.
        rows = files.setdefault(key, [{"id": rng.bytes(8).hex(), "title": "gone", "rank": 1}])
        rank = len(rows) + 1
        row: dict[str, Any] = {"id": picture.stem, "rank": str(rank) if rank % 3 else rank}
        row["url"] = f"https://example.com/{picture.stem}.jpg"
        row.update({key: text for key, text in picture.texts.fields(picture.source) if text != ""})
        if number % 1500 == 700:
            row["id"] = "0" * 16
        rows.append(row)
    for file, content in files.items():
        write(out / metadata_name(*file), json.dumps(content, indent=0))


def damage(out: Path, pictures: list[Picture]) -> tuple[list[str], list[str]]:
    """Damages and removes a few files as a crawl does; names of the damaged and the missing."""
    from PIL import Image

    cut, empty, page, png, *missing = [
        pictures[row].name for row in np.linspace(20, len(pictures) - 20, 6).astype(int)
    ]
    write(out / cut, (out / cut).read_bytes()[:-400])
    write(out / empty, b"")
    write(out / page, b"<html><body>404 Not Found</body></html>")
    Image.open(io.BytesIO((out / png).read_bytes())).save(out / png, "PNG")
    for name in missing:
        (out / name).unlink()
    return [cut, empty, page], missing


def val_name(index: int) -> str:
    return f"val{index + 1:06d}.jpg"


def metadata_name(source: str, query: int) -> str:
    return f"{source}/q{query:05d}.json"


def write_lines(path: Path, lines: list[str]) -> None:
    write(path, "\n".join(lines) + "\n")


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    main()
