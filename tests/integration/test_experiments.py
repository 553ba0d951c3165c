"""Experiments that are killed, changed, interrupted and fail: real runs of the trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.submission import check
from tests.raws import Tree, picture, samples
from tests.unit.trainer.shards import write_shards
from tools.experiments import dataset, places
from tools.experiments.spec import SpecError
from trainer.data.shards import open_dataset

EXPERIMENT: dict[str, Any] = {
    "what": "Two losses on random colours",
    "data": {"variable": "COLOURS"},
    "seeds": [0, 1],
    "jobs": 2,
    "base": {
        "epochs": 4,
        "model": {"name": "resnet18", "width": 0.125, "stem": "small"},
        "input": {"size_px": 24},
        "data": {"lanes": 12, "window": 8, "loader_processes": 0},
        "update": {"global_batch": 24, "micro_batch": 24, "precision": "fp32", "layout": "nhwc"},
        "optim": {"lr": 0.05, "warmup_epochs": 0},
        "log": {"every_s": 0},
    },
    "methods": {"ce": None, "smoothing": {"update": {"label_smoothing": 0.2}}},
}
RUNS = [("ce", 0), ("ce", 1), ("smoothing", 0), ("smoothing", 1)]


@dataclass
class Bench:
    """An experiment in a folder: its file, its state and its results."""

    folder: Path
    data: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.results, self.state = self.folder / "results", self.folder / "state"
        self.file = self.folder / "colours.yaml"
        self.write(EXPERIMENT)

    def write(self, experiment: dict[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump(experiment, sort_keys=False))

    def start(self, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tools.experiments", str(self.file)]
        return subprocess.Popen(
            [*command, "--results", str(self.results), *flags],
            env=os.environ | {"XDG_STATE_HOME": str(self.state), "COLOURS": str(self.data)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *flags: str) -> tuple[int, str]:
        """Exit status, and what it said."""
        process = self.start(*flags)
        said, _ = process.communicate(timeout=200)
        return process.returncode, said

    def rows(self) -> list[dict[str, Any]]:
        path = self.results / "colours.json"
        return json.loads(path.read_text()) if path.exists() else []

    def figures(self) -> list[dict[str, Any]]:
        """The rows without what differs from run to run."""
        told = {"seconds", "commit", "machine"}
        return [{key: row[key] for key in row.keys() - told} for row in self.rows()]

    def runs(self) -> list[tuple[str, int]]:
        return [(row["method"], row["seed"]) for row in self.rows()]

    def metrics(self) -> dict[str, str]:
        """What each cell's trainer has told, by the cell's folder."""
        paths = self.state.glob("launcher/experiments/colours/cells/*/run/metrics.jsonl")
        return {path.parts[-3]: path.read_text() for path in paths}

    def resumed(self) -> list[tuple[int, int]]:
        """Of each start of a run: which it was, and after which update."""
        lines = [json.loads(line) for text in self.metrics().values() for line in text.splitlines()]
        starts = [line for line in lines if line["event"] == "start"]
        return [(line["generation"], line["parent_update"]) for line in starts]

    def in_the_middle(self) -> bool:
        """Whether some run has made updates and is not done."""
        return any('"train"' in text and '"end"' not in text for text in self.metrics().values())


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 100
    while not true():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.005)


def children(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def gone(pids: list[int]) -> bool:
    return not any(Path("/proc", str(pid)).exists() for pid in pids)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    write_shards(folder / "train", count=96)
    write_shards(folder / "val", count=24)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bench:
    """An experiment that was run to its end."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), data)
    status, said = bench.run()
    assert status == 0, said
    return bench


def test_an_experiment_ends_with_a_row_a_run_a_page_and_a_picture(undisturbed: Bench) -> None:
    assert undisturbed.runs() == RUNS
    for row in undisturbed.rows():
        assert row["samples"] == 4 * 96
        assert [epoch for epoch, _ in row["curve"]] == [1, 2, 3, 4]
        assert row["curve"][-1][1] == row["top1"]
        assert 0 < row["train_top1"] < 1
        assert row["top5"] == 1  # of three classes
        assert row["seconds"] > 0
    page = (undisturbed.results / "colours.md").read_text()
    assert "\n| ce | " in page
    assert "\n| smoothing | " in page
    assert "missing" not in page
    assert (undisturbed.results / "colours.svg").read_text().startswith("<?xml")


