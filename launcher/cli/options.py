"""Options that several verbs share."""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable
from typing import Annotated, Any

import typer

from launcher.cli.manners import Output


def with_options(
    command: Callable[..., None],
    parameter: str,
    options: Callable[..., None],
    make: Callable[[dict[str, Any]], Any],
    *,
    is_first: bool = False,
    without: tuple[str, ...] = (),
) -> Callable[..., None]:
    """The command as Typer sees it: in place of one parameter, the parameters of `options`.

    make: that parameter's value of what was given. is_first: help lists them before the rest.
    without: names of those that the command has in its own way.
    """
    every = inspect.signature(options, eval_str=True).parameters
    asked = {name: entry for name, entry in every.items() if name not in without}
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own[parameter]

    @functools.wraps(command)
    def parsed(**given: Any) -> None:
        said = {key: given.pop(key) for key in asked}
        command(**given, **{parameter: make(said)})

    listed = (*asked.values(), *own.values()) if is_first else (*own.values(), *asked.values())
    parameters = [entry.replace(kind=inspect.Parameter.KEYWORD_ONLY) for entry in listed]
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return parsed


def job_names(incomplete: str) -> list[str]:
    """Names of known jobs for the shell's completion: within 150 ms, or none."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        from launcher import cluster, local, names

        known = {job.name for job in local.list_jobs()}
        if cluster.is_configured():
            known |= set(names.recall(os.environ))
        return sorted(name for name in known if name.startswith(incomplete))
    except Exception:  # completion must never disturb the line that is being typed
        return []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def recipe_names(incomplete: str) -> list[str]:
    """Packaged recipes for the shell's completion."""
    from launcher.resolve import recipes

    return [name for name in recipes() if name.startswith(incomplete)]


def backend_names(incomplete: str) -> list[str]:
    """Kinds of objects for the shell's completion."""
    return [name for name in ("pytorchjob", "trainjob") if name.startswith(incomplete)]


def count(text: str) -> int:
    """A whole number; told with its value, which Typer's own message lacks."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number") from None


JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's name.", autocompletion=job_names)
]
OutputFormat = Annotated[
    Output, typer.Option("-o", "--output", help="json, yaml and name are stable; table may change.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    str, typer.Option(metavar="SPAN", help="Longest wait, as 90s, 30m, 2h; empty: no end.")
]

Model = Annotated[
    str,
    typer.Option(
        "--model", help="A packaged recipe, or the path of a YAML.", autocompletion=recipe_names
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the run, or of the job as job.KEY."),
]


def number(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, parser=count, metavar="N")


def number_within(least: int, most: int, help: str, metavar: str = "N") -> Any:
    """A number whose bounds are told with its value, which Typer's own message lacks."""

    def within(text: str) -> int:
        found = count(text)
        if not least <= found <= most:
            raise typer.BadParameter(f"{text} is outside of what is allowed, {least} to {most}")
        return found

    return typer.Option(help=help, parser=within, metavar=metavar)


Gpus = Annotated[int | None, number("GPUs wanted; default: the recipe's.")]
GpusPerWorker = Annotated[
    int | None, number("GPUs of one worker; with --local: processes of one worker.")
]
MinGpus = Annotated[int | None, number("Fewest GPUs to run with; default: half.")]
MaxGpus = Annotated[int | None, number("Most GPUs to grow to; default: --gpus.")]
Local = Annotated[bool, typer.Option("--local", help="Run on this machine, without a cluster.")]
LocalWorkers = Annotated[int | None, number("Local workers; default: 2.", "--workers")]
MinWorkers = Annotated[int | None, number("Fewest local workers; default: half.")]
MaxWorkers = Annotated[int | None, number("Most local workers; default: --workers.")]
Name = Annotated[str, typer.Option(help="The job's name; default: MODEL-HASH, same for the same.")]
Image = Annotated[str, typer.Option(help="Container image of the trainer.")]
Data = Annotated[str, typer.Option(help="Address of the packed training set.")]
Val = Annotated[str, typer.Option(help="Address of the packed validation set.")]
Checkpoints = Annotated[str, typer.Option(help="Folder; the run's is <checkpoints>/<name>.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the cluster.")]
Budget = Annotated[str, typer.Option(help="Budget that is charged.")]
Deadline = Annotated[
    str,
    typer.Option(
        metavar="SPAN",
        help="Longest running time, as 8d or 12h; then the job is ended. Safe budgets want it.",
    ),
]
Stage = Annotated[str, typer.Option(help="Stage of the pipeline, for accounting.")]
Queue = Annotated[str, typer.Option(help="Kueue's LocalQueue.")]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="KIND",
        help="pytorchjob (elastic) or trainjob (fixed size); default: the job file's.",
        autocompletion=backend_names,
    ),
]
PatchFiles = Annotated[
    list[str] | None,
    typer.Option("--patch", metavar="FILE", help="Change the objects last, as kubectl patch does."),
]

PartOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of its program, or of the job as job.KEY."),
]
Indexes = Annotated[int | None, number("Parts that the work is cut into.")]
Parallelism = Annotated[
    int | None, number("Pods at once, each with a part; with --local: processes.")
]
PodGpus = Annotated[int | None, number("GPUs of each pod; 0: it computes on the CPU.", "--gpus")]
PodCpus = Annotated[int | None, number("CPU cores asked for by each pod.", "--cpus")]
PodMemory = Annotated[int | None, number("Memory of each pod, in GiB.", "--memory-gib")]
PartName = Annotated[
    str, typer.Option("--name", help="The job's name; default: STAGE-HASH, same for the same.")
]
