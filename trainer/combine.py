"""Finds how to combine an ensemble's predictions, and applies it to a test set's.

    python -m trainer.combine OUTPUT [--objective class-top5] [--test OUTPUT --out predictions.txt]

OUTPUT is where trainer.ensemble has written its predictions for labelled pictures. Every way is
scored on pictures that it was not fitted on. The result is one JSON document on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import OBJECTIVES, SUBMISSION_FILE, SUBMISSION_LABELS, ConfigError
from trainer.data.cache import cache_folder
from trainer.data.records import names_of
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import log_to_stderr, one_line_errors
from trainer.infer.answers import Answers, Floats, answers_in, probabilities, taken
from trainer.infer.candidates import candidates, ranked
from trainer.infer.methods import METHODS, combined
from trainer.infer.scores import Interval, places, score
from trainer.infer.search import (
    Found,
    advised,
    contributions,
    described,
    folds_of,
    rounded,
    search,
)
from trainer.infer.submission import lines_of, zipped
from trainer.infer.temperature import Calibration, calibrate


def combine(given: argparse.Namespace) -> dict[str, Any]:
    """The document; also writes a submission where one is asked for. Raises ConfigError."""
    every = answers_in(given.predictions)
    members = taken(every, given.crops, given.members)
    dataset = _opened(members[0], labelled=True)
    labels = dataset.index()["label"].astype(np.int64)
    folds = folds_of(labels, given.folds, given.seed)
    singles = [_single(each, labels) for each in every if _same_data(each, members[0])]
    calibrations = [calibrate(member, labels, folds) for member in members]
    temperatures = [each.temperature for each in calibrations]
    of = candidates(members, labels, temperatures)
    found = search(of, folds[of.ids], given.objective)
    added = contributions(of, given.objective) if len(members) > 1 else [None]
    best = advised(found)
    chosen = next((each for each in found if each.method.name == given.method), best)
    document: dict[str, Any] = {
        "schemaVersion": 1,
        "data": dataset.address,
        "num_samples": dataset.num_samples,
        "num_read": len(of),
        "objective": given.objective,
        "folds": given.folds,
        "singles": singles,
        "members": [_calibrated(*each) for each in zip(members, calibrations, added, strict=True)],
        "methods": [described(each) for each in found],
        "advised": best.method.name,
        "chosen": chosen.method.name,
    }
    if given.test:
        document["submission"] = _submit(given, members, temperatures, chosen)
    return document


def _opened(member: Answers, *, labelled: bool) -> Dataset:
    """The data that a member's predictions are of."""
    dataset = open_dataset(member.record["data"], cache_folder(), labelled=labelled)
    if dataset.sha256 != member.record["dataset_sha256"]:
        raise ConfigError(
            f"{dataset.address} is not what {member.title} was asked about; it was packed anew"
            " since; predict it again"
        )
    return dataset


def _same_data(one: Answers, other: Answers) -> bool:
    return bool(one.record["dataset_sha256"] == other.record["dataset_sha256"])


def _single(member: Answers, labels: NDArray[np.int64]) -> dict[str, Any]:
    """How good a member is for itself; the order of its answers is the same at any temperature."""
    place, own = [], []
    for span, values, read in member.parts():
        classes = np.tile(np.arange(values.shape[1]), (int(read.sum()), 1))
        place.append(places(values[read], classes, labels[span.ids][read]))
        own.append(labels[span.ids][read])
    at, of = np.concatenate(place), np.concatenate(own)
    scores = {each.replace("-", "_"): round(score(at, of, each), 5) for each in OBJECTIVES}
    told = ("member", "model", "crops", "num_crops", "size_px", "update")
    return {key: member.record[key] for key in told} | {"scores": scores}


def _calibrated(
    member: Answers, calibration: Calibration, added: Interval | None
) -> dict[str, Any]:
    """What is told of a member that is combined."""
    return {
        "member": member.record["member"],
        "crops": member.record["crops"],
        "temperature": round(calibration.temperature, 4),
        "ece_before": round(calibration.ece_before, 5),
        "ece_after": round(calibration.ece_after, 5),
        "adds": None if added is None else rounded(added),
    }


