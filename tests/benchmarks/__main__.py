"""Runs one benchmark: `make bench NAME=checkpoint`. Without a name, lists what there is.

A benchmark is a module bench_NAME.py here with a function `measure`, which gives rows. The table is
printed, and the rows are written to build/bench/NAME.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.table import Row, machine, render
from tests.ending import end_on_sigterm

HERE = Path(__file__).parent
OUT = Path("build/bench")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench NAME=", description=__doc__)
    parser.add_argument("name", nargs="?", help="what to measure")
    name = parser.parse_args().name
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if name is None:
        for each in known:
            doc = importlib.import_module(f"tests.benchmarks.bench_{each}").__doc__ or ""
            print(f"make bench NAME={each:<12} {doc.strip().splitlines()[0]}")
        return 0
    if name not in known:
        print(f"no benchmark {name!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    end_on_sigterm()
    rows: list[Row] = importlib.import_module(f"tests.benchmarks.bench_{name}").measure()
    print(f"\n{machine()}\n\n{render(rows)}")
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps([row.described() for row in rows], indent=1) + "\n")
    print(f"\nwrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
