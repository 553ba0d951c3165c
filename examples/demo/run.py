"""The demo: trains on noisy pictures with two workers, kills one half-way, checks the outcome;
then judges the labels by their texts, trains two networks with that, and asks both together.

    make demo
    python -m examples.demo.run [--out build/demo] [--name NAME]

Uses only what a user has: `python -m trainer.pack`, the verbs of `launcher`, the files of the run.
Exits with 1 when a line of its table is not as promised. Takes minutes on two cores, no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from examples.demo.audit import Lines, final_ids, read_lines
from examples.demo.data import make
from examples.demo.result import Result, judge, judge_gain, judge_together, sparkline, table

JOB = Path(__file__).with_name("job.yaml")
CLASSES = Path(__file__).with_name("classes.yaml")
VICTIM = 1
"""The worker that is killed."""
KILL_AT = 0.52
"""Share of the run that is done then: a little more than the checkpoint at one half holds."""
DEADLINE = "15m"
"""The run is cancelled after this long: something is wrong, or the machine very busy."""
TELL_EVERY_S = 5.0
SECOND = ("seed=1", "loss.name=sce")
"""How the second network differs from the first."""


class DemoError(Exception):
    """A step failed: one line."""


@dataclass(frozen=True)
class Run:
    """The submitted run, and where it leaves its files."""

    name: str
    out: Path

    @property
    def folder(self) -> Path:
        """Checkpoints and metrics.jsonl."""
        return self.out / "runs" / self.name

    @property
    def address(self) -> str:
        """The same as the launcher tells it."""
        return self.folder.absolute().as_uri()

    @property
    def texts(self) -> Run:
        """The text filtering of its data."""
        return Run(f"{self.name}-texts", self.out)

    @property
    def weighted(self) -> Run:
        """The same run, in which each picture counts as its texts bid."""
        return Run(f"{self.name}-weighted", self.out)

    @property
    def second(self) -> Run:
        """Another network with another loss, in which pictures count likewise."""
        return Run(f"{self.name}-second", self.out)

    @property
    def answers(self) -> Run:
        """What both say together."""
        return Run(f"{self.name}-answers", self.out)

    @property
    def every(self) -> tuple[Run, ...]:
        """All of the demo's."""
        return self, self.texts, self.weighted, self.second, self.answers

    @property
    def audit(self) -> Path:
        """Where the ranks record which samples each update had."""
        return self.out / "audit" / self.name

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(launcher("status", self.name, "-o", "json"))
        return status

    def metrics(self) -> Lines:
        path = self.folder / "metrics.jsonl"
        return read_lines(path) if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.run")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="made anew each time")
    parser.add_argument("--name", default="", help="of the run; default: demo, or demo-2, ...")
    options = parser.parse_args()
    try:
        return demo(Run(options.name or free_name(options.out), options.out))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
    return 1


def demo(run: Run) -> int:
    """All of it, in order; the exit status."""
    began_s = time.monotonic()
    for each in run.every:
        forget(each)
    say("1. Raw data: handwritten digits as noisy web pictures, two labels in five wrong")
    shutil.rmtree(run.out, ignore_errors=True)
    make(run.out / "raw")
    say("2. Shards of them; damaged and missing files are left out, and named in a report")
    for split in ("train", "val"):
        raw, packed = str(run.out / "raw"), str(run.out / split)
        print(python("-m", "trainer.pack", raw, packed, "--split", split, show=True), end="")
    say("3. Two workers on this machine; half-way one is killed")
    with submitted(run):
        killed_at = follow(run)
    say("4. What texts say of the labels, by an encoder that knows letters alone (no download)")
    separation = judge_texts(run)
    say("5. The same run, each picture counting as much as its label is probable")
    with submitted(run.weighted, f"data.weights={run.texts.folder}/weights.npy"):
        follow(run.weighted, kills=False)
    say("6. Another network with another loss, and both asked together")
    with submitted(run.second, f"data.weights={run.texts.folder}/weights.npy", *SECOND):
        follow(run.second, kills=False)
    together = ask(run)
    say("7. What came out")
    picture = run.out / "curve.png"
    launcher("plot", run.name, "--out", str(picture), show=True)
    result = collect(run, killed_at)
    rows = [
        *judge(result),
        *judge_gain(result.top1, last_top1(run.weighted), separation),
        judge_together(together),
    ]
    print(f"\n{table(rows)}")
    print(f"top-1 by epoch       {sparkline(result.top1)}")
    print(f"learning curve       {picture}")
    print(f"the whole demo       {time.monotonic() - began_s:.0f} s")
    return 0 if all(row.kept for row in rows) else 1


