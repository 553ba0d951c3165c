"""Loading a configuration: YAML and overrides into frozen dataclasses; errors are one line."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar

RUN_CONFIG = "RUN_CONFIG"
"""Environment variable that carries the resolved run into a pod, as YAML."""
RUN_INDEX = "JOB_COMPLETION_INDEX"
"""Environment variable that tells a program of independent parts which it is, counted from 0:
Kubernetes sets it."""
RUN_INDEXES = "RUN_INDEXES"
"""And how many there are."""

RUN_KEY = "run.yaml"
"""Under a run's folder: the configuration that it was started with last."""


class ConfigError(ValueError):
    """A configuration is wrong: one line naming file, key, value and what is allowed."""


T = TypeVar("T")


def load(
    kind: type[T],
    path: str | None = None,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> T:
    """Reads a configuration of `kind` and applies overrides like `optim.lr=0.2`.

    Exactly one of the two sources is given: `path`, or RUN_CONFIG in `env`.
    Raises ConfigError, one line, naming the source, the key, the value and what is allowed.
    """
    text = (os.environ if env is None else env).get(RUN_CONFIG)
    if (path is None) == (text is None):
        have = "both" if path is not None else "neither"
        raise ConfigError(
            f"give a run file or the variable {RUN_CONFIG}, exactly one of them; {have} given"
        )
    if path is None:
        return parse(kind, text or "", overrides, source=RUN_CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            content = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"cannot read the run file {path}: {reason}; give the path of a YAML file"
        ) from error
    return parse(kind, content, overrides, source=path)


def parse(
    kind: type[T], text: str, overrides: Sequence[str] = (), *, source: str, complete: bool = True
) -> T:
    """Makes a `kind` of YAML text and dotted overrides; `source` names the text in errors.

    complete=False lets required addresses be empty, as in a recipe yet to be filled.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" in line {line + 1}"
        raise ConfigError(
            f"{source} is not valid YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}"
        ) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold keys and values, not a {type(tree).__name__}")
    for spec in fields(kind):  # type: ignore[arg-type]
        value = tree.get(spec.name, {})
        if (
            "doc" in spec.metadata
            and len(spec.metadata) == 1
            and value is not None
            and not isinstance(value, dict)
        ):
            raise ConfigError(
                f"{spec.name} in {source} is {value!r}, but it must hold keys and values"
            )
    tree = _worded(kind, tree)
    schema = OmegaConf.structured(kind)
    try:
        merged = OmegaConf.merge(schema, OmegaConf.create(tree))
    except OmegaConfBaseException as error:
        raise _explain(error, source, _culprit(schema, tree)) from error
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r} must look like key.name=value")
        try:
            given = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
            merged = OmegaConf.merge(merged, OmegaConf.create(_worded(kind, given)))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise _explain(error, f"override {override!r}") from error
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _explain(error, source) from error
    assert isinstance(config, kind)
    for key, spec, value in walk(config):
        problem = _out_of_range(spec, value)
        if problem:
            given = next((f"override {o!r}" for o in overrides if o.startswith(f"{key}=")), source)
            raise ConfigError(f"{key} in {given} is {value!r}, but {problem}")
    for key, spec, value in walk(config):
        if complete and spec.metadata.get("required") and value in ("", ()):
            raise ConfigError(
                f"{key} in {source} is empty, but it must be given: {spec.metadata['doc']}"
            )
    return config


def _worded(kind: Any, tree: Any) -> Any:
    """The tree with YAML's `on` and `off`, which it takes for true and false, as the words again.

    Only where a field allows these words.
    """
    if not isinstance(tree, dict):
        return tree
    hints = typing.get_type_hints(kind)
    found = {}
    for key, value in tree.items():
        hint = hints.get(key)
        if is_dataclass(hint):
            value = _worded(hint, value)
        elif isinstance(value, bool) and typing.get_origin(hint) is Literal:
            word = "on" if value else "off"
            value = word if word in typing.get_args(hint) else value
        found[key] = value
    return found


def _culprit(schema: Any, tree: Any, prefix: str = "") -> str:
    """The first key whose value alone the schema refuses: OmegaConf does not name it for tuples."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found = _culprit(schema, value, f"{prefix}{key}.")
            if found:
                return found
            continue
        leaf: Any = value
        for part in reversed(f"{prefix}{key}".split(".")):
            leaf = {part: leaf}
        try:
            OmegaConf.merge(schema, OmegaConf.create(leaf))
        except OmegaConfBaseException:
            return f"{prefix}{key}"
    return ""


def _explain(error: Exception, source: str, key: str = "") -> ConfigError:
    """OmegaConf's error as one line with the source, the full key and what is allowed."""
    # OmegaConf's own first line may name the key by its last part only, or not at all.
    first = str(getattr(error, "msg", None) or error).strip().splitlines()[0]
    key = getattr(error, "full_key", None) or key
    at = f" at {key}" if key and key not in first else ""
    return ConfigError(f"{source}{at}: {first}")


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Each leaf of a configuration as (dotted key, field, value)."""
    for spec in fields(config):
        value = getattr(config, spec.name)
        key = f"{prefix}{spec.name}"
        if is_dataclass(value):
            yield from walk(value, f"{key}.")
        else:
            yield key, spec, value


def _out_of_range(spec: dataclasses.Field[Any], value: Any) -> str:
    meta = spec.metadata
    for number in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if number != number or number in (float("inf"), float("-inf")):
            return "it must be a finite number"
        if not _within(meta, number):
            return f"allowed is {allowed(spec)}"
    return ""


def _within(meta: Mapping[str, Any], number: float) -> bool:
    least, above, most = meta.get("least"), meta.get("above"), meta.get("most")
    return not (
        (least is not None and number < least)
        or (above is not None and number <= above)
        or (most is not None and number > most)
    )


def allowed(spec: dataclasses.Field[Any], hint: Any = None) -> str:
    """What a field takes, in words."""
    meta = spec.metadata
    if typing.get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in typing.get_args(hint))
    ends = []
    if meta.get("least") is not None:
        ends.append(f"at least {meta['least']:g}")
    if meta.get("above") is not None:
        ends.append(f"above {meta['above']:g}")
    if meta.get("most") is not None:
        ends.append(f"at most {meta['most']:g}")
    return ", ".join(ends) or "any"


def describe(kind: type, prefix: str = "") -> Iterator[tuple[str, str, str, str, str, str, str]]:
    """Rows of the configuration table: key, type, default, unit, allowed, meaning, reason."""
    hints = typing.get_type_hints(kind)
    for spec in fields(kind):
        hint, key = hints[spec.name], f"{prefix}{spec.name}"
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from describe(hint, f"{key}.")
            continue
        meta = spec.metadata
        name = (
            hint.__name__
            if isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
            else str(hint)
        )
        name = "choice" if typing.get_origin(hint) is Literal else name
        yield (
            key,
            name,
            repr(_default(spec)),
            meta["unit"],
            allowed(spec, hint),
            meta["doc"],
            meta["why"],
        )


def _default(spec: dataclasses.Field[Any]) -> Any:
    made = spec.default_factory
    return spec.default if made is dataclasses.MISSING else made()


def dump(config: Any) -> str:
    """A configuration as YAML that `parse` reads back."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False)


def plain(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars."""

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lists(entry) for key, entry in value.items()}
        return [lists(entry) for entry in value] if isinstance(value, (tuple, list)) else value

    result = lists(dataclasses.asdict(config))
    assert isinstance(result, dict)
    return result
