"""The documents against the code: generated parts, links, commands, flags, keys and file names."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from launcher.cli import app
from launcher.resolve import recipes
from launcher.spec import JobConfig
from launcher.status import Event, JobStatus, WorkerStatus
from tools import docs
from trainer import pack
from trainer.checkpoint import Manifest, StoredObject
from trainer.config import FinetuneConfig, TextfilterConfig, describe
from trainer.data.shards import INDEX
from trainer.learn.evaluation import Accuracy

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "charts/*/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REGISTRIES = (
    "pypi.",
    "pythonhosted",
    "npmjs",
    "proxy.golang",
    "crates.io",
    "conda.anaconda",
    "docker.io",
    "ghcr.io",
    "gcr.io",
    "quay.io",
    "nvcr.io",
    "registry.k8s",
)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    """The text of each document in turn."""
    return (ROOT / request.param).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def shell(text: str) -> Iterator[list[str]]:
    """The words of each command in sh blocks, and of the parts of a pipe on its own."""
    for language, body in FENCE.findall(text):
        if language in ("sh", "shell"):
            for line in body.replace("\\\n", " ").splitlines():
                for part in line.split(" | "):
                    if words := shlex.split(part, comments=True):
                        yield words


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Words after the program, of every command in blocks and between backticks."""
    for words in (*shell(text), *(span.split() for span in spans(text))):
        if words[: len(program.split())] == program.split():
            yield words[len(program.split()) :]


# -- generated parts


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_parts_say_what_the_code_says(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert docs.fill(text) == text, f"{name} is out of date; run make docs"


def test_every_part_stands_somewhere_and_is_closed() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in docs.PAGES]
    opened = [name for text in texts for name in re.findall(r"<!-- made: (\S+) -->", text)]
    filled = [found[2] for text in texts for found in docs.PART.finditer(text)]
    assert sorted(opened) == sorted(filled)
    assert set(opened) == set(docs.PARTS)


def test_rooms_of_the_layout_exist() -> None:
    assert [name for name in docs.ROOMS if not (ROOT / name).exists()] == []


# -- links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = 0
        while (f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


# -- commands


def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[0] for words in commands(page, "make") if words}
    assert named - targets == set()


@cache
def verbs() -> dict[tuple[str, ...], Any]:
    """Every command of the launcher by its words."""

    def below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from below((*path, name), child)

    return dict(below((), typer.main.get_command(app)))


def flags_of(command: Any) -> set[str]:
    return {"--help", "-h"} | {flag for option in command.params for flag in option.opts}


@cache
def keys() -> set[str]:
    """Every key that an override may name."""
    run = {key for kind in (FinetuneConfig, TextfilterConfig) for key, *_ in describe(kind)}
    return run | {f"job.{key}" for key, *_ in describe(JobConfig)}


def test_the_launcher_has_what_is_called(page: str) -> None:
    for words in commands(page, "launcher"):
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in verbs():
            path, words = (*path, words[0]), words[1:]
        said = " ".join(("launcher", *path, *words))
        if not path:
            assert not words or words[0].startswith("-") or words[0].isupper(), said
        known = flags_of(verbs()[path])
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, said
            elif re.fullmatch(r"[a-z_.]+=\S*", word):
                assert word.partition("=")[0] in keys(), said
        if "--model" in words:
            model = words[words.index("--model") + 1]
            named = model in recipes() or model.isupper() or (ROOT / model).exists()
            assert named or model == "my.yaml", said


def test_modules_that_are_called_exist(page: str) -> None:
    for words in commands(page, "python -m"):
        assert importlib.util.find_spec(words[0]) is not None, words
        if words[0] == "trainer.pack":
            options = pack._parser()._option_string_actions
            flags = [word.partition("=")[0] for word in words[1:] if word.startswith("-")]
            assert [flag for flag in flags if flag not in options] == []


def test_flags_between_backticks_exist(page: str) -> None:
    known = {flag for command in verbs().values() for flag in flags_of(command)}
    known |= set(pack._parser()._option_string_actions)
    foreign = {"--resume", "--batch-size", "--metric-labels-allowlist"}  # others'
    for span in spans(page):
        if span.startswith("--"):
            named = {word.partition("=")[0] for word in span.split() if word.startswith("--")}
            assert named - known - foreign == set(), span


def test_the_chart_has_the_values_that_helm_is_given(page: str) -> None:
    known = {key for key, *_ in docs.chart_values()}
    for words in commands(page, "helm"):
        for flag, value in pairwise(words):
            if flag in ("--set", "--set-json"):
                assert value.partition("=")[0] in known, value


# -- names


def test_configuration_keys_exist(page: str) -> None:
    sections = {key.partition(".")[0] for key in keys() if "." in key}
    for span in spans(page):
        found = re.fullmatch(r"([a-z]+)\.([a-z_.]+)", span)
        if found and found[1] in sections and found[2] not in ("py", "yaml", "safetensors"):
            whole = span.rstrip(".*")
            assert whole in keys() or any(key.startswith(f"{whole}.") for key in keys()), span


def test_files_that_are_named_exist(page: str) -> None:
    folders = ("docs/", "examples/", "launcher/", "requirements/", "tests/", "tools/", "trainer/")
    for span in spans(page):
        if span.startswith((*folders, ".ci/")) and " " not in span and "*" not in span:
            path = ROOT / span
            assert path.exists() or path.with_suffix(".py").exists(), span


def test_no_package_registry_and_no_folder_of_a_machine_is_named(page: str) -> None:
    assert [host for host in REGISTRIES if host in page.lower()] == []
    assert re.findall(r"(?<![\w.…])/(?:work|root|home|tmp)/\S*", page) == []


@dataclass(frozen=True)
class _Kept:
    """What the stored formats must have a word on."""

    what: str
    names: tuple[str, ...]


@pytest.mark.parametrize(
    "kept",
    [
        _Kept("index.npy", INDEX.names or ()),
        *(
            _Kept(kind.__name__, tuple(field.name for field in fields(kind)))
            for kind in (Manifest, StoredObject, Accuracy, JobStatus, WorkerStatus, Event)
        ),
    ],
    ids=lambda kept: kept.what,
)
def test_the_stored_formats_name_every_key(kept: _Kept) -> None:
    named = set(spans((ROOT / "docs/formats.md").read_text(encoding="utf-8")))
    assert [name for name in kept.names if name not in named] == []


def test_the_newest_release_in_the_changelog_is_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    released = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == project["version"]
