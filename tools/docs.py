"""Fills the generated parts of the documents from the code: `make docs`.

A part stands in a Markdown page between `<!-- made: NAME -->` and `<!-- end -->`, where NAME is a
key of PARTS. A test compares the pages with the code, so what they say of it is true.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "charts/launcher/README.md",
    "docs/cli.md",
    "docs/configuration.md",
    "docs/textfilter.md",
    "docs/ensemble.md",
    "docs/metrics.md",
)
PART = re.compile(r"(<!-- made: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HELP_WIDTH = 100
"""Columns of a help text."""

ROOMS = {
    ".ci/run": "What CI calls: missing packages, then make test",
    "docs/": "Configuration, command line, stored formats, metrics, measured figures",
    "examples/demo/": "make demo: data without a download, the driver, the audit of samples",
    "examples/experiments/": "make experiment: methods that are compared, a YAML a table",
    "requirements/": "Locks with hashes: the launcher alone, and everything",
    "images/": "Dockerfiles of the launcher and the trainer",
    "charts/launcher/": "The Helm chart, of which k8s/base is made; rules and dashboards",
    "k8s/": "What kubectl apply -k installs, pinned CRDs, the Go modules of tests' clusters",
    "tests/": "unit/ integration/ cluster/ e2e/ gpu/ benchmarks/",
    "tools/": "make install, docs and manifests, and the schema of PyTorchJob from its CRD",
    "tools/dashboards/": "Dashboards as code, what tries their queries, and what draws them",
    "tools/experiments/": "What runs an experiment's table of methods and seeds, and reports it",
    "launcher/jobs/": "Packaged recipes, one YAML a network",
    "trainer/data/": "Order of samples (pure), raw layouts, shards, cache, decoding, the stream",
    "trainer/infer/": "Crops, networks asked in the fastest manner, ways to combine their answers",
    "trainer/learn/": "Networks, losses, schedule, one update and one evaluation",
}
"""What stands in the layout beside the modules, which tell of themselves by their docstrings."""


def main() -> None:
    """Writes the pages anew where they differ from the code."""
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            page.write_text(filled, encoding="utf-8")
            print(f"wrote {name}")


def fill(page: str) -> str:
    """The page with each of its generated parts made anew."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", page)


def configuration() -> str:
    """The run's configuration, a table for each section."""
    from trainer.config import FinetuneConfig

    return _sections(FinetuneConfig, "The run")


def textfilter() -> str:
    """A text filtering's configuration, likewise."""
    from trainer.config import TextfilterConfig

    return _sections(TextfilterConfig, "The filtering")


def ensemble() -> str:
    """An ensemble's configuration, likewise."""
    from trainer.config import EnsembleConfig

    return _sections(EnsembleConfig, "The ensemble")