def _submit(
    given: argparse.Namespace,
    members: list[Answers],
    temperatures: list[float],
    chosen: Found,
) -> dict[str, Any]:
    """Writes predictions.txt and its zip for the test set."""
    tested = _tested(given.test, members)
    dataset = _opened(tested[0], labelled=False)
    if dataset.num_classes < SUBMISSION_LABELS:
        raise ConfigError(
            f"{dataset.address} has {dataset.num_classes} classes; a submission needs"
            f" {SUBMISSION_LABELS}"
        )
    names = [name.partition("/")[2] or name for name in names_of(dataset)]
    five, read = _firsts(tested, temperatures, chosen)
    text = "".join(lines_of(names, five.tolist()))
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    packed = out.with_suffix(".zip")
    packed.write_bytes(zipped(text))
    unread = [name for name, each in zip(names, read, strict=True) if not each]
    return {
        "method": chosen.method.name,
        "file": str(out),
        "zip": str(packed),
        "lines": len(names),
        "num_unread": len(unread),
        "unread": unread[:20],
    }


def _tested(output: str, members: list[Answers]) -> list[Answers]:
    """The same members' predictions for the test set. Raises ConfigError."""
    every = {each.title: each for each in answers_in(output)}
    found = []
    for member in members:
        other = every.get(member.title)
        if other is None:
            raise ConfigError(
                f"{output} has no predictions of {member.title}, only {', '.join(every)}; ask the"
                " same runs about the same crops of both sets"
            )
        for key in ("checkpoint", "size_px", "form"):
            if other.record[key] != member.record[key]:
                raise ConfigError(
                    f"{member.title} differs in {key} between {member.output}"
                    f" ({member.record[key]}) and {output} ({other.record[key]}); predict both"
                    " alike"
                )
        found.append(other)
    return found


def _firsts(
    members: list[Answers], temperatures: list[float], chosen: Found
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N, 5) the likeliest classes of each picture, and (N,) whether it could be read.

    One that could not has the classes that are likeliest over all others.
    """
    five, seen = [], []
    total = np.zeros(members[0].record["num_classes"])
    for scores, p, read in _scored(members, temperatures, chosen):
        five.append(np.argsort(-scores, 1, kind="stable")[:, :SUBMISSION_LABELS])
        seen.append(read)
        total += p[read].sum(0)
    firsts, whole = np.concatenate(five), np.concatenate(seen)
    firsts[~whole] = np.argsort(-total, kind="stable")[:SUBMISSION_LABELS]
    return firsts, whole


def _scored(
    members: list[Answers], temperatures: list[float], chosen: Found
) -> Iterator[tuple[Floats, Floats, NDArray[np.bool_]]]:
    """By part: (n, K) combined scores, (n, K) mean probabilities, (n,) which could be read."""
    weights = chosen.weights
    for parts in zip(*(member.parts() for member in members), strict=True):
        p = np.stack(
            [
                probabilities(values, member.record["form"], temperature)
                for (_, values, _), member, temperature in zip(
                    parts, members, temperatures, strict=True
                )
            ]
        )
        ranks = None
        if chosen.method.kind == "rank":
            every = np.tile(np.arange(p.shape[2]), (p.shape[1], 1))
            ranks = np.stack([ranked(each, every) for each in p])
        spread = weights[:, None, :] if weights.ndim == 2 else weights
        scores = combined(chosen.method.kind, spread, p, ranks)
        yield scores, p.mean(0), np.logical_and.reduce([read for _, _, read in parts])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.combine", description="Combine an ensemble's predictions."
    )
    add = parser.add_argument
    add("predictions", help="output of trainer.ensemble for labelled pictures")
    add("--crops", default="", help="crop set to combine; default: the only one of each member")
    add("--members", nargs="*", default=[], help="members to combine; default: all")
    add("--objective", choices=OBJECTIVES, default="class-top5")
    add("--method", choices=[each.name for each in METHODS], default="", help="default: as advised")
    add("--folds", type=int, default=5, help="parts of which each is scored once")
    add("--seed", type=int, default=0, help="of the folds")
    add("--test", default="", help="output of trainer.ensemble for a test set")
    add("--out", default=SUBMISSION_FILE, help="with --test: the submission; a .zip beside it")
    given = parser.parse_args(arguments)
    if given.folds < 2:
        parser.error(f"--folds is {given.folds}; it must be at least 2")
    if not given.out.endswith(".txt"):
        parser.error(f"--out is {given.out!r}; it must end in .txt")
    return given


def main() -> None:
    """Searches and tells; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        print(json.dumps(combine(given)), flush=True)


if __name__ == "__main__":
    main()
