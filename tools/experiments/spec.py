"""An experiment's file: what is compared, over which seeds, on which data."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import OBJECTIVES, ConfigError, InputConfig, crops_of

Tree = dict[str, Any]

KEYS = ("what", "data", "seeds", "jobs", "sizes", "base", "methods", "ensemble")
ENSEMBLE_KEYS = ("crops", "combined", "objective")
SIZES_PX = (16, 2048)
"""Least and most, as input.size_px allows."""
ENTRIES = {
    "train": "trainer.train",
    "finetune": "trainer.finetune",
    "textfilter": "trainer.textfilter",
}
"""Modules that a stage may be run by, called as `python -m MODULE RUN.yaml`."""
PREVIOUS = "{previous}"
"""Stands for the address of the run folder of the stage before, in any text of a stage's tree."""
VARIABLE = re.compile(r"\{env:([A-Z_][A-Z0-9_]*)\}")
"""Stands for an environment variable's value, such as where a model's folder is here."""
FILTERS_OWN = ("name", "data", "output")
"""Keys of a text filtering that the experiment sets itself."""
OWN = (
    "name",
    "seed",
    "data.train",
    "data.val",
    "checkpoint.address",
    "log.metrics_port",
    "world.threads",
)
"""Keys of a run that the experiment sets itself."""
MOST_SEED = 2**31
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class SpecError(ValueError):
    """An experiment cannot be run as it is asked for: one line naming file, key and value."""


@dataclass(frozen=True)
class Stage:
    """One run of a method: its entry, and its configuration without what the cell adds."""

    entry: str
    tree: Tree


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def size_px(self) -> int:
        """Side of the input that its last stage trains at, as far as the file says; else 224."""
        side = self.stages[-1].tree.get("input", {}).get("size_px", InputConfig().size_px)
        return int(side)


@dataclass(frozen=True)
class Ensemble:
    """All methods' networks of one seed, asked together."""

    crops: tuple[str, ...]
    """Crop sets that each is asked over."""
    combined: str
    """The one whose answers are combined."""
    objective: str
    """What counts."""


@dataclass(frozen=True)
class Experiment:
    """A table of methods by seeds."""

    name: str
    source: str
    """The file, for messages."""
    what: str
    variable: str
    """Environment variable that names the data set."""
    seeds: tuple[int, ...]
    jobs: int
    """Runs at once."""
    sizes: tuple[int, ...]
    """Sides of the input, in px, at which each run is evaluated at its end; perhaps none."""
    methods: tuple[Method, ...]
    ensemble: Ensemble | None = None


