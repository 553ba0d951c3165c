"""README's commands as a newcomer runs them, and the demo's table.

A sh block below `<!-- run -->` is run, each in its turn, in a folder of its own; a text block right
below it is what it prints. The text block below `<!-- demo -->` is the table of `make demo`.
Figures may differ.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import launcher

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = re.compile(
    r"^<!-- run -->\n```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
DEMO = re.compile(r"^<!-- demo -->\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
BLOCK_S = 150
"""Longest time of a block's commands, on a machine that is busy with other work too."""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the project's programs on the path and no earlier runs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    yield folder
    for name in launcher("list", "-o", "name").stdout.split():
        launcher("delete", name.rpartition("/")[2], "--yes", "--force")


def without_figures(text: str) -> str:
    """Each number as 0, and one blank between words."""
    lines = re.sub(r"\d[\d,.]*", "0", text).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)


def test_the_commands_do_what_readme_shows(newcomer: Path) -> None:
    blocks = list(RUN.finditer(README))
    assert len(blocks) == README.count("<!-- run -->")
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block["commands"]],
            cwd=newcomer,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
        )
        assert done.returncode == 0, f"{block['commands']}{done.stdout}{done.stderr}"
        if block["output"]:
            printed = done.stdout.replace(str(newcomer), "/…")
            assert without_figures(printed) == without_figures(block["output"])
    assert (newcomer / "build/curve.png").stat().st_size > 10_000
    assert launcher("list", "-o", "name").stdout == ""


def test_the_demo_keeps_what_readme_promises(newcomer: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo.run", "--out", str(newcomer / "demo")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = DEMO.findall(README)
    shown = done.stdout.splitlines()
    for row in table.splitlines():
        wanted = without_figures(row)
        found = [line for line in shown if without_figures(line) == wanted]
        assert len(found) == 1, f"{row!r} in:\n{done.stdout}"
        assert found[0].partition("promised")[2] == row.partition("promised")[2]
