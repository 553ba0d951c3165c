"""What a recipe or a job file says, with the overrides of the command line: job, run, patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from launcher.errors import UsageError
from launcher.request import IndexedRequest, Request, Tuned, Work
from launcher.spec import JobConfig, Patch, read_patches
from trainer.config import FinetuneConfig, TrainConfig, dump, parse, section


@dataclass(frozen=True)
class JobFile:
    """What is asked for, before flags of their own and settings have been looked at."""

    job: JobConfig
    run: TrainConfig
    source: str
    """The file's name, for errors."""
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class _JobPart:
    """So that a job's keys are called job.KEY in files, overrides and errors."""

    job: JobConfig = section(JobConfig, "how large, where, with which resources")


def recipes() -> list[str]:
    """Names of the packaged recipes."""
    folder = resources.files("launcher").joinpath("jobs")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_of(network: str) -> str:
    """The packaged recipe that trains a network of timm's name. Raises UsageError."""
    for name in recipes():
        if _model_name(_tree(*_recipe_text(name))) == network:
            return name
    raise UsageError(
        f"no packaged recipe trains {network!r}, so none says how large its job is; give --model "
        "the path of a YAML with a part job"
    )


def read_job_file(request: Request) -> JobFile:
    """The packaged recipe or the file that `--model` means, with the overrides applied.

    Its run is a fine-tuning's where it has a start. Raises UsageError or ConfigError, one line with
    file and key.
    """
    import yaml

    text, source = _recipe_text(request.model)
    tree = _tree(text, source)
    for_job, for_run = _parted(request.overrides)
    job = yaml.safe_dump({"job": _worded(tree.get("job") or {})})
    if request.tuned is not None:
        run = _tuned_run(request.tuned, tree, source, for_run)
    else:
        run = _run(tree.get("run") or {}, source, for_run)
    return JobFile(
        parse(_JobPart, job, for_job, source=source, complete=False).job,
        run,
        source,
        _patches(request, tree.get("patches"), source),
    )


def read_work(request: IndexedRequest, work: Work) -> tuple[JobConfig, Any, tuple[Patch, ...]]:
    """Job, configuration and patches of a job of independent parts, with the overrides applied: it
    has no file. Raises UsageError or ConfigError, one line."""
    for_job, for_config = _parted(request.overrides)
    job = parse(_JobPart, "", for_job, source="the defaults", complete=False).job
    config = parse(
        type(work.config), dump(work.config), for_config, source=work.stage, complete=False
    )
    return job, config, read_patches(request.patches, Path())


def _parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the job, and those of what it runs. Raises UsageError for one of its name."""
    for_job = [_whole(override) for override in overrides if override.startswith("job.")]
    for_run = [override for override in overrides if not override.startswith("job.")]
    for override in for_run:
        if override.partition("=")[0] == "name":
            raise UsageError(f"override {override!r}: a run is called as its job; give --name")
    return for_job, for_run


def _tree(text: str, source: str) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{source} is not valid YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}"
        ) from error
    if not isinstance(tree, dict) or set(tree) - {"job", "run", "patches"}:
        raise UsageError(
            f"{source} must hold the keys job and run (or one of them) and patches, nothing else"
        )
    return tree


def _run(tree: Any, source: str, overrides: list[str]) -> TrainConfig:
    """The run of a job file: a fine-tuning where the file or an override says what it begins from.

    Raises UsageError where it does not say which run that is.
    """
    import yaml

    is_tuned = (isinstance(tree, dict) and "start" in tree) or any(
        override.startswith("start.") for override in overrides
    )
    kind = FinetuneConfig if is_tuned else TrainConfig
    run = parse(kind, yaml.safe_dump(tree), overrides, source=f"run of {source}", complete=False)
    if isinstance(run, FinetuneConfig) and not run.start.address:
        raise UsageError(
            f"start.address in run of {source} is empty; give the checkpoint.address of the run to "
            "begin from, or leave start out"
        )
    return run


def _tuned_run(
    tuned: Tuned, tree: dict[str, Any], source: str, overrides: list[str]
) -> TrainConfig:
    """The run in place of the file's. Raises UsageError where another network is asked for."""
    run = parse(FinetuneConfig, tuned.run, overrides, source=tuned.source, complete=False)
    if run.model.network != tuned.network:
        raise UsageError(
            f"the overrides of model.* ask for {run.model.network}, but {tuned.source} is of "
            f"{tuned.network}, whose weights fit no other; leave them out"
        )
    named = _model_name(tree)
    if named and named != run.model.name:
        raise UsageError(
            f"{source} is of the network {named}, but {tuned.source} is of {tuned.network}; give "
            "--model a recipe of that network, or leave it out"
        )
    return run


def _model_name(tree: dict[str, Any]) -> str:
    """The network that a job file names; empty where it names none."""
    found: Any = tree
    for key in ("run", "model", "name"):
        found = found.get(key) if isinstance(found, dict) else None
    return str(found or "")


_MAPPINGS = ("env", "node_selector", "pod_annotations", "pod_labels")
"""Keys of the job that hold names and texts."""


def _whole(override: str) -> str:
    """`job.env.A=b` as `job.env={"A": "b"}`: such names have dots, and the values are texts."""
    for key in _MAPPINGS:
        name, separator, value = override.removeprefix(f"job.{key}.").partition("=")
        if override.startswith(f"job.{key}.") and separator and name:
            return f"job.{key}={json.dumps({name: value})}"
    return override


def _worded(job: Any) -> Any:
    """Truth values among texts as YAML has them: Python would say True."""
    if not isinstance(job, dict):
        return job
    made = dict(job)
    for key in _MAPPINGS:
        if isinstance(made.get(key), dict):
            made[key] = {
                name: str(value).lower() if isinstance(value, bool) else value
                for name, value in made[key].items()
            }
    return made


def _patches(request: Request, of_file: Any, source: str) -> tuple[Patch, ...]:
    """Those of the job file, whose paths are relative to it, then those of the command line."""
    if of_file is not None and not (
        isinstance(of_file, list) and all(isinstance(path, str) for path in of_file)
    ):
        raise UsageError(f"patches in {source} is {of_file!r}; give a list of paths")
    beside = Path(request.model).parent
    return (*read_patches(of_file or (), beside), *read_patches(request.patches, Path()))


def _recipe_text(model: str) -> tuple[str, str]:
    """Text and name of the file that `--model` means: a packaged recipe, or the path of a YAML."""
    if model.endswith((".yaml", ".yml")) or "/" in model:
        try:
            return Path(model).read_text(encoding="utf-8"), model
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(
                f"cannot read the job file {model}: {reason}; give --model a path or one of "
                f"{', '.join(recipes())}"
            ) from error
    if model not in recipes():
        import difflib

        near = difflib.get_close_matches(model, recipes(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"--model {model!r} is no packaged recipe; {hint}known are {', '.join(recipes())}, "
            "or give the path of a YAML file"
        )
    recipe = resources.files("launcher").joinpath("jobs", f"{model}.yaml")
    return recipe.read_text(encoding="utf-8"), f"{model}.yaml"
