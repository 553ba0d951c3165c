"""Ensembles for tests: pictures whose hue tells the class, two small runs, what they answer."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.integration.test_finetune import finished, start
from tests.integration.test_textfilter import Ended
from tests.raws import Sample, Tree
from trainer import pack
from trainer.storage import open_store

LIMIT_S = 200.0
CLASSES = 6
COUNT = 120
"""Pictures of each set."""
PART = 10
"""Pictures of a part: twelve parts."""
HUES = np.array(
    [(200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60), (190, 60, 190), (60, 190, 190)]
)
SYNSETS = tuple(f"n{number:08d} colour {number}" for number in range(CLASSES))
MANNER = ("precision=fp32", "layout=nhwc", "compile=off", "batch=16")
"""Timing could choose otherwise in another output."""
DAMAGED, MISSING = 5, 17
"""Of the test list, from 0."""


def coloured(number: int, label: int) -> bytes:
    """A JPEG whose hue tells its class, below much noise; tall and broad ones in turn."""
    shape = (40, 56, 3) if number % 2 else (56, 40, 3)
    noise = np.random.default_rng(number).normal(0, 60, shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(HUES[label] + noise, 0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


class House:
    """Packed data and two runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        members = [self._sample(number) for number in range(COUNT)]
        val = [(n % CLASSES, coloured(1000 + n, n % CLASSES)) for n in range(COUNT)]
        test: list[bytes | None] = [coloured(2000 + n, n % CLASSES) for n in range(COUNT)]
        test[DAMAGED], test[MISSING] = b"<html>", None
        self.raw = Tree(folder / "raw", synsets=SYNSETS).write(members, val, test).root
        for split in ("train", "val", "test"):
            given = [str(self.raw), str(folder / split), "--split", split, "--processes", "0"]
            assert pack.main(given) == 0
        self.runs = [self._train("first", 0), self._train("second", 1)]

    def _sample(self, number: int) -> Sample:
        label, source = number % CLASSES, ("google", "flickr")[number // CLASSES % 2]
        data = coloured(number, label)
        return Sample(f"i{number:04d}", source=source, query=label + 1, label=label, data=data)

    def _train(self, name: str, seed: int) -> Path:
        run, data = self.folder / name, self.folder / "train"
        options = ["epochs=6", f"seed={seed}", f"name={name}", "input.size_px=24"]
        options += [f"data.val={self.folder}/val", "evaluate.every_epochs=6"]
        return finished(start("trainer.train", run, data, options), run).folder

    def upload(self, place: str) -> None:
        """Copies the runs and the validation pictures to an address, under their names."""
        for folder in (*self.runs, self.folder / "val"):
            store = open_store(f"{place}/{folder.name}")
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                store.put(str(path.relative_to(folder)), path.read_bytes())

    def options(self, out: str, runs: Sequence[Path | str] = (), data: str = "") -> list[str]:
        named = ",".join(map(str, runs or self.runs))
        return [
            f"data={data or self.folder / 'val'}", f"output={out}", f"runs=[{named}]",
            "crops=['1','10']", f"part_samples={PART}", "loader_processes=0",
            f"cache_dir={self.folder}/cache", *MANNER,
        ]  # fmt: skip

    def run(
        self,
        out: Path | str,
        *more: str,
        runs: Sequence[Path | str] = (),
        data: str = "",
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Ended:
        command = [*before, sys.executable, "-m", "trainer.ensemble"]
        told = {"RUN_CONFIG": "name: ensemble\n", "OMP_NUM_THREADS": "1"} | dict(environment or {})
        done = subprocess.run(
            [*command, *self.options(str(out), runs, data), *more],
            env=os.environ | told,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, out: Path | str, *more: str, **options: Any) -> Ended:
        ended = self.run(out, *more, **options)
        assert ended.status == 0, ended.said
        return ended


def answers(out: Path) -> dict[str, bytes]:
    """What was predicted: by its place, where it does not name the output itself."""
    found = sorted((out / "members").rglob("*.npy"))
    return {str(path.relative_to(out)): path.read_bytes() for path in found}
