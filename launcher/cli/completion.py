"""completion and version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that can complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(completion)
    app.command()(version)


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the script that lets a shell complete verbs, options, recipes and names of jobs.

    \b
    Examples:
      launcher completion bash > ~/.local/share/bash-completion/completions/launcher
      launcher completion fish > ~/.config/fish/completions/launcher.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(
        get_completion_script(
            prog_name="launcher", complete_var="_LAUNCHER_COMPLETE", shell=shell.value
        )
    )


def version() -> None:
    """Print the version.

    \b
    Examples:
      launcher version
    """
    from importlib.metadata import version as installed

    print(installed("webvision-suite"))
