"""A trainer of a few lines for the local backend's tests: steps in a group, resumed from a file.

    python -m trainer.agent local_worker.py FOLDER

Rank 0 keeps the number of steps done in FOLDER/step; each process notes its start and its world in
FOLDER/lives.jsonl. The run is done when somebody makes FOLDER/finish.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

STEP_S = 0.05


def note(folder: Path, **facts: object) -> None:
    with (folder / "lives.jsonl").open("a") as file:
        file.write(json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n")


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    step_file = folder / "step"
    step = torch.tensor([int(step_file.read_text()) if step_file.exists() else 0])
    dist.broadcast(step, 0)
    agent = multiprocessing.parent_process()
    assert agent is not None
    note(folder, agent=agent.pid, rank=rank, world=world, step=int(step))
    print(f"rank {rank} of {world} goes on at step {int(step)}", flush=True)
    finish = torch.zeros(1)
    while not finish:
        time.sleep(STEP_S)
        finish[0] = rank == 0 and (folder / "finish").exists()
        dist.all_reduce(finish)
        step += 1
        if rank == 0:
            private = step_file.with_suffix(".new")
            private.write_text(str(int(step)))
            private.replace(step_file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
