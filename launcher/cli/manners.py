"""How every command behaves: streams, output formats, colour, prompts, durations, errors.

stdout is data, stderr is talk. Known failures are one line and an exit code (launcher.errors).
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

from launcher.errors import LauncherError, UsageError

SCHEMA_VERSION = 1
"""Of every document that -o json and -o yaml print; raised when a key changes its meaning."""

KIND = "pytorchjob.kubeflow.org"
"""What -o name puts before a job's name, so that kubectl takes it."""


class Output(StrEnum):
    """Formats of -o."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    name = "name"


class DryRun(StrEnum):
    """Values of --dry-run, as kubectl's."""

    none = "none"
    client = "client"
    server = "server"


class Color(StrEnum):
    """Values of --color."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass
class Manner:
    """What the options before the verb say."""

    verbose: int = 0
    color: Color = Color.auto
    no_input: bool = False
    request_timeout_s: float = 30.0


def tell(message: str) -> None:
    """One line of talk."""
    print(message, file=sys.stderr)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def report(error: LauncherError, as_json: bool) -> None:
    """A known failure on stderr: one line, or a JSON document where -o json was asked for."""
    message = " ".join(str(error).split())
    if as_json:
        body = {"kind": type(error).__name__, "message": message, "exitCode": error.exit_code}
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, "error": body}), file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)


def emit(document: dict[str, Any], output: Output) -> None:
    """One document with stable keys on stdout."""
    document = {"schemaVersion": SCHEMA_VERSION, **document}
    if output is Output.json:
        print(json.dumps(document, indent=2))
        return
    import yaml

    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, three spaces between, as kubectl prints them."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def colored(text: str, color: str, manner: Manner, stream: TextIO) -> str:
    """The text in a colour where the stream and the user want one."""
    codes = {"green": 32, "yellow": 33, "red": 31}
    if not wants_color(manner.color, stream.isatty(), os.environ):
        return text
    return f"\x1b[{codes[color]}m{text}\x1b[0m"


def wants_color(choice: Color, is_terminal: bool, env: Any) -> bool:
    """--color first, then NO_COLOR, FORCE_COLOR, TERM=dumb, then whether it is a terminal."""
    if choice is not Color.auto:
        return choice is Color.always
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR"):
        return True
    return is_terminal and env.get("TERM") != "dumb"


def confirm(question: str, yes: bool, manner: Manner) -> bool:
    """Asks on a terminal; without one, and without --yes, raises UsageError instead of hanging."""
    if yes:
        return True
    if manner.no_input or not sys.stdin.isatty():
        raise UsageError(f"{question} cannot be asked without a terminal; give --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def seconds(text: str, flag: str) -> float:
    """A duration as kubectl takes it: 90s, 30m, 2h, 1h30m, or plain seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not text or not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d))+", text):
        raise UsageError(f"{flag} {text!r} is no duration; give one as 90s, 30m, 2h, 1h30m or 7d")
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    return float(sum(float(number) * units[unit] for number, unit in parts))


def span(elapsed_s: float) -> str:
    """A duration for people: 45s, 12m, 3h20m, 4d2h."""
    whole = int(max(0, elapsed_s))
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m"
    if whole < 172800:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether -o json stands on the command line, known before it has been parsed."""
    joined = " ".join(arguments).partition(" -- ")[0]
    return re.search(r"(^| )(-o ?=?|--output[ =])json( |$)", joined) is not None


def goes_on() -> None:
    """For verbs that may run for long: garbage is collected, which `python -m launcher` leaves."""
    gc.enable()