def _sections(kind: type, title: str) -> str:
    from trainer.config import describe

    sections: dict[str, list[Sequence[str]]] = {}
    for key, *cells in describe(kind):
        sections.setdefault(key.rpartition(".")[0], []).append((f"`{key}`", *_coded(cells)))
    head = ("key", "type", "default", "unit", "allowed", "meaning", "why this default")
    parts = []
    for section, rows in sections.items():
        parts.append(f"### {section or title}\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def job() -> str:
    """The job's configuration: a recipe's `job:` part."""
    from launcher.spec import JobConfig
    from trainer.config import describe

    head = ("key", "type", "default", "unit", "allowed", "meaning", "why this default")
    rows = [(f"`job.{key}`", *_coded(cells)) for key, *cells in describe(JobConfig)]
    return _table(head, rows)


def settings() -> str:
    """The launcher's settings with their environment variables."""
    from launcher.settings import KEYS, variable

    rows = [(f"`{key}`", f"`{variable(key)}`", meaning) for key, meaning in KEYS.items()]
    return _table(("setting", "variable", "meaning"), rows)


def commands() -> str:
    """The help of every command of the launcher."""
    return "\n\n".join(
        f"### {' '.join(path)}\n\n```text\n{help_text(path)}\n```" for path in command_paths()
    )


def command_paths() -> Iterator[tuple[str, ...]]:
    """`launcher` and each of its commands, as words."""
    import typer

    from launcher.cli import app

    def below(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from below((*path, name), child)

    yield from below(("launcher",), typer.main.get_command(app))


def help_text(path: Sequence[str]) -> str:
    """What `--help` prints for a command, without blanks at line ends."""
    from typer.testing import CliRunner

    from launcher.cli import app

    answer = CliRunner().invoke(
        app, [*path[1:], "--help"], prog_name="launcher", terminal_width=HELP_WIDTH
    )
    assert answer.exit_code == 0, answer.output
    return "\n".join(line.rstrip() for line in answer.output.strip().splitlines())


def exit_codes() -> str:
    """The launcher's exit codes."""
    from launcher import errors

    kinds: list[type[errors.LauncherError]] = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind is not errors.LauncherError
    ]
    kinds.insert(0, errors.LauncherError)
    rows = [(str(kind.exit_code), _first_line(kind.__doc__)) for kind in kinds]
    return _table(("code", "meaning"), [("0", "Done."), *rows, ("130", "Ended by Ctrl-C.")])


def metrics() -> str:
    """The trainer's Prometheus metrics."""
    from trainer.metrics import TABLE

    rows = [(f"`{name}`", kind, text) for name, (kind, text) in TABLE.items()]
    return _table(("metric", "type", "meaning"), rows)


def controllers_metrics() -> str:
    """The controller's Prometheus metrics."""
    from launcher.controller.metric_table import TABLE

    rows = [
        (f"`{name}`", entry.kind, " ".join(f"`{each}`" for each in entry.labels), entry.help)
        for name, entry in TABLE.items()
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def values() -> str:
    """The chart's values, each with its default and the sentence above it."""
    import json

    rows = [(f"`{key}`", f"`{json.dumps(default)}`", text) for key, default, text in chart_values()]
    return _table(("value", "default", "meaning"), rows)


def chart_values() -> Iterator[tuple[str, Any, str]]:
    """Key, default and sentence of each value that has a comment which begins with `# -- `."""
    import yaml

    text = (ROOT / "charts/launcher/values.yaml").read_text(encoding="utf-8")
    every = yaml.safe_load(text)
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        if found := re.match(r" *# (-- )?(.*)", line):
            said = [found[2]] if found[1] else [*said, found[2]] if said else []
        elif found := re.match(r"( *)(\w+):", line):
            path[len(found[1]) // 2 :] = [found[2]]
            if said:
                default = every
                for key in path:
                    default = default[key]
                yield ".".join(path), default, " ".join(said)
            said = []


def recipes() -> str:
    """The packaged recipes with their sizes."""
    import yaml

    rows = []
    for path in sorted((ROOT / "launcher/jobs").glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        run = recipe["run"]
        cells = (run["input"]["size_px"], run["update"]["global_batch"], run["epochs"])
        rows.append((f"`{path.stem}`", *(str(cell) for cell in cells)))
    return _table(("recipe", "input (px)", "global batch", "epochs"), rows)


def layout() -> str:
    """The tree of the repository, with what each room is for."""
    entries = dict(ROOMS)
    for package in ("launcher", "trainer"):
        for path in sorted((ROOT / package).iterdir()):
            source = path / "__init__.py" if path.is_dir() else path
            name = f"{package}/{path.name}{'/' if path.is_dir() else ''}"
            if source.suffix == ".py" and source.exists() and (doc := _docstring(source)):
                entries.setdefault(name, doc)
    width = max(len(name) for name in entries) + 2
    lines = [f"{name:<{width}}{entries[name].rstrip('.')}" for name in sorted(entries)]
    return "\n".join(["```text", *lines, "```"])


def make_targets() -> str:
    """The Make targets, as `make help` lists them."""
    targets = re.findall(
        r"^([a-z0-9-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )
    return _table(("target", "what it does"), [(f"`make {name}`", text) for name, text in targets])


def _docstring(path: Path) -> str:
    return _first_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _coded(cells: Sequence[str]) -> Iterator[str]:
    kind, default, *rest = cells
    yield from (kind, f"`{default}`", *rest)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


PARTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "textfilter": textfilter,
    "ensemble": ensemble,
    "job": job,
    "settings": settings,
    "commands": commands,
    "exit-codes": exit_codes,
    "metrics": metrics,
    "controllers-metrics": controllers_metrics,
    "recipes": recipes,
    "values": values,
    "layout": layout,
    "make": make_targets,
}

if __name__ == "__main__":
    main()