def test_a_killed_experiment_goes_on_and_ends_as_if_nothing_had_been(
    tmp_path: Path, data: Path, undisturbed: Bench
) -> None:
    bench = Bench(tmp_path / "killed", data)
    alone = bench.start("--jobs", "1")
    wait_until(bench.in_the_middle, alone)
    orphans = children(alone)
    assert orphans
    alone.kill()  # the kernel tells its runs, and they leave
    alone.communicate()

    every = bench.start()
    wait_until(lambda: bool(bench.rows()) and bench.in_the_middle(), every)
    assert gone(orphans)
    every.send_signal(signal.SIGSTOP)
    for pid in [*children(every), every.pid]:
        os.kill(pid, signal.SIGKILL)
    every.communicate()
    finished = bench.rows()
    assert 0 < len(finished) < 4
    before = bench.metrics()

    status, said = bench.run()
    assert status == 0, said
    assert f"{4 - len(finished)} of 4 runs to do" in said
    assert bench.figures() == undisturbed.figures()
    assert [row for row in bench.rows() if row in finished] == finished
    after = bench.metrics()
    for folder, text in before.items():
        done = any(folder.startswith(f"{row['method']}-{row['seed']}-") for row in finished)
        assert (after[folder] == text) == (done or '"completed"' in text), folder
    assert any(generation > 1 and update > 0 for generation, update in bench.resumed())


def test_a_changed_method_alone_is_run_anew_and_back_again_not_at_all(
    tmp_path: Path, data: Path, undisturbed: Bench
) -> None:
    bench = Bench(tmp_path / "changed", data)
    subprocess.run(["cp", "-r", undisturbed.state, undisturbed.results, bench.folder], check=True)
    old = bench.metrics()
    changed = EXPERIMENT | {"methods": {"ce": None, "smoothing": {"optim": {"lr": 0.02}}}}
    bench.write(changed)
    status, said = bench.run("--jobs", "1", "--seeds", "0")
    assert status == 0, said
    assert "1 of 2 runs to do, 1 at once" in said
    assert "1 of 4 runs are missing" in (bench.results / "colours.md").read_text()
    new = bench.metrics()
    assert old.items() <= new.items()
    assert [folder[:4] for folder in new.keys() - old.keys()] == ["0-1-"]
    kept = [row for row in undisturbed.rows() if (row["method"], row["seed"]) != ("smoothing", 0)]
    assert [row for row in bench.rows() if row in kept] == kept

    bench.write(EXPERIMENT)
    status, said = bench.run()
    assert status == 0, said
    assert bench.figures() == undisturbed.figures()
    assert bench.metrics() == new


def test_sizes_that_are_added_are_evaluated_and_nothing_is_run_again(
    tmp_path: Path, data: Path, undisturbed: Bench
) -> None:
    bench = Bench(tmp_path / "sized", data)
    subprocess.run(["cp", "-r", undisturbed.state, undisturbed.results, bench.folder], check=True)
    bench.write(EXPERIMENT | {"sizes": [16, 24]})
    status, said = bench.run("--only", "ce", "--seeds", "0")
    assert status == 0, said
    assert "1 of 1 runs to do" in said
    assert bench.metrics() == undisturbed.metrics()
    [row] = [row for row in bench.rows() if (row["method"], row["seed"]) == ("ce", 0)]
    assert [size for size, _ in row["by_size"]] == [16, 24]
    assert dict(row["by_size"])[24] == pytest.approx(row["top1"], abs=1 / 24 + 1e-6)
    assert row["p"] is None
    assert "| top-1 (%) at | 16 px | 24 px | p |" in (bench.results / "colours.md").read_text()
    status, said = bench.run("--only", "ce", "--seeds", "0")
    assert (status, "0 of 1 runs to do" in said) == (0, True)


def test_rows_that_another_machine_has_made_are_not_made_again(
    tmp_path: Path, data: Path, undisturbed: Bench
) -> None:
    bench = Bench(tmp_path / "elsewhere", data)
    subprocess.run(["cp", "-r", undisturbed.results, bench.folder], check=True)
    (bench.results / "colours.md").unlink()
    status, said = bench.run()
    assert status == 0, said
    assert "0 of 4 runs to do" in said
    assert bench.metrics() == {}
    for name in ("colours.json", "colours.md", "colours.svg"):
        assert (bench.results / name).read_bytes() == (undisturbed.results / name).read_bytes()


