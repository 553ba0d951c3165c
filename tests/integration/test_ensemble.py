"""Ensembles as real processes: shared, killed, refused, full disks and failing stores; a submission
made and checked, a few pictures predicted."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launcher.submission import check
from tests.ensembles import (
    CLASSES,
    COUNT,
    DAMAGED,
    LIMIT_S,
    MISSING,
    PART,
    SYNSETS,
    House,
    answers,
    coloured,
)
from tests.servers import BUCKET, S3Server, Unavailable, proxy, s3_server
from trainer.exits import FATAL, MESSAGE_PATH
from trainer.infer.answers import answers_in
from trainer.storage import open_store

KILLS = 30


def written(out: Path) -> dict[str, int]:
    """When each part was finished."""
    found = sorted((out / "members").rglob("*/*/*/0*.json"))
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def alone(house: House) -> Path:
    """What one process makes of it."""
    out = house.folder / "alone"
    ended = house.done(out)
    told = json.loads(ended.out)
    assert told["complete"] == ["first/1", "first/10", "second/1", "second/10"]
    assert told["out"] == f"file://{out}"
    assert len(written(out)) == 4 * COUNT // PART
    return out


def measured(module: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_one_crop_is_as_good_as_the_evaluation_says(house: House, alone: Path) -> None:
    found = measured("trainer.combine", str(alone), "--crops", "1", "--objective", "top1")
    singles = {(each["member"], each["crops"]): each for each in found["singles"]}
    for run in house.runs:
        told = measured("trainer.evaluate", str(run), "--data", str(house.folder / "val"))
        [result] = told["results"]
        scores = singles[run.name, "1"]["scores"]
        for key in ("top1", "top5", "class_top1", "class_top5"):
            assert scores[key] == pytest.approx(result[key], abs=1e-5)
    assert [each["method"] for each in found["methods"]][:2] == ["single", "arithmetic"]
    assert found["num_read"] == COUNT


def test_kept_probabilities_add_up_and_carry_their_checksums(alone: Path) -> None:
    for each in answers_in(str(alone)):
        for _, values, read in each.parts():
            assert values.shape == (PART, CLASSES)
            assert values.sum(1) == pytest.approx(np.ones(PART), abs=2e-3)
            assert read.all()
    for name, content in answers(alone).items():
        assert hashlib.sha256(content).hexdigest().startswith(name[-20:-4])


def test_indexes_in_any_order_make_what_one_process_makes(
    house: House, alone: Path, tmp_path: Path
) -> None:
    complete = []
    for index in (1, 2, 0):
        shared = {"JOB_COMPLETION_INDEX": str(index), "RUN_INDEXES": "3"}
        ended = house.done(tmp_path / "out", environment=shared)
        complete.append(len(json.loads(ended.out)["complete"]))
    assert complete == [0, 0, 4]
    assert answers(tmp_path / "out") == answers(alone)


def _child(options: list[str], log: str) -> None:
    """trainer.ensemble in a process of its own, forked where it has been imported already."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from trainer.config import EnsembleConfig, parse
    from trainer.ensemble import ensemble

    torch.set_num_threads(1)
    ensemble(parse(EnsembleConfig, "name: ensemble", options, source="here"))


