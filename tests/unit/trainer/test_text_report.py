"""What the page of a filtering says in numbers, what it shows, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.trainer.shards import write_shards
from trainer.config import ConfigError
from trainer.data.shards import Dataset, open_dataset
from trainer.pages import texts_of, told
from trainer.storage import open_store
from trainer.textfilter import SCORES
from trainer.textfilter_page import Found, write_page
from trainer.textreport import Verified, parse, quality, read_results, read_verified, report

COUNT = 20


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "verified.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_verified_labels_are_read_by_id_the_last_of_one_counts(tmp_path: Path) -> None:
    path = csv(tmp_path, "who,right,id", "a, 1 ,7", "b,0,3", "c,0, 19", "d,1,3")
    found = read_verified(path, COUNT)
    assert found.ids.tolist() == [3, 7, 19]
    assert found.right.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["id,label", "1,1"], ["must be a CSV with the columns id and right"]),
        ([""], ["must be a CSV with the columns"]),
        (["id,right"], ["has no line below its heading"]),
        (["id,right", "1,1", "20,1"], ["line 3 of", "has id '20'", "0 to 19"]),
        (["id,right", "-1,1"], ["line 2 of", "has id '-1'"]),
        (["id,right", "9" * 5000 + ",1"], ["line 2 of", "has id '999"]),
        (["id,right", "a,1"], ["line 2 of", "has id 'a'"]),
        (["id,right", ",1"], ["line 2 of", "has id ''"]),
        (["id,right", "1,yes"], ["line 2 of", "has right 'yes'", "1 or 0"]),
        (["id,right", "1"], ["line 2 of", "has right ''"]),
    ],
)
def test_wrong_verified_labels_are_one_line(
    tmp_path: Path, lines: list[str], parts: list[str]
) -> None:
    path = csv(tmp_path, *lines)
    with pytest.raises(ConfigError) as caught:
        read_verified(path, COUNT)
    message = str(caught.value)
    assert f"--verified {path}" in message
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_verified_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"id,right\n\xff,1\n")
    (tmp_path / "huge.csv").write_text("id,right\n" + "1" * 200_000 + ",1\n")
    for name in ("gone.csv", "binary.csv", "huge.csv"):
        with pytest.raises(ConfigError, match="--verified"):
            read_verified(tmp_path / name, COUNT)


def scores(**columns: Any) -> np.ndarray:
    made = np.zeros(COUNT, SCORES)
    for name, values in columns.items():
        made[name] = values
    return made


def test_figures_are_those_of_the_verified_labels() -> None:
    probability = np.linspace(0.05, 1, COUNT)
    made = scores(probability=probability, text=probability[::-1])
    verified = Verified(np.array([1, 9, 13, 19]), np.array([False, True, False, True]))
    found = quality(made, verified)
    assert (found["num_verified"], found["right"]) == (4, 0.5)
    assert found["auc"] == 0.75
    assert found["auc_texts"] == 0.25
    table = {row["threshold"]: row for row in found["thresholds"]}
    assert table[0.5] == {"threshold": 0.5, "kept": 0.75, "precision": 0.6667, "recall": 1.0}
    assert table[0.9] == {"threshold": 0.9, "kept": 0.25, "precision": 1.0, "recall": 0.5}


def test_of_verified_labels_that_are_all_right_no_more_is_said_than_is_known() -> None:
    made = scores(probability=0.1)
    found = quality(made, Verified(np.array([1, 2]), np.array([True, True])))
    assert (found["auc"], found["auc_texts"]) == (None, None)
    assert found["thresholds"][0] == {
        "threshold": 0.3, "kept": 0.0, "precision": None, "recall": 0.0
    }  # fmt: skip
    wrong = quality(made, Verified(np.array([1]), np.array([False])))
    assert wrong["thresholds"][0]["recall"] is None


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    address = write_shards(tmp_path / "data", count=COUNT, broken=(4,))
    return open_dataset(address, tmp_path / "cache")


def found(dataset: Dataset, selection: list[int], **columns: Any) -> Found:
    summary = {
        "data": dataset.address,
        "encoder": "ngrams/1",
        "num_samples": COUNT,
        "num_telling": 10,
        "num_empty": 1,
    }
    given = {"probability": np.linspace(0.05, 1, COUNT), "words": 1} | columns
    return Found(summary, scores(**given), np.array(selection, np.int64), dataset, None, 30)


def test_what_is_expected_right_the_long_way(dataset: Dataset) -> None:
    probability = np.linspace(0.05, 1, COUNT)
    kept = list(range(10, COUNT))
    expected = found(dataset, kept).expected()
    assert expected["full"] == pytest.approx(probability.mean(), abs=1e-4)
    assert expected["selection"] == pytest.approx(probability[kept].mean(), abs=1e-4)
    recall = probability[kept].sum() / probability.sum()
    assert expected["selection_recall"] == pytest.approx(recall, abs=1e-4)
    weighted = (probability * probability).sum() / probability.sum()
    assert expected["weights"] == pytest.approx(weighted, abs=1e-4)


def test_a_page_shows_each_sample_once_under_what_became_of_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    words = np.where(np.arange(COUNT) % 5 == 0, 0, 1)
    page = tmp_path / "page.html"
    write_page(found(dataset, list(range(10, COUNT)), words=words), page, tmp_path / "cache")
    shown = page.read_text()
    sections = {part.split("</h2>")[0]: part for part in shown.split("<h2>")[1:]}
    ids = {
        name: {number for number in range(COUNT) if f"id {number}, prob" in part}
        for name, part in sections.items()
    }
    telling = {number for number in range(COUNT) if number % 5}
    assert ids["Dropped with the least probability"] == {n for n in telling if n < 10}
    assert ids["Kept with the most probability"] == {n for n in telling if n >= 10}
    assert ids["Texts that tell nothing"] == {0, 5, 10, 15}
    assert "<i>no picture</i>" in shown, "the broken one"
    assert "<script" not in shown


def test_a_page_of_an_empty_selection_and_of_a_full_one(dataset: Dataset, tmp_path: Path) -> None:
    for selection in ([], list(range(COUNT))):
        page = tmp_path / "page.html"
        write_page(found(dataset, selection), page, tmp_path / "cache")
        assert "nan" not in page.read_text()


def test_texts_are_escaped_and_of_any_type(dataset: Dataset) -> None:
    given = {"title": "<b>", "description": 7, "tags": ["a", 3], "query": None}
    assert told(given) == "&lt;b&gt;<br>7<br>a, 3"
    assert told({"tags": "big fish"}) == "big fish"
    assert told({"tags": 7}) == "7"
    assert told({}) == ""
    every = texts_of(dataset, np.array([3, 0]))
    assert [each["title"] for each in every] == ["picture 3", "picture 0"]
    texts = dataset.shards[0].texts
    assert texts is not None
    open_store(dataset.address).put(texts.key, b"{\n\xff\n[]\n")
    count = dataset.shards[0].num_samples
    assert texts_of(dataset, np.arange(count)) == [{}] * count
    bare = replace(dataset, shards=tuple(replace(s, texts=None) for s in dataset.shards))
    assert texts_of(bare, np.array([1, 2])) == [{}, {}]


def test_results_that_are_damaged_or_of_other_data_are_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    summary = {"data": dataset.address, "dataset_sha256": dataset.sha256}
    np.save(out / "scores.npy", scores())
    np.save(out / "selection.npy", np.array([1, 2]))
    refused(out, "holds no finished text filtering", "run textfilter first")
    (out / "summary.json").write_text(json.dumps(summary))
    assert read_results(str(out))[2].tolist() == [1, 2]
    for content, said in (
        ("{", "summary.json is damaged"),
        ("[]", "summary.json is damaged"),
        ("{}", "summary.json is damaged"),
        (json.dumps(summary | {"dataset_sha256": "0"}), "is of another version of"),
    ):
        (out / "summary.json").write_text(content)
        refused(out, said)
    (out / "summary.json").write_text(json.dumps(summary))
    np.save(out / "scores.npy", np.zeros(COUNT))
    refused(out, "is of another version of", "run it again")


def refused(out: Path, *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        report(str(out), out / "page.html", None, 3)
    message = str(caught.value)
    assert f"file://{out}" in message
    assert [part for part in parts if part not in message] == [], message
    assert not (out / "page.html").exists()


def test_a_page_must_end_in_html(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["out", "--page", "a.html"]).pictures == 24
    for wrong in (["out", "--page", "a.txt"], ["out"], ["--page", "a.html"]):
        with pytest.raises(SystemExit) as caught:
            parse(wrong)
        assert caught.value.code == 2
    assert "a page must end in .html" in capsys.readouterr().err
