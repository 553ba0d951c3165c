"""usage: what the ledger says was used, by job, budget, user, day and more."""

from __future__ import annotations

import csv
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.manners import Output, emit, table, tell
from launcher.errors import UsageError

if TYPE_CHECKING:
    from launcher.budget.ledger import Ledger
    from launcher.budget.usage import Answer, Question

DAY_MS = 86_400_000
GROUPS = "budget, job, model, user, day, stage, gpu_type, namespace"


class Format(StrEnum):
    """Formats of -o."""

    table = "table"
    csv = "csv"
    json = "json"
    yaml = "yaml"


LedgerAddress = Annotated[
    str,
    typer.Option("--ledger", metavar="ADDRESS", help="The ledger's bucket or folder; read only."),
]
ClusterName = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="The cluster's name in the ledger.")
]


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name="usage")(usage_of)


def usage_of(
    by: Annotated[
        str, typer.Option(metavar="GROUP[,GROUP]...", help=f"One or several of {GROUPS}.")
    ] = "job",
    since: Annotated[
        str, typer.Option(metavar="DATE", help="From this day or moment on, in UTC.")
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="DATE", help="Up to, without, this day or moment, in UTC.")
    ] = "",
    budget: Annotated[str, typer.Option(help="Only of this budget.")] = "",
    job: Annotated[str, typer.Option(help="Only of this job.")] = "",
    user: Annotated[str, typer.Option(help="Only of this user.")] = "",
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    ledger: LedgerAddress = "",
    cluster: ClusterName = "default",
    local: Annotated[
        bool, typer.Option("--local", help="Of the runs on this machine: worker-days on CPUs.")
    ] = False,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="csv and json hold exact milliseconds.")
    ] = Format.table,
) -> None:
    """Show what the ledger says was used: GPU-days by job, budget, user, day and more.

    What still runs is counted as far as it is stored. Refunds are shown apart.

    \b
    Examples:
      launcher usage --budget webvision --by day
      launcher usage --by budget,user --since 2026-06-01 --until 2026-07-01 -o csv
      launcher usage --local --by day
    """
    from launcher.budget.usage import Question, usage

    given = {"budget": budget, "job": job, "user": user, "model": model}
    question = Question(
        by=groups(by),
        begin_ms=moment(since, "--since") if since else 0,
        end_ms=moment(until, "--until") if until else Question.end_ms,
        only={fact: value for fact, value in given.items() if value},
    )
    if question.begin_ms >= question.end_ms:
        raise UsageError(f"--until {until} is not after --since {since}")
    if local and (ledger or cluster != "default"):
        raise UsageError("--local goes without --ledger and --cluster: it names a ledger itself")
    answer = usage(local_ledger() if local else read_ledger(ledger, cluster), question)
    if output is Format.csv:
        _csv(answer, question)
    elif output is Format.table:
        _table(answer, question)
    else:
        emit(document(answer, question), Output(output.value))


def groups(text: str) -> tuple[str, ...]:
    """The groups of --by. Raises UsageError."""
    from launcher.budget.usage import GROUPS as known

    found = tuple(word.strip() for word in text.split(","))
    for word in found:
        if word not in known:
            raise UsageError(f"--by {word!r} is unknown; allowed: {', '.join(known)}")
    if len(set(found)) < len(found):
        raise UsageError(f"--by {text} names a group twice")
    return found


def moment(text: str, flag: str) -> int:
    """A date or RFC 3339 as milliseconds since 1970; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} is no date; give one as 2026-06-01 or 2026-06-01T12:00:00Z"
        ) from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def ledger_address(given: str) -> str:
    """The address of the flag or the setting; empty where there is none."""
    from launcher import settings

    return given or settings.load(os.environ, Path.cwd()).get("ledger")


def read_ledger(address: str, cluster: str) -> Ledger:
    """What is stored, read only. Raises UsageError where no ledger is known."""
    from launcher.budget.storage import LedgerStore
    from launcher.errors import NotFound
    from trainer.storage import open_store

    if not (found := ledger_address(address)):
        raise UsageError(
            "no ledger is known; give --ledger ADDRESS, or launcher config set ledger ADDRESS"
        )
    stored = LedgerStore(open_store(found), cluster)
    ledger = stored.load()
    if not any(True for _ in ledger.records()):
        raise NotFound(f"{stored.address} holds no record; is --cluster {cluster} right?")
    return ledger


def local_ledger() -> Ledger:
    """That of the runs on this machine; what lost supervisors have left open is closed first."""
    from launcher.errors import NotFound
    from launcher.local import accounts

    accounts.settle_lost()
    ledger = accounts.open_ledger().load()
    if not any(True for _ in ledger.records()):
        raise NotFound(f"no run on this machine has been accounted in {accounts.address()} yet")
    return ledger


def document(answer: Answer, question: Question) -> dict[str, Any]:
    """What -o json and -o yaml print."""
    rows = [
        dict(zip(question.by, key, strict=True)) | _figures(gpu_ms)
        for key, gpu_ms in answer.rows.items()
    ]
    refunds = [{"budget": name} | _figures(gpu_ms) for name, gpu_ms in answer.refunds.items()]
    return {
        "kind": "GPUUsage",
        "by": list(question.by),
        "rows": rows,
        "total": _figures(answer.total),
        "refunds": refunds,
        "open_intervals": answer.open_intervals,
        "as_of": _iso(answer.as_of_ms),
    }


def _figures(gpu_ms: int) -> dict[str, Any]:
    return {"gpu_ms": gpu_ms, "gpu_days": gpu_ms / DAY_MS}


def _iso(moment_ms: int | None) -> str | None:
    if moment_ms is None:
        return None
    text = datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _csv(answer: Answer, question: Question) -> None:
    """The rows alone; what else is known goes to stderr."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*question.by, "gpu_ms", "gpu_days"])
    for key, gpu_ms in answer.rows.items():
        writer.writerow([*key, gpu_ms, repr(gpu_ms / DAY_MS)])
    _tell_rest(answer)


def _table(answer: Answer, question: Question) -> None:
    rows = [[*(word or "-" for word in key), _days(ms)] for key, ms in answer.rows.items()]
    rows.append(["total", *[""] * (len(question.by) - 1), _days(answer.total)])
    print(table([*(name.upper() for name in question.by), "GPU-DAYS"], rows))
    _tell_rest(answer)


def _tell_rest(answer: Answer) -> None:
    for name, gpu_ms in answer.refunds.items():
        tell(f"budget {name or '-'}: {_days(gpu_ms)} GPU-days were given back, not taken off here")
    if answer.as_of_ms is not None:
        tell(
            f"{answer.open_intervals} pods still run; they are counted as far as is stored, "
            f"at least to {_iso(answer.as_of_ms)}"
        )


def _days(gpu_ms: int) -> str:
    return f"{gpu_ms / DAY_MS:,.3f}"
