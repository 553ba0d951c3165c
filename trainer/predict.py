"""What one or several runs see in a few pictures.

    python -m trainer.predict IMAGE... --run RUN [--run RUN ...]

RUN is a run's checkpoint.address. The result is one JSON document on stdout; `launcher predict`
shows it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.config import ConfigError, crops_of
from trainer.data.decode import DamagedImage, decode
from trainer.data.shards import MANIFEST
from trainer.entry import log_to_stderr, one_line_errors
from trainer.infer.crops import crops_for
from trainer.infer.forward import FIRST_BATCH, Forward, Manner
from trainer.infer.predictions import mean_answer
from trainer.infer.views import views_of
from trainer.learn.placement import own_device
from trainer.runs import Source, open_run
from trainer.storage import StorageError, open_store


def predict(
    images: Sequence[str], runs: Sequence[str], crops: str, top: int, which: Any
) -> dict[str, Any]:
    """The document: of each image the likeliest classes, or why it cannot be read."""
    sources = [open_run(address, which) for address in runs]
    counts = {source.num_classes for source in sources}
    if len(counts) > 1:
        told = ", ".join(f"{source.address} {source.num_classes}" for source in sources)
        raise ConfigError(f"the runs are of different classes: {told}; give runs of the same")
    names = class_names(sources[0])
    device = own_device()
    manner = Manner("fp32", "nchw", "off", FIRST_BATCH)  # a few pictures are not worth timing
    networks = [
        (
            Forward(source.network(), source.config.input, manner, device),
            crops_for(crops, source.config.input),
        )
        for source in sources
    ]
    kinds = tuple(dict.fromkeys(kind for _, each in networks for kind in each.views))
    items: list[dict[str, Any]] = []
    for image in images:
        try:
            picture = decode(Path(image).read_bytes())
        except (OSError, DamagedImage) as error:
            reason = (
                (error.strerror or "unreadable").lower() if isinstance(error, OSError) else error
            )
            items.append({"image": image, "error": str(reason), "classes": []})
            continue
        views = {kind: each[None] for kind, each in views_of(picture, kinds).items()}
        answers = [mean_answer(*asked, views, "probabilities")[0] for asked in networks]
        found = torch.stack(answers).mean(0)
        best = found.topk(min(top, len(found)))
        classes = [
            {"label": label, "name": names[label], "probability": round(p, 6)}
            for p, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        items.append({"image": image, "error": "", "classes": classes})
    return {"schemaVersion": 1, "runs": list(runs), "crops": crops, "items": items}


def class_names(source: Source) -> list[str]:
    """Of each class its synset line, or its number where the run's data cannot be read."""
    try:
        manifest = json.loads(open_store(source.config.data.train, attempts=1).get(MANIFEST))
        names = [str(name) for name in manifest["classes"]]
    except (StorageError, ValueError, KeyError, TypeError):
        names = []
    return [*names, *(f"class {i}" for i in range(len(names), source.num_classes))]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.predict", description="What runs see in a few pictures."
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="a picture's file")
    add("--run", action="append", required=True, dest="runs", help="a run's checkpoint.address")
    add("--crops", default="10", help="crop set, as 1, 10, 144 or 10@320")
    add("--top", type=int, default=5, help="classes to tell")
    add("--which", choices=["best", "newest"], default="best")
    return parser.parse_args(arguments)


def main() -> None:
    """Predicts and tells; exit status 2 is for what starting again cannot cure."""
    log_to_stderr()
    given = parse(sys.argv[1:])
    with one_line_errors():
        crops_of(given.crops)
        found = predict(given.images, given.runs, given.crops, given.top, given.which)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
