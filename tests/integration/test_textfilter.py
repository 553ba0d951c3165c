"""Text filterings as real processes: shared, killed, refused; what training and the page take."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.integration.test_finetune import coloured, finished, start
from tests.raws import picture, write_dataset
from trainer.config import TrainConfig, parse
from trainer.data.write import Writer
from trainer.exits import FATAL, MESSAGE_PATH
from trainer.storage import open_store
from trainer.text.judge import separation
from trainer.textfilter import SCORES
from trainer.train import open_data

COUNT = 18_000
"""Three pieces."""
SHARD_BYTES = 1 << 20
LIMIT_S = 200.0
CLASSES = [
    {"names": ["tench", "Tinca tinca"], "description": "freshwater fish", "not": ["Tench Island"]},
    {"names": ["chair"], "description": "a seat for one person with a back"},
    {"names": ["crane", "hoist"], "description": "lifts heavy loads", "not": ["a wading bird"]},
]
NAMES = ("n01440764 tench, Tinca tinca", "n03001627 chair", "n03126707 crane")
RIGHT = (
    ["tench", "tenches", "Tinca", "freshwater", "fish"],
    ["chair", "chairs", "seat", "armchair", "person"],
    ["crane", "hoist", "cranes", "lifting", "loads"],
)
WRONG = ["island", "yoga", "guitar", "sunset", "wedding", "recipe", "temple", "robot", "poster"]
PLACES = ["lake", "garden", "harbour", "market", "river", "meadow", "station", "library", "valley"]
RESULTS = ("scores.npy", "selection.npy", "weights.npy", "sampling.npy")


def is_right(count: int) -> np.ndarray:
    """Which labels the texts speak for: 65 in 100."""
    found: np.ndarray = np.random.default_rng(5).random(count) < 0.65
    return found


def text(number: int, right: bool) -> dict[str, Any]:
    """A text about the class, or about something else; each twentieth has none."""
    label = number % 3
    draw = np.random.default_rng(number)
    pick = lambda words: words[int(draw.integers(len(words)))]  # noqa: E731
    first, second = (pick(RIGHT[label] if right else WRONG) for _ in range(2))
    title = "" if number % 20 == 0 else f"{first} {second} &amp; {pick(PLACES)} IMG_{number}.jpg"
    source = ("google_images_resized", "flickr_images_resized")[number % 2]
    told = {"name": f"{source}/q{label}/{number}.jpg", "query": NAMES[label][10:], "title": title}
    return told | ({"tags": [pick(PLACES), second]} if number % 2 and title else {})


def write_texts(folder: Path, images: list[bytes], shard_bytes: int = SHARD_BYTES) -> Path:
    """A dataset of these images, in turn of three classes, with texts."""
    writer = Writer(open_store(str(folder)), shard_bytes, len(images))
    right = is_right(len(images))
    for number, image in enumerate(images):
        told = text(number, bool(right[number]))
        writer.add(image, zlib.crc32(image), number % 3, told)
    writer.commit(NAMES, {})
    writer.close(keep=True)
    return folder


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    said: str

    def errors(self) -> list[str]:
        assert "Traceback" not in self.said, self.said
        return [line for line in self.said.splitlines() if line.startswith("error: ")]


class Filtering:
    """A dataset, and processes that filter it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.classes = data.parent / "classes.yaml"
        self.classes.write_text(yaml.safe_dump(CLASSES))

    def begun(
        self, out: Path, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        given = [f"data={self.data}", f"output={out}", "encoder.model=ngrams"]
        given += [f"classes.file={self.classes}", f"cache_dir={self.data.parent}/cache"]
        command = [sys.executable, "-m", "trainer.textfilter", *given, *options]
        more = {"RUN_CONFIG": "name: filtering\n"} | dict(environment or {})
        return subprocess.Popen(
            command,
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, out: Path, *options: str, environment: Mapping[str, str] | None = None) -> Ended:
        process = self.begun(out, *options, environment=environment)
        told, said = process.communicate(timeout=LIMIT_S)
        return Ended(process.returncode, told, said)

    def done(self, out: Path, *options: str, environment: Mapping[str, str] | None = None) -> Ended:
        ended = self.run(out, *options, environment=environment)
        assert ended.status == 0, ended.said
        return ended


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def pieces(out: Path, folder: str = "texts") -> dict[str, int]:
    """When each file of the pieces was written."""
    found = sorted((out / folder).rglob("*.*"))
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def filtering(tmp_path_factory: pytest.TempPathFactory) -> Filtering:
    folder = tmp_path_factory.mktemp("texts")
    images = [picture(label) for label in range(3)]
    return Filtering(write_texts(folder / "data", [images[i % 3] for i in range(COUNT)]))


@pytest.fixture(scope="module")
def alone(filtering: Filtering) -> Path:
    """What one process makes of it."""
    out = filtering.data.parent / "alone"
    ended = filtering.done(out)
    told = json.loads(ended.out)
    assert told["out"] == f"file://{out}"
    assert told["num_samples"] == COUNT
    assert 0 < told["num_selected"] < COUNT
    return out


def test_the_summary_names_what_was_written(filtering: Filtering, alone: Path) -> None:
    summary = json.loads((alone / "summary.json").read_text())
    written = {name: hashlib.sha256(data).hexdigest() for name, data in results(alone).items()}
    assert summary["files"] == written
    manifest = (filtering.data / "manifest.json").read_bytes()
    assert summary["dataset_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert summary["encoder"] == "ngrams/1"
    assert summary["config"]["classes"]["file"] == str(filtering.classes)
    assert summary["num_empty"] == COUNT // 20
    assert list(summary["sources"]) == ["google", "flickr"]
    assert sum(source["num_samples"] for source in summary["sources"].values()) == COUNT
    assert all(0.3 < rate < 0.9 for rate in summary["class_right_rates"])
    assert len([name for name in pieces(alone) if name.endswith(".json")]) == 3


def test_right_labels_score_above_wrong_ones(alone: Path) -> None:
    scores = np.load(alone / "scores.npy")
    assert scores.dtype == SCORES
    told = scores["words"] > scores["query_words"]
    assert told.mean() > 0.8
    right = is_right(COUNT)
    assert separation(scores["probability"][told].astype(float), right[told]) > 0.95
    assert scores["probability"].tolist() == scores["text"].tolist()
    selection, weights = np.load(alone / "selection.npy"), np.load(alone / "weights.npy")
    assert right[selection].mean() > 0.85
    assert weights.mean() == pytest.approx(1, abs=1e-4)
    assert weights[right].mean() > 2 * weights[~right].mean()


def test_training_takes_what_it_writes(filtering: Filtering, alone: Path) -> None:
    keys = {"selection": "selection", "weights": "weights", "sampling": "sampling"}
    options = [f"data.{key}={alone}/{name}.npy" for key, name in keys.items()]
    options += [f"data.train={filtering.data}", "checkpoint.address=/nowhere"]
    data = open_data(parse(TrainConfig, "{}", options, source="here"))
    assert data.ids is not None
    assert data.weights is not None
    assert data.sampling is not None
    assert data.num_samples == len(data.ids) == len(np.load(alone / "selection.npy"))
    assert len(data.sampling) == len(data.ids)
    files = json.loads((alone / "summary.json").read_text())["files"]
    for key in keys:
        assert data.identity[key] == files[f"{key}.npy"]


def test_indexes_in_any_order_make_what_one_process_makes(
    filtering: Filtering, alone: Path, tmp_path: Path
) -> None:
    for place, index in enumerate((1, 2, 0)):
        shared = {"JOB_COMPLETION_INDEX": str(index), "RUN_INDEXES": "3"}
        ended = filtering.done(tmp_path / "out", environment=shared)
        assert (tmp_path / "out" / "summary.json").exists() == (place == 2)
        assert ("pieces of others are missing" in ended.said) == (place < 2)
        assert bool(ended.out) == (place == 2)
    assert results(tmp_path / "out") == results(alone)
    assert pieces(tmp_path / "out").keys() == pieces(alone).keys()


def test_a_killed_one_goes_on_after_its_last_piece(
    filtering: Filtering, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = filtering.begun(out)
    until = time.monotonic() + LIMIT_S
    while not list(out.rglob("000000.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    before = pieces(out)
    kept = [name for name in before if name.endswith(".json")]
    ended = filtering.done(out)
    assert f"{len(kept)} of 3 pieces of texts are there" in ended.said
    numbers = [Path(name).stem for name in kept]
    after = pieces(out)
    for name, written in before.items():
        if Path(name).name[:6] in numbers:
            assert after[name] == written, name
    assert results(out) == results(alone)


def test_other_judgements_take_the_same_pieces_other_texts_do_not(
    filtering: Filtering, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "texts").mkdir(parents=True)
    [key] = (alone / "texts").iterdir()
    os.symlink(key, out / "texts" / key.name)
    before = pieces(alone)
    ended = filtering.done(out, "select.by=count", "select.count=7", "select.least_per_class=0")
    assert json.loads(ended.out)["num_selected"] == 21
    assert pieces(alone) == before
    assert "3 of 3 pieces of texts are there" in ended.said
    ended = filtering.run(out, "text.tags=false")
    assert "0 of 3 pieces of texts are there" in ended.said
    assert len(list((out / "texts").iterdir())) == 2


def test_a_damaged_piece_is_told_in_a_line(
    filtering: Filtering, alone: Path, tmp_path: Path
) -> None:
    [key] = (alone / "texts").iterdir()
    copied = tmp_path / "out" / "texts" / key.name
    copied.mkdir(parents=True)
    for path in key.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    [*_, array] = sorted(copied.glob("*.npy"))
    array.write_bytes(array.read_bytes()[:-1])
    ended = filtering.run(tmp_path / "out")
    assert ended.status == 2
    [error] = ended.errors()
    assert "000002.json is damaged (an array has another SHA-256)" in error
    assert not (tmp_path / "out" / "summary.json").exists()


def bare(folder: Path) -> str:
    """A dataset whose packer kept no texts."""
    write_dataset(str(folder), [b"x"] * 9)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        del shard["texts"]
    path.write_text(json.dumps(manifest))
    return str(folder)


REFUSED = [
    (["data={tmp}/bare"], {}, ["{tmp}/bare", "has no texts", "pack the dataset again"]),
    (["encoder.model={tmp}/gone"], {}, ["encoder.model {tmp}/gone is no folder", "ngrams"]),
    (["classes.file=''", "classes.wordnet={tmp}/w"], {}, ["no WordNet in {tmp}/w", "wordnet-base"]),
    (["classes.file={tmp}/no.yaml"], {}, ["entry 1", "names None", "a list of words"]),
    (["judge.noise={tmp}/short.npy"], {}, ["judge.noise", "short.npy", "float32"]),
    (["judge.features={tmp}/gone"], {}, ["{tmp}/gone holds no run"]),
    ([], {"JOB_COMPLETION_INDEX": "3", "RUN_INDEXES": "3"}, ["JOB_COMPLETION_INDEX is '3'"]),
]


@pytest.mark.parametrize(
    ("options", "environment", "parts"), REFUSED, ids=lambda value: str(value)[:40]
)
def test_what_cannot_be_filtered_is_one_line_and_is_not_tried_again(
    small: Filtering,
    tmp_path: Path,
    options: list[str],
    environment: dict[str, str],
    parts: list[str],
) -> None:
    bare(tmp_path / "bare")
    (tmp_path / "no.yaml").write_text(yaml.safe_dump([CLASSES[0], {}, CLASSES[2]]))
    np.save(tmp_path / "short.npy", np.ones(3, np.float32))
    reason = tmp_path / "reason"
    told = environment | {MESSAGE_PATH: str(reason)}
    given = [option.format(tmp=tmp_path) for option in options]
    ended = small.run(tmp_path / "out", *given, environment=told)
    assert ended.status == 2, ended.said
    [error] = ended.errors()
    assert [part for part in parts if part.format(tmp=tmp_path) not in error] == [], error
    assert not (tmp_path / "out" / "texts").exists(), "before anything was encoded"
    assert reason.read_text() == error.replace("error: ", FATAL, 1)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert ended.out == ""


SMALL = 240


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Filtering:
    """Pictures whose colour tells the class where the text is right, and another where not."""
    folder = tmp_path_factory.mktemp("small")
    right = is_right(SMALL)
    images = [coloured(number if right[number] else number + 1) for number in range(SMALL)]
    return Filtering(write_texts(folder / "data", images))


def test_pictures_and_a_network_are_asked_too(small: Filtering, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished(start("trainer.train", run, small.data, ["epochs=4"]), run)
    right = is_right(SMALL)
    noise = np.random.default_rng(6).beta(*np.where(right, [[6], [3]], [[3], [6]])).astype("<f4")
    noise[::7] = np.nan
    np.save(tmp_path / "noise.npy", noise)
    asked = [f"judge.features={run}", f"judge.noise={tmp_path}/noise.npy"]
    out = tmp_path / "out"
    plain = small.done(tmp_path / "plain")
    ended = small.done(out, *asked, "judge.picture_neighbours=5")
    assert "features of 240 pictures" in ended.said
    assert json.loads(ended.out)["num_telling"] == json.loads(plain.out)["num_telling"]
    scores = np.load(out / "scores.npy")
    texts = np.load(tmp_path / "plain" / "scores.npy")["probability"]
    assert scores["text"].tolist() == texts.tolist()
    mute = scores["words"] <= scores["query_words"]
    assert separation(scores["probability"][mute].astype(float), right[mute]) > 0.8
    [features] = (out / "features").rglob("*.npy")
    kept = np.load(features)
    assert kept.dtype == np.float16
    assert kept.shape == (SMALL, 64)
    assert (np.abs(kept).sum(1) > 0).all()
    before = pieces(out, "features")
    again = small.done(out, *asked, "judge.picture_neighbours=5")
    assert "features of" not in again.said
    assert pieces(out, "features") == before


def reported(*arguments: str) -> Ended:
    command = [sys.executable, "-m", "trainer.textreport", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_page_shows_what_was_found_and_how_good_it_is(alone: Path, tmp_path: Path) -> None:
    right = is_right(COUNT)
    verified = tmp_path / "verified.csv"
    lines = [f"{i},{int(right[i])},note" for i in range(0, COUNT, 7)]
    verified.write_text("\n".join(["id,right,who", *lines]))
    page = tmp_path / "pages" / "report.html"
    ended = reported(
        str(alone), "--page", str(page), "--verified", str(verified), "--pictures", "6"
    )
    assert ended.status == 0, ended.said
    told = json.loads(ended.out)
    known = told["verified"]
    assert known["num_verified"] == len(lines)
    assert known["auc"] > 0.9
    scores = np.load(alone / "scores.npy")["probability"][::7]
    kept = scores >= 0.5
    [row] = [row for row in known["thresholds"] if row["threshold"] == 0.5]
    assert row["kept"] == pytest.approx(kept.mean(), abs=1e-4)
    assert row["precision"] == pytest.approx(right[::7][kept].mean(), abs=1e-4)
    assert row["recall"] == pytest.approx(kept[right[::7]].mean(), abs=1e-4)
    assert told["expected"]["selection"] > told["expected"]["weights"] > told["expected"]["full"]

    shown = page.read_text()
    assert "<script" not in shown
    assert "http" not in shown.replace("http-equiv", "")
    for part in (
        "texts by ngrams/1",
        "Of 18,000 samples",
        f"Against {len(lines):,} verified labels",
        "<td>google<td",
        "<td>flickr<td",
        "n01440764 tench, Tinca tinca",
        "Dropped with the least probability",
        "Kept with the most probability",
        "Texts that tell nothing",
    ):
        assert part in shown, part
    assert shown.count("<figure><img alt='sample ") == 5 * 6
    assert "&amp;amp;" in shown, "a title's own &amp; is escaped once more"


def test_a_page_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = reported(str(tmp_path), "--page", str(page))
    assert ended.status == 2
    [error] = ended.errors()
    assert f"{tmp_path} holds no finished text filtering" in error
    assert not page.exists()
