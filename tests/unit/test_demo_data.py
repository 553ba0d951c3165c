"""The demo's raw data: counts, noise, layout, and the same bytes for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.demo.data import LOOK_ALIKE, NUM_TRAIN, draw, make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "raw"
    make(folder, seed=0)
    return folder


def listed(raw: Path, name: str) -> list[tuple[str, int]]:
    lines = (raw / "info" / name).read_text().splitlines()
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def test_two_labels_in_five_are_wrong_and_every_picture_is_told_of(raw: Path) -> None:
    truth = json.loads((raw / "truth.json").read_text())
    train = listed(raw, "train_filelist_all.txt")
    assert len(train) == len(set(train)) == NUM_TRAIN
    assert set(truth["train"]) == {name for name, _ in train}
    wrong = sum(truth["train"][name] != label for name, label in train)
    assert wrong / NUM_TRAIN == pytest.approx(0.40, abs=0.02)


def test_wrong_labels_are_grouped_by_query_and_the_right_class_leads_in_each_label(
    raw: Path,
) -> None:
    truth = json.loads((raw / "truth.json").read_text())["train"]
    shares: dict[str, list[bool]] = {}
    shown: dict[int, Counter[int]] = {}
    for name, label in listed(raw, "train_filelist_all.txt"):
        shares.setdefault(name.split("/")[1], []).append(truth[name] != label)
        shown.setdefault(label, Counter())[truth[name]] += 1
    means = [float(np.mean(wrong)) for wrong in shares.values()]
    assert len(means) == 40
    assert min(means) < 0.15
    assert max(means) > 0.65
    for label, counts in shown.items():
        assert counts.most_common(1)[0][0] == label
    assert all(LOOK_ALIKE[LOOK_ALIKE[label]] == label for label in range(10))


def test_lists_metadata_and_files_agree_as_in_webvision_2(raw: Path) -> None:
    truth = json.loads((raw / "truth.json").read_text())
    mismatched = 0
    for source in ("google", "flickr"):
        images = listed(raw, f"train_filelist_{source}.txt")
        rows = listed(raw, f"train_meta_list_{source}.txt")
        assert len(images) == len(rows)
        for (name, _), (file, _) in zip(images, rows, strict=True):
            assert name.split("/")[:2] == [f"{source}_images_resized", Path(file).stem]
            assert (raw / name).exists() == (name not in truth["missing"])
        contents = {file: json.loads((raw / file).read_text()) for file, _ in rows}
        for (name, _), (file, row) in zip(images, rows, strict=True):
            mismatched += contents[file][row - 1]["id"] != Path(name).stem
    assert mismatched == 3
    assert len(truth["damaged"]) == 3
    assert len(truth["missing"]) == 2


def test_validation_pictures_are_balanced_and_readable(raw: Path) -> None:
    val = listed(raw, "val_filelist.txt")
    assert Counter(label for _, label in val) == dict.fromkeys(range(10), 50)
    for name, _ in val:
        with Image.open(raw / "val_images_resized" / name) as image:
            image.load()
            assert min(image.size) == 40


def test_texts_betray_part_of_the_wrong_labels(raw: Path) -> None:
    from examples.demo.texts import WORDS

    truth = json.loads((raw / "truth.json").read_text())["train"]
    names = {Path(name).stem: name for name in truth}
    label = dict(listed(raw, "train_filelist_all.txt"))
    told = mute = wrong = 0
    for file in raw.glob("google/*.json"):
        for row in json.loads(file.read_text()):
            name = names.get(row["id"])
            if name is None or truth[name] == label[name]:
                continue
            text = f"{row.get('title', '')} {row.get('description', '')}"
            wrong += 1
            told += any(word in text for word in WORDS[truth[name]] if len(word) > 1)
            mute += not any(word in text for words in WORDS for word in words if len(word) > 1)
    assert 0.3 < told / wrong < 0.7
    assert mute / wrong > 0.2


def test_the_same_seed_gives_the_same_bytes_and_another_another_set(tmp_path: Path) -> None:
    def contents(name: str, seed: int) -> dict[str, bytes]:
        folder = tmp_path / name
        make(folder, seed, num_train=200)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    first, again, other = contents("a", 0), contents("b", 0), contents("c", 1)
    assert first == again
    assert first != other


def test_a_digit_that_would_leave_the_picture_is_cut_at_its_edge() -> None:
    full = np.full((8, 8), 16.0)
    for seed in range(50):
        assert draw(full, np.random.default_rng(seed)).startswith(b"\xff\xd8")
