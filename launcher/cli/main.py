"""The application: options before the verb, the verbs, and the one place that catches failures."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from launcher.cli import (
    budget,
    calibrate,
    changes,
    completion,
    config,
    controller,
    doctor,
    ensemble,
    finetune,
    inspect,
    jobs,
    plan,
    results,
    submit,
    textfilter,
    usage,
)
from launcher.cli.manners import Color, Manner, report, seconds, wants_json
from launcher.errors import LauncherError, UsageError

app = typer.Typer(
    name="launcher",
    no_args_is_help=True,
    add_completion=False,  # the verb `completion` prints the script
    rich_markup_mode=None,  # plain help: a quarter of the time
    pretty_exceptions_enable=False,  # local variables may hold secrets
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("webvision-suite"))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    verbose: Annotated[
        int,
        typer.Option("-v", "--verbose", count=True, help="Traceback of errors; -vv: debug log."),
    ] = 0,
    color: Annotated[
        Color, typer.Option(help="Colour: also NO_COLOR, FORCE_COLOR, TERM=dumb.")
    ] = Color.auto,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask; fail instead.")] = False,
    request_timeout: Annotated[
        str, typer.Option(help="Longest wait for one answer of a server, as 30s.", metavar="SPAN")
    ] = "30s",
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Trains large networks elastically, on a cluster or on this machine.

    \b
    Examples:
      launcher submit --model resnet18 --local --data ./shards
      launcher submit --model senet154 --gpus 64 --dry-run=client
      launcher logs -f resnet18-1a2b3c
    """
    manner = Manner(verbose, color, no_input, seconds(request_timeout, "--request-timeout"))
    context.obj = manner
    if verbose > 1:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


for group in (
    submit,
    finetune,
    textfilter,
    ensemble,
    jobs,
    changes,
    inspect,
    results,
    plan,
    calibrate,
    usage,
    doctor,
    controller,
):
    group.register(app)
completion.register(app)
app.add_typer(budget.app, name="budget")
app.add_typer(config.app, name="config")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """The exit code of a command line; every known failure becomes one line here."""
    if "_LAUNCHER_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        code = app(args=arguments, prog_name="launcher", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader has seen enough, as `head` has; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except typer.Abort:
        return 130
    except Exception as error:
        known = _known(error)
        if known is None or _is_loud(arguments):
            raise
        report(known, wants_json(arguments))
        return known.exit_code


def _known(error: Exception) -> LauncherError | None:
    """The error as one of the launcher's; None for a defect, which keeps its traceback."""
    if isinstance(error, LauncherError):
        return error
    # Click's usage errors derive from it; the vendored module that names them is private.
    from typer.exceptions import TyperException

    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "launcher"
        return UsageError(f"{error.format_message().rstrip('.')}; see `{where} --help`")
    # Whoever raised one of these has imported its module; help and lists need not.
    for module, name, kind in (
        ("trainer.config", "ConfigError", UsageError),
        ("trainer.storage", "StorageError", LauncherError),
    ):
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return kind(str(error))
    return None


def _is_loud(arguments: list[str]) -> bool:
    """Whether -v stands before the verb: errors then show where they came from."""
    for argument in arguments:
        if not argument.startswith("-"):
            return False
        if argument == "--verbose" or (argument[1:2] == "v" and set(argument[1:]) == {"v"}):
            return True
    return False
