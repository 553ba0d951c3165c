"""A program of independent parts for tests: each index writes a line of its own into a folder.

    python -m tests.parts

`trouble` says what goes wrong, and where. Asked to leave it does so at once with the status that
says so: a container's first process would not hear SIGTERM otherwise, and an exception could get
lost in a callback of an import.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Literal

from launcher.request import Work
from trainer.config import RUN_INDEX, RUN_INDEXES, load, setting
from trainer.exits import leave_on_sigterm
from trainer.storage import open_store

USAGE = 2


@dataclass(frozen=True)
class PartsConfig:
    """What each index is told."""

    output: str = setting("", "folder of the parts", "the job's own", required=True)
    trouble: Literal["none", "once", "always", "wrong", "wait"] = setting(
        "none", "what goes wrong, or that a part waits for the file `go`", "as a rule nothing"
    )
    troubled: tuple[int, ...] = setting((), "indexes to which it happens", "the others are well")


def main() -> int:
    leave_on_sigterm()
    cfg = load(PartsConfig)
    index, indexes = int(os.environ[RUN_INDEX]), int(os.environ[RUN_INDEXES])
    store = open_store(cfg.output)
    tries = f"try-{index}-{len(store.list(f'try-{index}-'))}"
    store.put(tries, str(time.time()).encode())
    print(f"index {index} of {indexes}, {tries}", flush=True)
    if index in cfg.troubled:
        if cfg.trouble == "wrong":
            print("error: part size (-1) is below 1", file=sys.stderr)
            return USAGE
        if cfg.trouble == "always" or (cfg.trouble == "once" and tries.endswith("-0")):
            raise RuntimeError(f"index {index} stumbles")
        while cfg.trouble == "wait" and not store.list("go"):
            time.sleep(0.05)
    store.put(f"part-{index}", f"{index} of {indexes}\n".encode())
    return 0


def work(indexes: int = 4, trouble: str = "none", troubled: tuple[int, ...] = ()) -> Work:
    """What a verb would make of it."""
    config = PartsConfig(trouble=trouble, troubled=troubled)  # type: ignore[arg-type]
    return Work("tests.parts", config, indexes, stage="parts", parallelism=2)


if __name__ == "__main__":
    sys.exit(main())
