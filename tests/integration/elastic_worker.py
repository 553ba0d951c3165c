"""A rank that does as it is told: notes its start in FOLDER/starts.jsonl, then obeys WORD.

    python -m trainer.agent elastic_worker.py FOLDER WORD

WORD: `wait` (until FOLDER/finish is there), `deaf` (as well, and ignores SIGTERM), `polite` (as
well, and leaves with 143 on SIGTERM), or an exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, word = Path(sys.argv[1]), sys.argv[2]
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
         "MASTER_PORT", "OMP_NUM_THREADS")  # fmt: skip
if word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if word == "polite":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
with (folder / "starts.jsonl").open("a") as file:
    facts = {name: os.environ.get(name) for name in NAMES}
    file.write(json.dumps({"pid": os.getpid(), "at": time.time(), **facts}) + "\n")
if word.isdigit():
    sys.exit(int(word))
while not (folder / "finish").exists():
    time.sleep(0.02)
