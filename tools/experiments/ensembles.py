"""The ensemble of an experiment: all methods' networks of one seed, asked and combined.

What is kept of it: docs/results/NAME.ensemble.json, a document of trainer.combine for each seed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.experiments import children
from tools.experiments.cells import Chain, sha256
from tools.experiments.dataset import Data
from tools.experiments.places import ROOT
from tools.experiments.results import write_rows
from tools.experiments.spec import Ensemble, Experiment, SpecError
from trainer.config import SUBMISSION_FILE

Document = dict[str, Any]


def run(
    experiment: Experiment,
    chains: Sequence[Chain],
    data: Data,
    state: Path,
    build: Path,
    lock: int,
) -> Document:
    """Asks the networks that a seed's chains end with, and combines their answers.

    build: where a submission for the data set's test list goes, if it has one.

    Raises SpecError where a program fails, with the last lines of its log.
    """
    ensemble = experiment.ensemble
    assert ensemble is not None
    names = {_run_name(chain): chain.method for chain in chains}
    seed = chains[0].seed
    key = key_of(experiment, chains, data)
    folder = state / "ensembles" / f"{seed}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    answers = _asked(ensemble, chains, data.val, folder / "val", lock)
    options = ["--crops", ensemble.combined, "--objective", ensemble.objective]
    if data.test:
        tested = _asked(ensemble, chains, data.test, folder / "test", lock)
        out = build / f"{experiment.name}-{seed}" / SUBMISSION_FILE
        options += ["--test", str(tested), "--out", str(out)]
    children.say(f"seed {seed}: combines")
    found = _combined(answers, options, folder / "combine.log")
    found.pop("submission", None)
    for each in (*found["singles"], *found["members"]):
        each["member"] = names[each["member"]]
    del found["data"]
    return {"seed": seed, "key": key, **found}


def key_of(experiment: Experiment, chains: Sequence[Chain], data: Data) -> str:
    """Names all that an ensemble's document depends on, apart from where things are."""
    ensemble = experiment.ensemble
    assert ensemble is not None
    said = [ensemble.crops, ensemble.combined, ensemble.objective]
    return sha256([data.sha256, said, *(chain.config for chain in chains)])[:16]


def _run_name(chain: Chain) -> str:
    name: str = yaml.safe_load(chain.cells[-1].run_file)["name"]
    return name


def _asked(ensemble: Ensemble, chains: Sequence[Chain], data: str, output: Path, lock: int) -> Path:
    """Has the networks asked about a set; goes on where it was."""
    tree = {
        "name": "ensemble",
        "data": data,
        "output": output.as_uri(),
        "runs": [chain.cells[-1].run.as_uri() for chain in chains],
        "crops": list(ensemble.crops),
        "loader_processes": 0,
    }
    output.mkdir(parents=True, exist_ok=True)
    run_path, log = output / "run.yaml", output / "log"
    run_path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    children.say(f"seed {chains[0].seed}: {len(chains)} networks about {data}")
    if children.run("trainer.ensemble", [str(run_path)], log=log, lock=lock):
        raise children.failure("trainer.ensemble failed", log)
    return output


def _combined(output: Path, options: list[str], log: Path) -> Document:
    command = [sys.executable, "-m", "trainer.combine", str(output), *options]
    with log.open("w", encoding="utf-8") as said:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT)
    if done.returncode:
        raise children.failure("trainer.combine failed", log)
    found: Document = json.loads(done.stdout)
    return found


def read(path: Path) -> list[Document]:
    """The documents of a file; none where there is no file. Raises SpecError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {path}: {error}") from error
    return list(found)


def write(path: Path, documents: Sequence[Document]) -> None:
    """Replaces the file by these documents, one a line."""
    ordered = sorted(documents, key=lambda each: int(each["seed"]))
    write_rows(path, ordered)