def read(path: Path) -> Experiment:
    """The experiment in a file. Raises SpecError."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SpecError(f"cannot read the experiment {path}: {reason}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" in line {line + 1}"
        problem = getattr(error, "problem", None) or "unreadable"
        raise SpecError(f"{path} is not valid YAML{where}: {problem}") from error
    return parse(content, name=path.stem, source=str(path))


def parse(content: Any, *, name: str, source: str) -> Experiment:
    """The experiment in a parsed file. Raises SpecError."""
    if not NAME.fullmatch(name):
        raise SpecError(
            f"experiment {name!r} must be named by lower-case letters, digits and single hyphens"
        )
    top = _mapping(content, "the experiment", source, KEYS)
    data = _mapping(top.get("data"), "data", source, ("variable",))
    base = _mapping(top.get("base") or {}, "base", source)
    methods = _mapping(top.get("methods"), "methods", source)
    if not methods:
        raise SpecError(f"methods in {source} is empty; name at least one")
    return Experiment(
        name=name,
        source=source,
        what=_sentence(top.get("what"), source),
        variable=_variable(data.get("variable"), source),
        seeds=_seeds(top.get("seeds"), source),
        jobs=_jobs(top.get("jobs", 1), source),
        sizes=_sizes(top.get("sizes", []), source),
        methods=tuple(_method(key, value, base, source) for key, value in methods.items()),
        ensemble=_ensemble(top["ensemble"], source) if "ensemble" in top else None,
    )


def _ensemble(value: Any, source: str) -> Ensemble:
    said = _mapping(value, "ensemble", source, ENSEMBLE_KEYS)
    crops = said.get("crops", ["10"])
    if not isinstance(crops, list) or not crops or not all(isinstance(c, str) for c in crops):
        raise SpecError(
            f'ensemble.crops in {source} is {crops!r}; it must be a list of texts, as ["1", "10"]'
        )
    try:
        for each in crops:
            crops_of(each)
    except ConfigError as error:
        raise SpecError(f"ensemble.crops in {source}: {error}") from error
    combined = str(said.get("combined", crops[-1]))
    objective = said.get("objective", "top1")
    if combined not in crops:
        raise SpecError(f"ensemble.combined in {source} is {combined!r}, none of ensemble.crops")
    if objective not in OBJECTIVES:
        raise SpecError(
            f"ensemble.objective in {source} is {objective!r}; allowed is {' or '.join(OBJECTIVES)}"
        )
    return Ensemble(tuple(crops), combined, objective)


def _mapping(value: Any, key: str, source: str, allowed: tuple[str, ...] = ()) -> Tree:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
        raise SpecError(f"{key} in {source} is {value!r}, but it must hold keys and values")
    for each in value:
        if allowed and each not in allowed:
            raise SpecError(f"{each!r} in {source} is no key of {key}; it has {', '.join(allowed)}")
    return value


def _sentence(value: Any, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"what in {source} is {value!r}; it must be a sentence that tells of it")
    return " ".join(value.split())


def _variable(value: Any, source: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
        raise SpecError(
            f"data.variable in {source} is {value!r}; it must be the name of the environment"
            " variable that will hold the data set's folder, such as MINI_WEBVISION"
        )
    return value


def _seeds(value: Any, source: str) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else []
    whole = all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise SpecError(
            f"seeds in {source} is {value!r}; it must be a list of different whole numbers"
            f" from 0 to {MOST_SEED}, one at least"
        )
    return tuple(seeds)


def _jobs(value: Any, source: str) -> int:
    if type(value) is not int or value < 1:
        raise SpecError(f"jobs in {source} is {value!r}; it must be a whole number above 0")
    return value


def _sizes(value: Any, source: str) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else [None]
    least, most = SIZES_PX
    whole = all(type(size) is int and least <= size <= most for size in sizes)
    if not whole or sorted(set(sizes)) != sizes:
        raise SpecError(
            f"sizes in {source} is {value!r}; it must be a list of whole numbers from {least} to"
            f" {most}, ascending"
        )
    return tuple(sizes)


def _method(name: str, value: Any, base: Tree, source: str) -> Method:
    if not NAME.fullmatch(name):
        raise SpecError(
            f"method {name!r} in {source} must be named by lower-case letters, digits and"
            " single hyphens"
        )
    own = dict(_mapping({} if value is None else value, f"methods.{name}", source))
    steps = own.pop("stages", None)
    entry = own.pop("entry", "train")
    if steps is None:
        steps = [{}]
    if not isinstance(steps, list) or not steps:
        raise SpecError(
            f"methods.{name}.stages in {source} is {steps!r}; it must be a list, one stage at least"
        )
    shared = merged(base, own)
    stages = []
    for number, step in enumerate(steps, 1):
        key = f"methods.{name}.stages[{number}]" if len(steps) > 1 else f"methods.{name}"
        tree = dict(_mapping({} if step is None else step, key, source))
        kind = tree.pop("entry", entry)
        # A text filtering is no training run: nothing of the base is about it.
        stage = Stage(kind, tree if kind == "textfilter" else merged(shared, tree))
        _check_stage(stage, number, key, source)
        stages.append(stage)
    if stages[-1].entry == "textfilter":
        raise SpecError(f"methods.{name} in {source} ends with textfilter, which trains nothing")
    return Method(name, tuple(stages))


def _check_stage(stage: Stage, number: int, key: str, source: str) -> None:
    if stage.entry not in ENTRIES:
        raise SpecError(
            f"entry of {key} in {source} is {stage.entry!r}; allowed is {' or '.join(ENTRIES)}"
        )
    for own in FILTERS_OWN if stage.entry == "textfilter" else OWN:
        if _has(stage.tree, own):
            raise SpecError(f"{own} of {key} in {source} is given, but the experiment sets it")
    named = any(PREVIOUS in text for text in _texts(stage.tree))
    if named and number == 1:
        raise SpecError(
            f"{key} in {source} names {PREVIOUS}, but it is the first stage: none is before it"
        )
    if not named and number > 1:
        raise SpecError(
            f"{key} in {source} does not begin from the stage before: no value names {PREVIOUS}"
        )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """A tree of both, where `above` wins; lists are taken whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def filled(value: Any, previous: str) -> Any:
    """The value with the address in place of {previous}, and variables' values, in each text.

    Raises SpecError for a variable that is not set.
    """
    if isinstance(value, dict):
        return {key: filled(each, previous) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, previous) for each in value]
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(_variables_value, value.replace(PREVIOUS, previous))


def _variables_value(found: re.Match[str]) -> str:
    if found[1] not in os.environ:
        raise SpecError(f"the environment variable {found[1]} is not set, but a stage names it")
    return os.environ[found[1]]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _has(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