def free_name(out: Path) -> str:
    """The first name of which no run is kept elsewhere, as by a demo of another folder."""
    kept = known_jobs()
    for number in range(1, 100):
        run = Run(f"demo-{number}" if number > 1 else "demo", out)
        if all(kept.get(each.name, each.address) == each.address for each in run.every):
            return run.name
    raise DemoError("demo to demo-99 are all taken by other folders; choose a name with --name")


def known_jobs() -> dict[str, str]:
    """Where each job of this machine is kept, by its name."""
    items = json.loads(launcher("list", "-o", "json"))["items"]
    return {job["name"]: job["checkpoints"] for job in items}


def forget(run: Run) -> None:
    """Deletes what an earlier demo has left of the run; refuses a run that is not the demo's."""
    kept = known_jobs().get(run.name)
    if kept is None:
        return
    if kept != run.address:
        raise DemoError(
            f"a run named {run.name!r} exists that is not this demo's (it is kept in {kept});"
            " choose another name with --name"
        )
    launcher("delete", run.name, "--yes", "--force")


def judge_texts(run: Run) -> float:
    """Judges the labels by their texts, as a job; how often a right one is above a wrong one."""
    verified = run.out / "verified.csv"
    verified.write_text("\n".join(["id,right", *truths(run.out)]) + "\n", encoding="utf-8")
    classes = os.path.relpath(CLASSES)
    places = f"--data {run.out}/train --checkpoints {run.out}/runs --name {run.texts.name}"
    command = f"textfilter run --local --model ngrams {places} --wait --timeout {DEADLINE}"
    launcher(*shlex.split(f"{command} classes.file={classes} text.digits=true"), show=True)
    command = f"textfilter report {run.texts.name} --out {run.out}/texts.html"
    answer = launcher(*shlex.split(f"{command} --verified {verified} -o json"), show=True)
    separation: float = json.loads(answer)["verified"]["auc"]
    return separation


def ask(run: Run) -> dict[str, Any]:
    """Asks both networks about the validation pictures, as a job, and combines their answers."""
    asked = f"--run {run.weighted.name} --run {run.second.name} --data {run.out}/val --crops 1"
    places = f"--checkpoints {run.out}/runs --name {run.answers.name}"
    command = f"ensemble run --local {asked} {places} --wait --timeout {DEADLINE}"
    launcher(*shlex.split(f"{command} precision=fp32 layout=nhwc batch=50"), show=True)
    command = f"ensemble combine {run.answers.name} --objective top1 -o json"
    found: dict[str, Any] = json.loads(launcher(*shlex.split(command), show=True))
    return found


def truths(out: Path) -> Iterator[str]:
    """`id,1` for each packed picture that shows what its label says, else `id,0`: to measure with,
    never to train on."""
    shown = json.loads((out / "raw/truth.json").read_text())["train"]
    manifest = json.loads((out / "train/manifest.json").read_text())
    labels = np.load(out / "train" / manifest["index"]["key"])["label"]
    for shard in manifest["shards"]:
        texts = (out / "train" / shard["texts"]["key"]).read_text(encoding="utf-8").splitlines()
        for line in map(json.loads, texts):
            yield f"{line['id']},{int(shown[line['name']] == labels[line['id']])}"


def last_top1(run: Run) -> float:
    """Validation top-1 at the run's end."""
    return float([line for line in run.metrics() if line["event"] == "evaluate"][-1]["top1"])


