"""Runs an experiment's missing runs and reports all of them.

    make experiment NAME=noisy-labels DATA=FOLDER      or the variable that the file names
    make experiment NAME=noisy-labels REPORT=1         only docs/results/NAME.md and NAME.svg
    make experiment                                    what there is

Killed, it goes on where it was. docs/experiments.md tells of the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.table import processor
from tests.ending import end_on_sigterm
from tools.experiments import (
    cells,
    dataset,
    ensemble_report,
    ensembles,
    picture,
    places,
    report,
    results,
    runner,
    spec,
)
from tools.experiments.children import say
from tools.experiments.spec import Experiment, SpecError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code: 0 all done, 1 a run failed, 2 refused, 130 interrupted."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    try:
        if options.list or options.name is None:
            return list_all(options.results)
        experiment = spec.read(_path(options.name))
        files = Files(options.results, experiment.name)
        if options.report:
            files.report(experiment)
            return 0
        return run(experiment, files, options)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


class Files:
    """The files of an experiment's results."""

    def __init__(self, folder: Path, name: str) -> None:
        self.rows = folder / f"{name}.json"
        self.page = folder / f"{name}.md"
        self.picture = folder / f"{name}.svg"
        self.ensembles = folder / f"{name}.ensemble.json"

    def report(self, experiment: Experiment) -> None:
        """Writes page and picture anew. Raises SpecError where no row fits."""
        rows = results.read_rows(self.rows)
        groups = report.chosen(experiment, rows, str(self.rows))
        if not groups:
            raise SpecError(f"no run of {experiment.source} as it is now is in {self.rows}")
        text = report.markdown(experiment, groups, self.picture.name)
        if experiment.ensemble is not None:
            documents = ensembles.read(self.ensembles)
            asked = experiment.ensemble
            told = ensemble_report.tables(documents, asked.combined, asked.objective)
            text += "\n" + "\n".join(told) if told else ""
        self.page.write_text(text, encoding="utf-8")
        sides = {each.name: each.size_px for each in experiment.methods}
        picture.draw(groups, experiment.name, self.picture, sides)
        print(f"wrote {self.page} and {self.picture.name}")


def run(experiment: Experiment, files: Files, options: argparse.Namespace) -> int:
    """Runs what is asked for and not there yet, and reports."""
    methods = _named(experiment, options.only)
    seeds = _seeds(experiment, options.seeds)
    cells.check(experiment)
    address = dataset.address_of(experiment, options.data)
    state = places.state_of(experiment.name)
    with places.locked(state) as lock:
        data = dataset.prepare(address, state, lock, tested=experiment.ensemble is not None)
        rows = results.read_rows(files.rows)
        asked = [
            cells.chain_of(experiment, method, seed, data, state)
            for seed in seeds
            for method in methods
        ]
        sizes = experiment.sizes
        missing = [
            chain for chain in asked if not any(results.is_of(row, chain, sizes) for row in rows)
        ]
        at_once = options.jobs or experiment.jobs
        say(f"{len(missing)} of {len(asked)} runs to do, {at_once} at once; state in {state}")
        commit, machine = results.commit(), processor()

        def finished(chain: cells.Chain) -> None:
            row = results.row_of(chain, commit, machine, sizes)
            results.write_rows(files.rows, results.with_row(results.read_rows(files.rows), row))
            minutes = row["seconds"] / 60
            say(f"{chain.title}: done, top-1 {100 * row['top1']:.2f} %, {minutes:.1f} min")

        failures = runner.run(missing, at_once=at_once, lock=lock, finished=finished)
        if experiment.ensemble is not None and not failures and len(methods) > 1:
            vote(experiment, files, asked, data, state, options.build, lock)
    if files.rows.exists():
        files.report(experiment)
    for failure in failures:
        print(f"failed: {failure.told()}", file=sys.stderr)
    return 1 if failures else 0


def vote(
    experiment: Experiment,
    files: Files,
    chains: list[cells.Chain],
    data: dataset.Data,
    state: Path,
    build: Path,
    lock: int,
) -> None:
    """The ensemble of each seed whose networks are all there, where it is not known yet."""
    by_seed: dict[int, list[cells.Chain]] = {}
    for chain in chains:
        by_seed.setdefault(chain.seed, []).append(chain)
    for seed, own in by_seed.items():
        documents = ensembles.read(files.ensembles)
        key = ensembles.key_of(experiment, own, data)
        known = any((each["seed"], each["key"]) == (seed, key) for each in documents)
        if known or len(own) < len(experiment.methods) or not all(map(is_there, own)):
            continue
        found = ensembles.run(experiment, own, data, state, build, lock)
        others = [each for each in documents if each["seed"] != seed]
        ensembles.write(files.ensembles, [*others, found])


def is_there(chain: cells.Chain) -> bool:
    """Whether the network that a chain ends with is kept here, and not only its row."""
    return chain.cells[-1].run.exists()


def list_all(folder: Path) -> int:
    """Tells of every experiment, and how many of its runs are done."""
    for path in sorted(places.EXPERIMENTS.glob("*.yaml")):
        experiment = spec.read(path)
        rows = results.read_rows(Files(folder, experiment.name).rows)
        groups = report.chosen(experiment, rows, experiment.name)
        done = sum(len(group) for group in groups.values())
        wanted = len(experiment.methods) * len(experiment.seeds)
        print(f"make experiment NAME={experiment.name:<20} {done}/{wanted} done  {experiment.what}")
    return 0


def _path(name: str) -> Path:
    if name.endswith(".yaml"):
        return Path(name)
    path = places.EXPERIMENTS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in places.EXPERIMENTS.glob("*.yaml")))
        raise SpecError(f"no experiment {name!r}; there are: {known}")
    return path.relative_to(places.ROOT) if Path.cwd() == places.ROOT else path


def _named(experiment: Experiment, only: str | None) -> list[spec.Method]:
    known = {method.name: method for method in experiment.methods}
    names = only.split(",") if only else list(known)
    for name in names:
        if name not in known:
            raise SpecError(f"no method {name!r} in {experiment.source}; it has {', '.join(known)}")
    return [known[name] for name in names]


def _seeds(experiment: Experiment, asked: str | None) -> list[int]:
    if not asked:
        return list(experiment.seeds)
    known = {str(seed): seed for seed in experiment.seeds}
    for seed in asked.split(","):
        if seed not in known:
            raise SpecError(f"no seed {seed} in {experiment.source}; it has {', '.join(known)}")
    return [known[seed] for seed in asked.split(",")]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiments",
        description="Runs a table of methods and seeds, goes on where it was, and reports it.",
    )
    add = parser.add_argument
    add("name", nargs="?", help="an experiment of examples/experiments, or a file NAME.yaml")
    add(
        "--data", metavar="FOLDER", help="the data set, raw or packed; default: the file's variable"
    )
    add("--report", action="store_true", help="run nothing, write page and picture")
    add("--jobs", type=_at_least_one, metavar="N", help="runs at once; default: the file's")
    add("--only", metavar="METHOD[,METHOD]", help="run these methods alone")
    add("--seeds", metavar="SEED[,SEED]", help="run these of its seeds alone")
    add("--list", action="store_true", help="tell of every experiment")
    default = places.RESULTS
    build = places.ROOT / "build"
    add("--build", type=Path, default=build, metavar="FOLDER", help="submissions; default: build")
    add("--results", type=Path, default=default, metavar="FOLDER", help="default: docs/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
