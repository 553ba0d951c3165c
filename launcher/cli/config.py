"""config: what the settings are, where they come from, and how to set them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from launcher import settings
from launcher.cli import options as opt
from launcher.cli.manners import Output, emit, table, tell

app = typer.Typer(
    name="config",
    help="Show and set defaults. Example: launcher config view --show-origin",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Key = Annotated[
    str,
    typer.Argument(
        help=f"One of {', '.join(settings.KEYS)}.",
        autocompletion=lambda incomplete: [k for k in settings.KEYS if k.startswith(incomplete)],
    ),
]


@app.command()
def view(
    show_origin: Annotated[
        bool, typer.Option("--show-origin", help="Also where each value was found.")
    ] = False,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Print every setting.

    \b
    Examples:
      launcher config view --show-origin
    """
    known = settings.load(os.environ, Path.cwd())
    if output in (Output.json, Output.yaml):
        entries = {
            key: {"value": entry.value, "origin": entry.origin}
            for key, entry in known.entries.items()
        }
        emit({"kind": "Settings", "settings": entries}, output)
        return
    rows = [(key, entry.value or "-", entry.origin) for key, entry in known.entries.items()]
    if show_origin or output is Output.wide:
        print(table(["KEY", "VALUE", "ORIGIN"], rows))
    else:
        print(table(["KEY", "VALUE"], [row[:2] for row in rows]))


@app.command()
def get(key: Key) -> None:
    """Print one setting's value.

    \b
    Examples:
      launcher config get checkpoints
    """
    settings.check_key(key)
    print(settings.load(os.environ, Path.cwd()).get(key))


@app.command(name="set")
def set_value(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value; an empty one counts as not set.")],
    user: Annotated[
        bool, typer.Option("--user", help="In your own file instead of ./launcher.toml.")
    ] = False,
) -> None:
    """Set one value in ./launcher.toml, or with --user in your own file.

    \b
    Examples:
      launcher config set image registry.example/trainer:0.1.0
      launcher config set --user checkpoints s3://runs/alice
    """
    settings.check_key(key)
    path = settings.user_file(os.environ) if user else Path(settings.PROJECT_FILE)
    settings.store(path, key, value)
    tell(f"{key} is set in {path}")
