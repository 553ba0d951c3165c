"""Experiments' files: what is refused, what a cell is told, and the report the long way."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.trainer.shards import write_shards
from tools.experiments import (
    cells,
    ensemble_report,
    ensembles,
    picture,
    places,
    report,
    results,
    spec,
)
from tools.experiments.dataset import Data, look
from tools.experiments.spec import SpecError
from trainer.config import TrainConfig, parse

FILE = """
what: Two losses
data: {variable: PICTURES}
seeds: [0, 1]
jobs: 2
base:
  epochs: 4
  optim: {lr: 0.1}
  update: {label_smoothing: 0}
methods:
  ce:
  smoothing: {update: {label_smoothing: 0.1}}
  staged:
    optim: {lr: 0.2}
    stages:
    - {epochs: 3}
    - {epochs: 1, entry: train, data: {selection: "{previous}/kept.npy"}}
"""
DATA = Data("file:///d/train", "file:///d/val", "c" * 16, "p" * 16)


def content() -> Any:
    return yaml.safe_load(FILE)


def read(tree: Any) -> spec.Experiment:
    return spec.parse(tree, name="losses", source="losses.yaml")


def changed(path: str, value: Any) -> Any:
    """The file with another value at a dotted path."""
    tree = content()
    *parents, last = path.split(".")
    place = tree
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return tree


def test_a_method_is_the_base_with_its_own_values_and_those_of_its_stage() -> None:
    experiment = read(content())
    assert [method.name for method in experiment.methods] == ["ce", "smoothing", "staged"]
    ce, smoothing, staged = experiment.methods
    assert ce.stages[0].tree == content()["base"]
    assert smoothing.stages[0].tree["update"] == {"label_smoothing": 0.1}
    assert smoothing.stages[0].tree["optim"] == {"lr": 0.1}
    assert [stage.tree["epochs"] for stage in staged.stages] == [3, 1]
    assert [stage.tree["optim"] for stage in staged.stages] == [{"lr": 0.2}] * 2


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("sedes", [1], "'sedes' in losses.yaml is no key of the experiment; it has what, data"),
        ("what", "", "what in losses.yaml is ''"),
        ("data", "folder", "data in losses.yaml is 'folder', but it must hold keys and values"),
        ("data.variable", "/data/mini", "data.variable in losses.yaml is '/data/mini'"),
        ("data.raw", "/data", "'raw' in losses.yaml is no key of data; it has variable"),
        ("seeds", [], "seeds in losses.yaml is []"),
        ("seeds", [1, 1], "seeds in losses.yaml is [1, 1]"),
        ("seeds", [True], "seeds in losses.yaml is [True]"),
        ("seeds", [-1], "seeds in losses.yaml is [-1]"),
        ("seeds", 3, "seeds in losses.yaml is 3"),
        ("jobs", 0, "jobs in losses.yaml is 0"),
        ("methods", {}, "methods in losses.yaml is empty"),
        ("methods.ce", [], "methods.ce in losses.yaml is []"),
        ("methods.Focal_loss", {}, "method 'Focal_loss' in losses.yaml must be named by"),
        ("methods.ce", {"entry": "tune"}, "entry of methods.ce in losses.yaml is 'tune'; allowed"),
        ("methods.ce", {"stages": []}, "methods.ce.stages in losses.yaml is []"),
        ("base.seed", 3, "seed of methods.ce in losses.yaml is given, but the experiment sets it"),
        ("base.data", {"val": "x"}, "data.val of methods.ce in losses.yaml is given"),
        ("methods.ce", {"name": "{previous}"}, "name of methods.ce in losses.yaml is given"),
        (
            "methods.ce",
            {"data": {"weights": "{previous}/w.npy"}},
            "methods.ce in losses.yaml names {previous}, but it is the first stage",
        ),
        (
            "methods.ce",
            {"entry": "textfilter"},
            "methods.ce in losses.yaml ends with textfilter, which trains nothing",
        ),
        (
            "methods.staged.stages.0",
            {"entry": "textfilter", "output": "/here"},
            "output of methods.staged.stages[1] in losses.yaml is given",
        ),
        (
            "methods.staged.stages.1",
            {"epochs": 2},
            "methods.staged.stages[2] in losses.yaml does not begin from the stage before",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(path: str, value: Any, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(changed(path, value))
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_or_absent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "losses.yaml"
    with pytest.raises(SpecError, match=r"cannot read the experiment .*losses.yaml: No such file"):
        spec.read(path)
    path.write_text("what: [")
    with pytest.raises(SpecError, match=r"losses.yaml is not valid YAML in line 1"):
        spec.read(path)
    path.write_text(FILE)
    with pytest.raises(SpecError, match="experiment 'Losses' must be named by lower-case"):
        spec.read(path.rename(tmp_path / "Losses.yaml"))


def test_a_run_is_told_all_the_trainer_needs(tmp_path: Path) -> None:
    experiment = read(content())
    chain = cells.chain_of(experiment, experiment.methods[2], 1, DATA, tmp_path)
    first, second = (parse(TrainConfig, cell.run_file, source="x") for cell in chain.cells)
    assert first.name == f"losses-{chain.cells[0].folder.name}" != second.name
    assert (first.seed, first.world.threads, first.log.metrics_port) == (1, 1, 0)
    assert (first.data.train, first.data.val) == (DATA.train, DATA.val)
    assert first.checkpoint.address == chain.cells[0].run.as_uri()
    assert second.data.selection == f"{first.checkpoint.address}/kept.npy"
    assert (first.epochs, second.epochs, second.optim.lr) == (3, 1, 0.2)


def test_a_key_that_the_trainer_does_not_know_is_refused_before_anything_runs() -> None:
    cells.check(read(content()))
    with pytest.raises(SpecError, match=r"method smoothing in losses\.yaml at .*'smothing'"):
        cells.check(read(changed("methods.smoothing", {"update": {"smothing": 0.1}})))
    with pytest.raises(SpecError, match=r"optim\.lr in method ce in losses\.yaml is -1"):
        cells.check(read(changed("methods.ce", {"optim": {"lr": -1}})))
    stage = {"epoch": 1, "data": {"weights": "{previous}/w"}}
    with pytest.raises(SpecError, match=r"method staged, stage 2, in losses\.yaml: .*'epoch'"):
        cells.check(read(changed("methods.staged.stages.1", stage)))


def test_a_cell_is_named_after_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    def folders(tree: Any, data: Data = DATA) -> dict[tuple[str, int], str]:
        experiment = read(tree)
        return {
            (cell.title, seed): cell.folder.name
            for method in experiment.methods
            for seed in experiment.seeds
            for cell in cells.chain_of(experiment, method, seed, data, tmp_path).cells
        }

    shared = changed("methods.other", content()["methods"]["staged"])
    shared["methods"]["other"]["stages"][1]["epochs"] = 2
    found = folders(shared)
    assert found["other, seed 0, stage 1", 0] == found["staged, seed 0, stage 1", 0]
    assert found["other, seed 0, stage 2", 0] != found["staged, seed 0, stage 2", 0]

    before = folders(content())
    assert len(set(before.values())) == len(before) == 8
    moved = Data("s3://bucket/train", "s3://bucket/val", DATA.sha256, DATA.packs)
    assert folders(content(), moved) == before
    assert folders(changed("what", "Others")) == before
    assert folders(changed("jobs", 1)) == before
    reordered = content()
    reordered["base"] = dict(reversed(reordered["base"].items()))
    assert folders(reordered) == before
    other = Data(DATA.train, DATA.val, DATA.sha256, "q" * 16)
    assert not set(folders(content(), other).values()) & set(before.values())

    smoothed = folders(changed("methods.smoothing.update.label_smoothing", 0.2))
    differ = {key for key in before if smoothed[key] != before[key]}
    assert differ == {("smoothing, seed 0", 0), ("smoothing, seed 1", 1)}
    first = folders(changed("methods.staged.stages.0.epochs", 2))
    assert {key for key in before if first[key] != before[key]} == {
        (f"staged, seed {seed}, stage {stage}", seed) for seed in (0, 1) for stage in (1, 2)
    }


def test_two_packs_of_the_same_pictures_are_the_same_data(tmp_path: Path) -> None:
    for name, count in (("here", 6), ("there", 6), ("other", 7)):
        for split in ("train", "val"):
            write_shards(tmp_path / name / split, count=count)
    here, there, other = (look(str(tmp_path / name)) for name in ("here", "there", "other"))
    assert here.sha256 == there.sha256 != other.sha256
    assert here.packs != there.packs
    assert here.train == (tmp_path / "here/train").as_uri()
    (tmp_path / "here/val/manifest.json").write_text("{}")
    with pytest.raises(SpecError, match=r"manifest\.json in .*/val is not as trainer\.pack makes"):
        look(str(tmp_path / "here"))


# -- rows


def line(event: str, update: int, generation: int = 1, **values: Any) -> dict[str, Any]:
    position = {"update": update, "seen": 24 * update, "epoch": update / 4}
    return {"event": event, "at": 0.0, "generation": generation, **position, **values}


def test_training_accuracy_is_of_the_last_epoch_and_weighs_lines_by_their_samples() -> None:
    lines = [
        line("start", 0),
        line("train", 1, top1=0.1),
        line("train", 4, top1=0.9),
        line("evaluate", 4, top1=1.0),
        line("train", 7, top1=0.5),
        line("train", 8, top1=0.2),
        line("end", 8),
    ]
    assert results.train_top1(lines) == pytest.approx((3 * 0.5 + 1 * 0.2) / 4, abs=1e-6)
    assert results.train_top1([line("start", 8), line("end", 8)]) is None


def test_seconds_are_those_in_which_a_process_ran() -> None:
    moments = [(1, 10.0), (1, 15.5), (2, 100.0), (2, 103.0)]
    text = "".join(json.dumps({"generation": g, "at": at}) + "\n" for g, at in moments)
    assert results.seconds_of(text) == 8.5


def row(method: str, seed: int, top1: float, **values: Any) -> dict[str, Any]:
    experiment = read(content())
    of = next(each for each in experiment.methods if each.name == method)
    return {
        "method": method,
        "seed": seed,
        "top1": top1,
        "top5": 0.9,
        "class_top1": top1 - 0.01,
        "train_top1": 0.5,
        "seconds": 90.0 + 60 * seed,
        "samples": 96,
        "curve": [[1.0, top1]],
        "config": cells.config_of(of, seed),
        "data": DATA.sha256,
        "commit": "abc1234",
        "machine": "a machine",
    } | values


def test_rows_are_replaced_and_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "results" / "losses.json"
    assert results.read_rows(path) == []
    rows: list[dict[str, Any]] = []
    for each in (row("smoothing", 0, 0.5), row("ce", 1, 0.4), row("smoothing", 0, 0.7)):
        rows = results.with_row(rows, each)
    results.write_rows(path, rows)
    assert [(each["method"], each["top1"]) for each in results.read_rows(path)] == [
        ("ce", 0.4),
        ("smoothing", 0.7),
    ]
    assert len(path.read_text().splitlines()) == 4
    assert [each.name for each in path.parent.iterdir()] == ["losses.json"]
    path.write_text('[{"method": "ce"}]')
    with pytest.raises(SpecError, match=r"a row in .* lacks one of method, seed"):
        results.read_rows(path)


# -- the report


def test_the_report_says_what_comes_out_the_long_way() -> None:
    ce, smoothing = [0.5, 0.53, 0.55], [0.6, 0.56]
    tree = changed("seeds", [0, 1, 2])
    rows = [row("ce", seed, top1) for seed, top1 in enumerate(ce)]
    rows += [row("smoothing", seed, top1) for seed, top1 in enumerate(smoothing)]
    experiment = read(tree)
    text = report.markdown(experiment, report.chosen(experiment, rows, "x"), "losses.svg")

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def variance(values: list[float]) -> float:
        return sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1)

    error = math.sqrt(variance(ce) / 3 + variance(smoothing) / 2)
    apart = mean(smoothing) - mean(ce)
    table = [[cell.strip() for cell in each.split("|")[1:-1]] for each in text.splitlines()]
    lines = {cells[0]: cells for cells in table if cells}
    assert lines["ce"] == [
        "ce",
        f"{100 * mean(ce):.2f} ± {100 * math.sqrt(variance(ce)):.2f}",
        f"{100 * mean(ce) - 1:.2f} ± {100 * math.sqrt(variance(ce)):.2f}",
        "",
        "50.00 ± 0.00",
        "3",
        "2.5",
    ]
    assert lines["smoothing"][3] == f"+{100 * apart:.2f} ± {100 * error:.2f}"
    assert lines["smoothing"][5] == "2"
    assert "4 of 9 runs are missing" in text
    assert "`make experiment NAME=losses` at commit abc1234 on a machine" in text


def test_one_seed_has_no_spread() -> None:
    assert report.over_seeds([0.5]).told() == "50.00 ± -"
    assert report.difference([0.5], [0.25, 0.75]).told(signed=True) == "+0.00 ± -"
    assert report.difference([0.25, 0.75], [0.7, 0.6]).spread == pytest.approx(
        math.sqrt((0.125) / 2 + 0.005 / 2)
    )


def test_rows_of_another_configuration_or_data_set_are_not_mixed_in() -> None:
    experiment = read(content())
    old = copy.deepcopy(row("ce", 0, 0.9)) | {"config": "another"}
    gone = row("ce", 0, 0.9) | {"method": "gone"}
    unasked = row("ce", 7, 0.9)
    groups = report.chosen(experiment, [old, gone, unasked, row("ce", 1, 0.4)], "x")
    assert {name: [each["top1"] for each in rows] for name, rows in groups.items()} == {"ce": [0.4]}
    other = row("ce", 0, 0.4) | {"data": "another"}
    with pytest.raises(SpecError, match=r"rows in losses\.json are of 2 data sets"):
        report.chosen(experiment, [row("ce", 1, 0.4), other], "losses.json")


@pytest.mark.parametrize("path", sorted(places.EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_experiments_of_this_project_can_be_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in spec.VARIABLE.findall(path.read_text()):
        monkeypatch.setenv(name, "/models/some")
    cells.check(spec.read(path))


def test_sizes_are_shown_by_method_with_the_mean_power() -> None:
    rows = [
        {"by_size": [[48, 0.5], [64, 0.6]], "p": 1.5},
        {"by_size": [[48, 0.52], [64, 0.64]], "p": 2.5},
    ]
    assert report.by_size(rows) == {48: [0.5, 0.52], 64: [0.6, 0.64]}
    head, _, average, gem, _ = report._sizes_table({"average": [{}], "gem": rows})
    assert head == "| top-1 (%) at | 48 px | 64 px | p |"
    assert average == "| average |  |  |  |"
    assert gem == "| gem | 51.00 ± 1.41 | 62.00 ± 2.83 | 2.00 |"
    assert report._sizes_table({"average": [{}]}) == []


def test_a_learnt_power_is_drawn_over_the_size_that_it_was_learnt_at(tmp_path: Path) -> None:
    tree = content()
    later = {"start": {"address": "{previous}"}, "input": {"size_px": 64}, "entry": "finetune"}
    tree["methods"] = {"plain": {}, "gem": {"stages": [{}, later]}}
    sides = {method.name: method.size_px for method in read(tree).methods}
    assert sides == {"plain": 224, "gem": 64}
    path = tmp_path / "powers.svg"
    row = {"top1": 0.5, "curve": [[1.0, 0.5]], "p": None}
    drawn = []
    for p in (None, 2.0):
        picture.draw({"plain": [row], "gem": [row | {"p": p}]}, "powers", path, sides)
        drawn.append("power p of generalised-mean pooling" in path.read_text())
    assert drawn == [False, True]


@pytest.mark.parametrize("sizes", [[64, 48], [48, 48], [8], ["48"], 48])
def test_sizes_must_be_ascending_numbers(sizes: Any) -> None:
    with pytest.raises(SpecError, match=r"sizes in losses\.yaml is .*ascending"):
        read(content() | {"sizes": sizes})
    assert read(content() | {"sizes": [48, 64]}).sizes == (48, 64)
    assert read(content()).sizes == ()


def test_a_text_filtering_is_told_its_own_stage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"entry": "textfilter", "encoder": {"model": "{env:SOME_ENCODER}"}}
    experiment = read(changed("methods.staged.stages.0", stage))
    method = experiment.methods[-1]
    assert method.stages[0].tree == {"encoder": {"model": "{env:SOME_ENCODER}"}}
    data = Data("file:///train", "file:///val", "", "")
    with pytest.raises(SpecError, match="SOME_ENCODER is not set"):
        cells.chain_of(experiment, method, 0, data, Path("/state"))
    monkeypatch.setenv("SOME_ENCODER", "/models/small")
    judged, trained = cells.chain_of(experiment, method, 0, data, Path("/state")).cells
    told = yaml.safe_load(judged.run_file)
    assert judged.module == "trainer.textfilter"
    assert told["data"] == "file:///train"
    assert told["output"] == judged.run.as_uri()
    assert told["encoder"] == {"model": "/models/small"}
    assert judged.run.as_uri() in trained.run_file
    monkeypatch.setenv("SOME_ENCODER", "/elsewhere")
    moved = cells.chain_of(experiment, method, 0, data, Path("/state"))
    assert moved.cells[0].folder == judged.folder


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"crops": "10"}, "ensemble.crops in losses.yaml is '10'; it must be a list"),
        ({"crops": [10]}, "it must be a list of texts"),
        ({"crops": ["11"]}, "ensemble.crops in losses.yaml: crops is '11'; allowed are 1, 2, 10"),
        ({"crops": ["1"], "combined": "10"}, "ensemble.combined in losses.yaml is '10', none of"),
        ({"objective": "top3"}, "ensemble.objective in losses.yaml is 'top3'; allowed is top1 or"),
        ({"crop": []}, "'crop' in losses.yaml is no key of ensemble"),
    ],
)
def test_an_ensemble_that_cannot_be_meant_is_refused(value: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read(content() | {"ensemble": value})
    found = read(content() | {"ensemble": {"crops": ["1", "10@64"]}}).ensemble
    assert found == spec.Ensemble(("1", "10@64"), "10@64", "top1")


def voted(seed: int, good: float) -> dict[str, Any]:
    """A document of a seed whose networks are right so often."""
    ratios = {key: good for key in ("top1", "top5", "class_top1", "class_top5")}
    better = {key: value + 0.1 for key, value in ratios.items()}
    singles = [
        {"member": member, "crops": crops, "scores": ratios if crops == "1" else better}
        for member in ("a", "b")
        for crops in ("1", "10")
    ]
    members = [
        {
            "member": name,
            "crops": "10",
            "ece_before": 0.2,
            "ece_after": 0.1,
            "adds": {"value": adds},
        }
        for name, adds in (("a", 0.03), ("b", -0.01))
    ]
    methods = [
        {"method": "single", "scores": better},
        {"method": "arithmetic", "scores": {key: value + 0.15 for key, value in ratios.items()}},
    ]
    return {
        "seed": seed, "key": "k", "singles": singles, "members": members, "methods": methods,
        "advised": "arithmetic" if seed else "single",
    }  # fmt: skip


def test_ensembles_are_told_over_the_seeds(tmp_path: Path) -> None:
    path = tmp_path / "losses.ensemble.json"
    ensembles.write(path, [voted(1, 0.52), voted(0, 0.5)])
    documents = ensembles.read(path)
    assert [each["seed"] for each in documents] == [0, 1]
    lines = ensemble_report.tables(documents, "10", "top1")
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in lines if line[:1] == "|"}
    assert rows["a"] == [
        "51.00 ± 1.41",
        "61.00 ± 1.41",
        "20.00 ± 0.00",
        "10.00 ± 0.00",
        "+3.00 ± 0.00 |",
    ]
    assert rows["arithmetic"] == ["66.00 ± 1.41", "66.00 ± 1.41", "+5.00 ± 0.00", "1 of 2 |"]
    assert rows["single"][2] == "+0.00 ± 0.00"
    assert ensemble_report.tables([], "10", "top1") == []