def test_what_cannot_run_is_refused_before_anything_runs(tmp_path: Path, data: Path) -> None:
    bench = Bench(tmp_path / "refused", data)
    bench.write(EXPERIMENT | {"methods": {"ce": None, "focal": {"update": {"focus": 2}}}})
    status, said = bench.run()
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith(f"error: method focal in {bench.file} at update.focus")
    assert not bench.state.exists()
    status, said = bench.run("--only", "smoothing")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("error: no method 'smoothing'")


def test_a_failing_run_is_told_at_the_end_and_one_that_was_killed_is_tried_again(
    tmp_path: Path, data: Path, undisturbed: Bench
) -> None:
    bench = Bench(tmp_path / "failing", data)
    small = {"model": {"num_classes": 2}}  # the data have three
    bench.write(EXPERIMENT | {"seeds": [0], "methods": {"small": small, "ce": None}})
    process = bench.start()
    wait_until(bench.in_the_middle, process)
    for pid in children(process):
        [trained] = bench.metrics()  # of ce alone: small ends before it has told anything
        if f"/{trained}/" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "ce, seed 0: killed by signal 9" in said
    assert bench.figures() == [row for row in undisturbed.figures() if row["method"] == "ce"][:1]
    last = said[said.index("failed: ") :]
    assert last.startswith("failed: small, seed 0: exit status 2; ")
    assert "    error: data.train has 3 classes" in last
    assert said.count("small, seed 0: begins") == 1  # starting again cannot cure it


def test_sigterm_ends_all_and_two_do_not_run_at_once(tmp_path: Path, data: Path) -> None:
    bench = Bench(tmp_path / "ended", data)
    process = bench.start("--jobs", "1")
    wait_until(bench.in_the_middle, process)
    status, said = bench.run()
    assert status == 2
    assert f"colours is being run already, by process {process.pid}" in said
    runs = children(process)
    process.terminate()
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert gone(runs)
    assert any('"terminated"' in text for text in bench.metrics().values())


def test_raw_data_is_packed_once(tmp_path: Path) -> None:
    val = [(number % 3, picture(100 + number)) for number in range(3)]
    raw = Tree(tmp_path / "raw").write(samples(6), val).root
    with places.locked(tmp_path / "state") as lock:
        packed = dataset.prepare(str(raw), tmp_path / "state", lock)
        assert dataset.prepare(str(raw), tmp_path / "state", lock) == packed
        for address, count in ((packed.train, 6), (packed.val, 3)):
            assert open_dataset(address, tmp_path).num_samples == count
        with pytest.raises(SpecError, match=r"no data set at .*: it must hold info/"):
            dataset.prepare(str(tmp_path), tmp_path / "state", lock)


def test_the_networks_of_a_seed_vote_and_answer_the_test_list(tmp_path: Path) -> None:
    synsets = tuple(f"n{number:08d} thing {number}" for number in range(5))
    val = [(number % 5, picture(100 + number)) for number in range(40)]
    tested: list[bytes | None] = [picture(200 + number) for number in range(23)]
    raw = Tree(tmp_path / "raw", synsets=synsets).write(samples(48, 5), val, tested).root
    bench = Bench(tmp_path / "bench", raw)
    ensemble = {"crops": ["1", "2"], "objective": "top1"}
    bench.write(EXPERIMENT | {"seeds": [0], "ensemble": ensemble})
    build = tmp_path / "build"
    status, said = bench.run("--build", str(build))
    assert status == 0, said
    [document] = json.loads((bench.results / "colours.ensemble.json").read_text())
    assert {(each["member"], each["crops"]) for each in document["singles"]} == {
        (method, crops) for method in ("ce", "smoothing") for crops in ("1", "2")
    }
    assert len(document["methods"]) == 8
    by_row = {row["method"]: row["top1"] for row in bench.rows()}
    for each in document["singles"]:
        if each["crops"] == "1":
            assert each["scores"]["top1"] == pytest.approx(by_row[each["member"]], abs=1e-5)
    page = (bench.results / "colours.md").read_text()
    assert "## The ensemble" in page
    assert "| per-class | " in page
    predictions = build / "colours-0/predictions.txt"
    assert check(predictions, raw / "info/test_filelist.txt", 5) == 23

    written = predictions.stat().st_mtime_ns
    status, said = bench.run("--build", str(build))
    assert (status, "networks about" in said) == (0, False)
    assert predictions.stat().st_mtime_ns == written