def test_killed_at_thirty_moments_it_makes_what_an_undisturbed_one_makes(
    house: House, alone: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.ensemble"])
    draw = random.Random(0)
    kept: dict[str, int] = {}
    kills = 0
    while kills < KILLS:
        if len(kept) == 4 * COUNT // PART:  # thirty kills need more than one run through
            assert answers(out) == answers(alone)
            shutil.rmtree(out)
            kept = {}
        process = context.Process(target=_child, args=(house.options(str(out)), str(log)))
        process.start()
        process.join(draw.uniform(0.05, 1.2))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        now = written(out) if out.exists() else {}
        assert {name: now.get(name) for name in kept} == kept, "a finished part was made again"
        kept = now
    house.done(out)
    now = written(out)
    assert {name: now[name] for name in kept} == kept
    assert answers(out) == answers(alone)


def test_another_network_is_the_only_one_that_is_asked(
    house: House, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    house.done(out, runs=house.runs[:1])
    before = written(out)
    ended = house.done(out)
    assert json.loads(ended.out)["complete"][2:] == ["second/1", "second/10"]
    now = written(out)
    assert {name: now[name] for name in before} == before
    asked = [line for line in ended.said.splitlines() if "pictures from" in line]
    assert asked
    assert not any("first" in line for line in asked)
    assert answers(out) == answers(alone)


def copied(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


def test_a_changed_checkpoint_is_told_and_the_begun_one_goes_on_if_it_is_there(
    house: House, tmp_path: Path
) -> None:
    run, other = copied(house.runs[0], tmp_path / "run"), house.runs[1]
    out = tmp_path / "out"
    shared = {"JOB_COMPLETION_INDEX": "0", "RUN_INDEXES": "2"}
    house.done(out, "which=newest", runs=[run], environment=shared)
    # A training that went on: the begun checkpoint is there, a newer one beside it.
    steps = sorted(path for path in other.glob("step-*") if path.is_dir())
    grown = run / steps[-1].name.replace("step-0", "step-9")
    shutil.copytree(steps[-1], grown)
    manifest = json.loads((grown / "manifest.json").read_text())
    manifest["update"] = int(grown.name.split("-")[1])
    for each in manifest["objects"]:
        each["key"] = each["key"].replace(steps[-1].name, grown.name)
    (grown / "manifest.json").write_text(json.dumps(manifest))
    ended = house.run(out, "which=newest", runs=[run])
    assert ended.status == 0, ended.said
    assert "going on with that of update" in ended.said
    calm = tmp_path / "calm"
    house.done(calm, "which=newest", runs=[house.runs[0]])
    assert answers(out) == answers(calm)
    # Gone, it cannot go on.
    for path in run.glob("step-0*"):
        shutil.rmtree(path)
    ended = house.run(out, "which=newest", runs=[run])
    assert ended.status == 2
    [error] = ended.errors()
    assert "its newest one is now at update 9" in error
    assert error.endswith("and the other is gone; name another output")


def test_a_full_disk_ends_in_a_line_and_room_lets_it_go_on(
    house: House, alone: Path, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        reason = "no mount namespaces here"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    ask = " ".join(
        [sys.executable, "-m", "trainer.ensemble", *map(repr, house.options(f"{disk}/out"))]
    )
    script = f"""
        mount -t tmpfs -o size=48k tmpfs {disk}
        {ask} 2> {tmp_path}/first; echo $? > {tmp_path}/status
        mount -o remount,size=8m {disk}
        {ask} 2> {tmp_path}/second || exit 1
        cp -r {disk}/out {kept}
    """
    told = {"RUN_CONFIG": "name: ensemble\n", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env=os.environ | told,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (tmp_path / "second").read_text()
    assert (tmp_path / "status").read_text() == "1\n"
    assert "no space left on device" in (tmp_path / "first").read_text().lower()
    assert answers(kept) == answers(alone)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    try:
        with s3_server() as server:
            yield server
    except Unavailable as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


def test_a_store_that_drops_a_tenth_of_its_answers(
    house: House, alone: Path, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in s3.environment().items():
        monkeypatch.setenv(key, value)
    house.upload(f"s3://{BUCKET}")
    with proxy(s3.port) as between:
        between.drop_share(0.1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        house.done(
            f"s3://{BUCKET}/out",
            f"cache_dir={tmp_path}",
            runs=[f"s3://{BUCKET}/{run.name}" for run in house.runs],
            data=f"s3://{BUCKET}/val",
        )
        assert between.struck > 10
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    store = open_store(f"s3://{BUCKET}/out")
    found = {e.key: store.get(e.key) for e in store.list("members/") if e.key.endswith(".npy")}
    assert sorted(found.values()) == sorted(answers(alone).values())


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.fixture(scope="module")
def tested(house: House) -> Path:
    """The same runs' answers about the test list, two pictures of which cannot be read."""
    out = house.folder / "tested"
    ended = house.done(out, data=str(house.folder / "test"))
    assert ended.said.count("cannot be read: sample") == 2
    return out


def test_a_submission_has_a_line_for_each_picture_even_the_bad_ones(
    house: House, alone: Path, tested: Path, tmp_path: Path
) -> None:
    out, listed = tmp_path / "predictions.txt", house.raw / "info/test_filelist.txt"
    options = ["--crops", "10", "--objective", "top1", "--test", str(tested), "--out", str(out)]
    done = launched("ensemble", "combine", str(alone), *options)
    assert done.returncode == 0, done.stderr
    assert "warning: 2 pictures could not be read" in done.stderr
    assert f"test{DAMAGED + 1:06d}.jpg, test{MISSING + 1:06d}.jpg" in done.stderr
    for word in ("first", "second", "TEMPERATURE", "arithmetic", "per-class", "advised, chosen"):
        assert word in done.stdout
    for file in (out, out.with_suffix(".zip")):
        assert check(file, listed, CLASSES) == COUNT
        said = launched(
            "submission", "check", str(file), "--list", str(listed), "--classes", str(CLASSES)
        )
        assert (said.returncode, said.stdout) == (0, f"{file} is good: {COUNT} images\n")
    lines = [line.split() for line in out.read_text().splitlines()]
    right = [int(line[1]) == number % CLASSES for number, line in enumerate(lines)]
    assert np.mean(right) > 0.8
    assert lines[DAMAGED][1:] == lines[MISSING][1:]
    refused = launched(
        "submission", "check", str(out), "--list", str(listed), "--classes", str(CLASSES - 1)
    )
    assert refused.returncode == 2
    assert "error: " in refused.stderr
    assert " line " in refused.stderr


@pytest.mark.parametrize("method", ["geometric", "rank", "greedy", "per-class"])
def test_every_way_can_be_applied(
    alone: Path, tested: Path, house: House, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "p.txt"
    options = ["--crops", "10", "--method", method, "--test", str(tested), "--out", str(out)]
    found = measured("trainer.combine", str(alone), *options)
    assert found["submission"]["method"] == found["chosen"] == method
    assert check(out, house.raw / "info/test_filelist.txt", CLASSES) == COUNT


def test_sets_that_were_not_asked_alike_are_refused(
    house: House, alone: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    house.done(other, runs=house.runs[:1], data=str(house.folder / "test"))
    said = launched("ensemble", "combine", str(alone), "--crops", "1", "--test", str(other))
    assert said.returncode == 2
    assert "has no predictions of second/1, only first/1, first/10" in said.stderr
    said = launched("ensemble", "combine", str(alone))
    assert "first has predictions over 1, 10; name one of them with --crops" in said.stderr
    said = launched("ensemble", "combine", str(other), "--crops", "1")
    assert "was packed from a test list, which tells no labels" in said.stderr


REFUSED = [
    (["crops=[11]"], ["crops is '11'", "allowed are 1, 2, 10"]),
    (["runs=[]"], ["runs", "must be given"]),
    (["runs=[{house}/first,{house}/first]"], ["runs names", "twice"]),
    (["runs=[{house}/nowhere]"], ["holds no run"]),
    (["data={house}/nowhere"], ["no dataset at"]),
    (["runs=[{house}/first,{tmp}/first]"], ["are both named first"]),
]


@pytest.mark.parametrize(("options", "parts"), REFUSED, ids=[each[0][0][:20] for each in REFUSED])
def test_what_cannot_be_asked_is_one_line_and_is_not_tried_again(
    house: House, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    copied(house.runs[0], tmp_path / "first")
    reason = tmp_path / "reason"
    given = [option.format(house=house.folder, tmp=tmp_path) for option in options]
    ended = house.run(tmp_path / "out", *given, environment={MESSAGE_PATH: str(reason)})
    assert ended.status == 2, ended.said
    [error] = ended.errors()
    assert [part for part in parts if part not in error] == [], error
    assert reason.read_text() == error.replace("error: ", FATAL, 1)
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_a_run_of_the_same_name_keeps_out_of_anothers_answers(
    house: House, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(alone, out)
    other = copied(house.runs[0], tmp_path / "first")
    ended = house.run(out, runs=[other])
    assert ended.status == 2
    [error] = ended.errors()
    assert f"holds predictions of {house.runs[0]}" in error
    assert answers(out) == answers(alone)


def test_compiled_answers_are_the_same_but_for_rounding(
    house: House, alone: Path, tmp_path: Path
) -> None:
    house.done(tmp_path, "compile=on", "crops=[1]", runs=house.runs[:1])
    plain, compiled = (
        next(each for each in answers_in(str(out)) if each.title == "first/1")
        for out in (alone, tmp_path)
    )
    for (_, first, _), (_, second, _) in zip(plain.parts(), compiled.parts(), strict=True):
        assert second == pytest.approx(first, abs=2e-3)


def test_int8_answers_are_near_and_the_same_again(
    house: House, alone: Path, tmp_path: Path
) -> None:
    more = ("precision=int8", "compile=off", "crops=[1]")
    house.done(tmp_path / "out", *more, runs=house.runs[:1])
    house.done(tmp_path / "again", *more, runs=house.runs[:1])
    assert answers(tmp_path / "out") == answers(tmp_path / "again")
    plain, small = (
        next(each for each in answers_in(str(out)) if each.title == "first/1")
        for out in (alone, tmp_path / "out")
    )
    exact = np.concatenate([values for _, values, _ in plain.parts()])
    near = np.concatenate([values for _, values, _ in small.parts()])
    assert not np.array_equal(exact, near)
    assert np.abs(exact - near).mean() < 0.03
    assert (exact.argmax(1) == near.argmax(1)).mean() > 0.95


def test_a_few_pictures_are_told_and_drawn(house: House, tmp_path: Path) -> None:
    images = [tmp_path / f"{label}.jpg" for label in range(3)]
    for label, path in enumerate(images):
        path.write_bytes(coloured(5000 + label, label))
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    runs = [word for run in house.runs for word in ("--run", str(run))]
    drawn = tmp_path / "seen.png"
    done = launched("predict", *map(str, images), *runs, "--out", str(drawn), "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for label, item in enumerate(found["items"]):
        assert item["classes"][0]["label"] == label
        assert item["classes"][0]["name"] == SYNSETS[label]
        assert len(item["classes"]) == 5
        p = [each["probability"] for each in item["classes"]]
        assert p == sorted(p, reverse=True)
        assert 0.9 < sum(p) <= 1.001
    with Image.open(drawn) as picture:
        assert picture.size[0] > 500
    done = launched("predict", str(images[0]), str(tmp_path / "bad.jpg"), *runs, "--top", "1")
    assert done.returncode == 1
    assert "colour 0" in done.stdout
    assert "cannot be read: not a whole picture" in done.stdout
    assert "error: 1 of 2 pictures cannot be read" in done.stderr