@contextmanager
def submitted(run: Run, *overrides: str) -> Iterator[None]:
    """Submits the run; it is cancelled if it still goes on at the end."""
    job = os.path.relpath(JOB)
    flags = f"--local --workers 2 --name {run.name}"
    places = f"--data {run.out}/train --val {run.out}/val --checkpoints {run.out}/runs"
    command = f"submit --model {job} {flags} {places} log.audit_dir={run.audit}"
    launcher(*shlex.split(command), *overrides, show=True)
    try:
        yield
    finally:
        if run.status()["ended_at"] is None:
            launcher("cancel", run.name, "--yes", "--grace", "10s")


def follow(run: Run, kills: bool = True) -> float:
    """Tells how the run goes, kills a worker half-way where that is wanted, returns at the end.

    Returns the moment of the kill, in Unix seconds; 0 without one.
    """
    teller = Teller()
    killed_at = 0.0
    waiting = subprocess.Popen(
        [sys.executable, "-m", "launcher", "wait", run.name, "--timeout", DEADLINE],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while waiting.poll() is None:
            time.sleep(0.2)
            metrics = run.metrics()
            teller.tell(metrics)
            due = kills and not killed_at and metrics
            if due and metrics[-1]["seen"] >= KILL_AT * metrics[0]["goal"]:
                killed_at = kill(run)
    finally:
        waiting.terminate()
        _, told = waiting.communicate()
    teller.tell(run.metrics())
    if waiting.returncode:
        raise DemoError(f"{told.strip().splitlines()[-1]} (launcher logs {run.name})")
    if kills and not killed_at:
        raise DemoError(f"{run.name} ended before a worker could be killed")
    return killed_at


def kill(run: Run) -> float:
    """Kills a worker as a lost machine would; the moment, in Unix seconds."""
    pid = run.status()["workers"][VICTIM]["pid"]
    killed_at = time.time()
    os.killpg(pid, signal.SIGKILL)
    print(f"   kill -9 of worker-{VICTIM} (process group {pid})", flush=True)
    return killed_at


@dataclass
class Teller:
    """Prints the lines of metrics.jsonl as they come: each evaluation, now and then training."""

    num_told: int = 0
    told_at_s: float = field(default=0.0)

    def tell(self, metrics: Lines) -> None:
        """Prints what is new."""
        for line in metrics[self.num_told :]:
            place = f"   seen {line['seen']:>6,}/{metrics[0]['goal']:,}  epoch {line['epoch']:.1f}"
            if line["event"] == "start":
                print(f"{place}  {line['world']} workers go on from update {line['parent_update']}")
            elif line["event"] == "evaluate":
                print(f"{place}  validation top-1 {line['top1']:.3f}", flush=True)
            elif line["event"] == "train" and time.monotonic() - self.told_at_s >= TELL_EVERY_S:
                self.told_at_s = time.monotonic()
                rate = f"{line['samples_per_s']:,.0f} samples/s"
                print(f"{place}  loss {line['loss']:.3f}  {rate}", flush=True)
        self.num_told = len(metrics)


def collect(run: Run, killed_at: float) -> Result:
    """What the run has left."""
    metrics = run.metrics()
    num_samples = json.loads((run.out / "train/manifest.json").read_text())["num_samples"]
    return Result(
        learnt=final_ids(metrics, run.audit),
        num_samples=num_samples,
        epochs=metrics[0]["goal"] // num_samples,
        status=run.status(),
        metrics=metrics,
        killed_at=killed_at,
    )


def launcher(*arguments: str, show: bool = False) -> str:
    """Runs a launcher command; what it printed."""
    return python("-m", "launcher", *arguments, show=show)


def python(*arguments: str, show: bool = False) -> str:
    """Runs a module with this Python, with `show` telling the command; what it printed."""
    if show:
        words = arguments[1:] if arguments[1] == "launcher" else ("python", *arguments)
        print(f"   $ {shlex.join(words)}", flush=True)
    # On the CPU wherever it runs: a machine with one GPU has none for the second worker.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DemoError(f"{shlex.join(arguments)} failed with {ended.returncode}: {reason}")
    return ended.stdout


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
