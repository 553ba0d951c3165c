"""What an experiment's ensembles come to: tables in Markdown, over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

from tools.experiments.ensembles import Document
from tools.experiments.report import over_seeds, rows_of


def tables(documents: Sequence[Document], combined: str, objective: str) -> list[str]:
    """Singles over each crop set, what each adds, and every way to combine."""
    if not documents:
        return []
    seeds = len(documents)
    return [
        "## The ensemble",
        "",
        f"All methods' networks of one seed, over {seeds} {'seed' if seeds == 1 else 'seeds'}:"
        " each alone over each crop set, and what the mean of all gains by it"
        f" ({objective}, over {combined} crops).",
        "",
        *_singles(documents, objective.replace("-", "_")),
        "",
        f"Ways to combine them over {combined} crops, each scored on pictures that it was not"
        " fitted on. The gain is to the best network alone.",
        "",
        *_ways(documents, objective.replace("-", "_")),
        "",
    ]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    return rows_of([head, ["---"] * len(head), *rest])


def _singles(documents: Sequence[Document], key: str) -> list[str]:
    crops = list(dict.fromkeys(each["crops"] for each in documents[0]["singles"]))
    members = list(dict.fromkeys(each["member"] for each in documents[0]["singles"]))
    head = [
        "network",
        *(f"{name} crops (%)" for name in crops),
        "ECE (%)",
        "calibrated (%)",
        "adds",
    ]
    rows = [head]
    for member in members:
        scores = [
            over_seeds(
                [
                    each["scores"][key]
                    for document in documents
                    for each in document["singles"]
                    if (each["member"], each["crops"]) == (member, name)
                ]
            ).told()
            for name in crops
        ]
        own = [e for document in documents for e in document["members"] if e["member"] == member]
        errors = [over_seeds([e[name] for e in own]).told() for name in ("ece_before", "ece_after")]
        adds = over_seeds([e["adds"]["value"] for e in own]).told(signed=True)
        rows.append([member, *scores, *errors, adds])
    return _lines(rows)


def _ways(documents: Sequence[Document], key: str) -> list[str]:
    rows = [["way", "top-1 (%)", "top-5 (%)", "gain", "advised"]]
    for number, each in enumerate(documents[0]["methods"]):
        found = [document["methods"][number] for document in documents]
        best = [_best_single(document, key) for document in documents]
        gains = [one["scores"][key] - alone for one, alone in zip(found, best, strict=True)]
        advised = sum(document["advised"] == each["method"] for document in documents)
        rows.append(
            [
                each["method"],
                *(
                    over_seeds([one["scores"][name] for one in found]).told()
                    for name in ("top1", "top5")
                ),
                over_seeds(gains).told(signed=True),
                f"{advised} of {len(documents)}",
            ]
        )
    return _lines(rows)


def _best_single(document: Document, key: str) -> float:
    """Over the crops that are combined, chosen knowing its score: a hard mark to beat."""
    crops = document["members"][0]["crops"]
    return max(float(e["scores"][key]) for e in document["singles"] if e["crops"] == crops)
