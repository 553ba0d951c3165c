"""The page that shows what a text filtering has found, and how good it is where labels are known.

    python -m trainer.textreport OUT --page report.html [--verified FILE]

OUT is the filtering's `output`. FILE is a CSV with the columns id and right (1 or 0): samples that
somebody has looked at.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import SUMMARY_KEY, ConfigError
from trainer.data.cache import cache_folder
from trainer.data.shards import Dataset, open_dataset
from trainer.entry import log_to_stderr, one_line_errors
from trainer.storage import NotFound, open_store
from trainer.text.judge import separation
from trainer.textfilter import SCORES
from trainer.textfilter_page import Found, write_page

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Verified:
    """Samples whose label somebody has checked."""

    ids: NDArray[np.int64]
    right: NDArray[np.bool_]


def read_verified(path: Path, num_samples: int) -> Verified:
    """Raises ConfigError naming the file, the line and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--verified {path} cannot be read: {error}") from error
    rows = csv.DictReader(io.StringIO(text))
    if not {"id", "right"} <= set(rows.fieldnames or ()):
        raise ConfigError(f"--verified {path} must be a CSV with the columns id and right")
    known: dict[int, bool] = {}
    for row in _rows(rows, path):
        where = f"line {rows.line_num} of --verified {path}"
        id_, right = (row["id"] or "").strip(), (row["right"] or "").strip()
        if not (id_.isdecimal() and len(id_) < 19) or int(id_) >= num_samples:
            raise ConfigError(f"{where} has id {id_[:40]!r}; ids are 0 to {num_samples - 1}")
        if right not in ("0", "1"):
            raise ConfigError(f"{where} has right {right!r}, but it must be 1 or 0")
        known[int(id_)] = right == "1"
    if not known:
        raise ConfigError(f"--verified {path} has no line below its heading")
    ids = np.array(sorted(known), np.int64)
    return Verified(ids, np.array([known[id_] for id_ in ids.tolist()], np.bool_))


def _rows(rows: csv.DictReader[str], path: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from rows
    except csv.Error as error:
        raise ConfigError(f"--verified {path}, line {rows.line_num + 1}: {error}") from error


def quality(scores: NDArray[Any], verified: Verified) -> dict[str, Any]:
    """How well the probabilities part right from wrong labels, where that is known."""
    probability = scores["probability"][verified.ids].astype(np.float64)
    text = scores["text"][verified.ids].astype(np.float64)
    right = verified.right
    table = []
    for threshold in THRESHOLDS:
        kept = probability >= threshold
        table.append(
            {
                "threshold": threshold,
                "kept": round(float(kept.mean()), 4),
                "precision": round(float(right[kept].mean()), 4) if kept.any() else None,
                "recall": round(float(kept[right].mean()), 4) if right.any() else None,
            }
        )
    known = bool(right.any() and (~right).any())
    return {
        "num_verified": len(right),
        "right": round(float(right.mean()), 4),
        "auc": round(separation(probability, right), 4) if known else None,
        "auc_texts": round(separation(text, right), 4) if known else None,
        "thresholds": table,
    }


def read_results(out: str) -> tuple[dict[str, Any], NDArray[Any], NDArray[np.int64], Dataset]:
    """Summary, scores, selection and dataset of a filtering. Raises ConfigError."""
    store = open_store(out)
    try:
        summary: dict[str, Any] = json.loads(store.get(SUMMARY_KEY))
        arrays = [
            np.load(io.BytesIO(store.get(name)), allow_pickle=False)
            for name in ("scores.npy", "selection.npy")
        ]
        address, sha256 = str(summary["data"]), summary["dataset_sha256"]
    except NotFound as error:
        raise ConfigError(
            f"{store.address} holds no finished text filtering ({error}); run textfilter first"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{store.address}: {SUMMARY_KEY} is damaged: {error}") from error
    dataset = open_dataset(address, cache_folder())
    if dataset.sha256 != sha256 or arrays[0].dtype != SCORES:
        raise ConfigError(f"{store.address} is of another version of {address}; run it again")
    return summary, arrays[0], arrays[1], dataset


def report(out: str, page: Path, verified: Path | None, num_pictures: int) -> dict[str, Any]:
    """Writes the page and gives what it says in numbers. Raises ConfigError."""
    summary, scores, selection, dataset = read_results(out)
    known = None
    if verified is not None:
        known = quality(scores, read_verified(verified, dataset.num_samples))
    found = Found(summary, scores, selection, dataset, known, num_pictures)
    write_page(found, page, cache_folder())
    return {
        "schemaVersion": 1,
        "out": open_store(out).address,
        "page": str(page),
        "num_selected": len(selection),
        "expected": found.expected(),
        "verified": known,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.textreport", description="Shows what a text filtering has found."
    )
    parser.add_argument("out", help="the filtering's output")
    parser.add_argument("--page", required=True, help="page to write, ending in .html")
    parser.add_argument("--verified", type=Path, metavar="FILE", help="CSV with id and right")
    parser.add_argument("--pictures", type=int, default=24, help="of each kind to show")
    given = parser.parse_args(arguments)
    if Path(given.page).suffix != ".html":
        parser.error(f"--page is {given.page!r}, but a page must end in .html")
    return given


def main() -> None:
    """Reports and tells; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        told = report(given.out, Path(given.page), given.verified, given.pictures)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
