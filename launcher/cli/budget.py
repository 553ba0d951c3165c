"""budget: what budgets allow and have left; to set them, give back, and keep free."""

from __future__ import annotations

import getpass
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.manners import Output, confirm, emit, seconds, table, tell
from launcher.cli.places import KubeContext, Place, api_of
from launcher.cli.usage import ClusterName, LedgerAddress, ledger_address, moment, read_ledger
from launcher.errors import UsageError

if TYPE_CHECKING:
    from launcher.budget.ledger import Ledger
    from launcher.cluster.client import Api

app = typer.Typer(
    name="budget",
    help="Show and set GPU-day budgets. Example: launcher budget show webvision",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="BUDGET", help="The budget's name.")]
DAY_MS = 86_400_000


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[BUDGET]", help="All without it.")] = "",
    ledger: LedgerAddress = "",
    cluster: ClusterName = "default",
    kube_context: KubeContext = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show what budgets allow, have used, have promised, and have left, in GPU-days.

    With a ledger (--ledger or the setting) also how fast one burns, and when it will be used up.

    \b
    Examples:
      launcher budget show
      launcher budget show webvision -o yaml
    """
    from launcher.cluster import budgets

    api = _api(context, kube_context)
    found = [budgets.get(api, name)] if name else budgets.all_of(api)
    if output in (Output.json, Output.yaml):
        emit({"kind": "BudgetList", "budgets": [_document(each) for each in found]}, output)
    elif output is Output.name:
        print("\n".join(f"budget.launcher.dev/{each['metadata']['name']}" for each in found))
    elif not name:
        head = ["BUDGET", "LIMIT", "USED", "RESERVED", "LEFT", "MODE", "UNTIL", "JOBS"]
        print(table(head, [_row(each) for each in found]))
    else:
        _show_one(found[0], ledger_address(ledger), cluster, api)


@app.command(name="set")
def set_budget(
    context: typer.Context,
    name: Name,
    gpu_days: Annotated[float | None, typer.Option(min=0, help="GPU-days of each period.")] = None,
    mode: Annotated[str, typer.Option(help="safe, hard or soft; a new one is safe.")] = "",
    on_exhaustion: Annotated[
        str, typer.Option(help="hard: suspend, or shrink to the smallest size first.")
    ] = "",
    grace: Annotated[
        str, typer.Option(metavar="SPAN", help="hard: jobs begin to end so long before.")
    ] = "",
    period: Annotated[
        str, typer.Option(help="once, day, week, month, quarter or year, from --from on.")
    ] = "",
    begin: Annotated[str, typer.Option("--from", metavar="DATE", help="When it begins.")] = "",
    until: Annotated[str, typer.Option(metavar="DATE", help="When it ends for good.")] = "",
    namespaces: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Only for jobs there; may be repeated."),
    ] = None,
    kube_context: KubeContext = "",
) -> None:
    """Make a budget, or change what is named of one; the rest stays.

    \b
    Examples:
      launcher budget set webvision --gpu-days 500 --until 2027-06-01
      launcher budget set webvision --mode hard --on-exhaustion shrink --grace 10m
      launcher budget set monthly --gpu-days 60 --period month --from 2027-01-01
    """
    from launcher.cluster import budgets

    spans = {"every": period, "from": _date(begin, "--from"), "until": _date(until, "--until")}
    spec: dict[str, Any] = {
        "gpuDays": gpu_days,
        "mode": mode,
        "onExhaustion": on_exhaustion,
        "graceSeconds": math.ceil(seconds(grace, "--grace")) if grace else "",
        "period": {key: value for key, value in spans.items() if value},
        "namespaces": namespaces,
    }
    spec = {key: value for key, value in spec.items() if value not in (None, "", {}, [])}
    if not spec:
        raise UsageError("nothing to set; name what shall change, as --gpu-days 500")
    api = _api(context, kube_context)
    before, after = budgets.change(api, name, spec)
    print(name)
    if before is None:
        tell(f"budget {name} is made: {after['spec']['gpuDays']:g} GPU-days, {_mode(after)}")
        return
    for key, value in after["spec"].items():
        if before["spec"].get(key) != value:
            tell(f"{key}: {before['spec'].get(key, 'none')} -> {value}")


@app.command()
def history(
    context: typer.Context,
    name: Name,
    since: Annotated[str, typer.Option(metavar="DATE", help="From this day on, in UTC.")] = "",
    ledger: LedgerAddress = "",
    cluster: ClusterName = "default",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show by day what a budget was charged, what was given back, and what was set right.

    \b
    Examples:
      launcher budget history webvision --since 2027-01-01
    """
    from launcher.budget.usage import Question, usage

    found = read_ledger(ledger, cluster)
    begin_ms = moment(since, "--since") if since else 0
    question = Question(by=("day",), begin_ms=begin_ms, only={"budget": name})
    days = {key[0]: gpu_ms for key, gpu_ms in usage(found, question).rows.items()}
    changes = _changes(found, name, begin_ms)
    if output in (Output.json, Output.yaml):
        rows = [{"day": day, "gpu_ms": gpu_ms} for day, gpu_ms in days.items()]
        emit({"kind": "BudgetHistory", "budget": name, "days": rows, "changes": changes}, output)
        return
    rows_shown = [(day, _days(gpu_ms), "charged") for day, gpu_ms in days.items()]
    rows_shown += [
        (each["at"][:10], _days(each["gpu_ms"]), f"{each['what']}: {each['why']}")
        for each in changes
    ]
    print(table(["DAY", "GPU-DAYS", "WHAT"], sorted(rows_shown)))


@app.command()
def refund(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the books.")],
    gpu_days: Annotated[float | None, typer.Option(help="How much.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="How much, in GPU-hours.")] = None,
    pod: Annotated[str, typer.Option(metavar="UID", help="All that this pod was charged.")] = "",
    key: Annotated[str, typer.Option("--id", help="For a second refund of the same words.")] = "",
    ledger: LedgerAddress = "",
    cluster: ClusterName = "default",
    kube_context: KubeContext = "",
    yes: opt.Yes = False,
) -> None:
    """Give GPU time back to a budget. Repeating the command gives it back once.

    \b
    Examples:
      launcher budget refund webvision --gpu-days 1.5 --reason "node-7 lost 3 h of 12 GPUs"
      launcher budget refund webvision --pod 6f0e... --reason "faulty GPU"
    """
    from launcher import settings
    from launcher.cluster import budgets

    if sum((gpu_days is not None, gpu_hours is not None, bool(pod))) != 1:
        raise UsageError("give one of --gpu-days, --gpu-hours and --pod")
    amount = gpu_days if gpu_days is not None else (gpu_hours or 0) / 24
    if pod:
        amount = _charged(read_ledger(ledger, cluster), name, pod)
    if not confirm(f"give {amount:.3f} GPU-days back to {name}?", yes, context.obj):
        tell("left as it is")
        raise typer.Exit(1)
    author = settings.load(os.environ, Path.cwd()).get("user") or getpass.getuser()
    api = _api(context, kube_context)
    made, is_new = budgets.refund(api, name, amount, reason, author, pod, key)
    print(made)
    tell(
        f"{amount:.3f} GPU-days go back to {name}; the controller writes it into the ledger"
        if is_new
        else f"refund {made} is there already; for another of the same words give --id"
    )


@app.command()
def correct(
    context: typer.Context,
    name: Name,
    pod: Annotated[str, typer.Option(metavar="UID", help="A pod that has ended.")],
    end: Annotated[str, typer.Option(metavar="DATE", help="When it really ended, in UTC.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the books.")],
    ledger: LedgerAddress = "",
    cluster: ClusterName = "default",
    kube_context: KubeContext = "",
    yes: opt.Yes = False,
) -> None:
    """Set right when a pod ended; what was stored before stays in the ledger's segments.

    With a ledger (--ledger or the setting) it tells what changes before it asks.

    \b
    Examples:
      launcher budget correct webvision --pod 6f0e... --end 2027-01-05T14:30:00Z \\
        --reason "node-7 lost its network; its log ends here"
    """
    from launcher import settings
    from launcher.cluster import budgets

    question = f"set the end of pod {pod} to {_date(end, '--end')}?"
    if ledger_address(ledger):
        before = _charged(read_ledger(ledger, cluster), name, pod)
        question = f"{question} It is charged {before:.3f} GPU-days now."
    if not confirm(question, yes, context.obj):
        tell("left as it is")
        raise typer.Exit(1)
    author = settings.load(os.environ, Path.cwd()).get("user") or getpass.getuser()
    api = _api(context, kube_context)
    made, is_new = budgets.correct(api, name, pod, _date(end, "--end"), reason, author)
    print(made)
    tell(
        "the controller writes it into the ledger, where the pod is known and has ended"
        if is_new
        else f"correction {made} is there already"
    )


@app.command()
def reserve(
    context: typer.Context,
    name: Name,
    job: Annotated[str, typer.Option(help="Name of the job that it is kept for.")],
    gpus: Annotated[int, opt.number("GPUs of that job.")] = 0,
    span: Annotated[str, typer.Option("--for", metavar="SPAN", help="How long it runs.")] = "",
    until: Annotated[
        str, typer.Option(metavar="DATE", help="From then on it is free for others again.")
    ] = "",
    is_released: Annotated[
        bool, typer.Option("--release", help="Keep nothing free for it any more.")
    ] = False,
    kube_context: KubeContext = "",
) -> None:
    """Keep GPU time of a budget free for a job that is still to come.

    \b
    Examples:
      launcher budget reserve webvision --job final-ensemble --gpus 64 --for 2d
      launcher budget reserve webvision --job final-ensemble --release
    """
    from launcher.budget.budgets import cost_in_words
    from launcher.cluster import budgets

    api = _api(context, kube_context)
    if is_released:
        budgets.release(api, name, job)
        tell(f"budget {name} keeps nothing free for {job} any more")
        return
    if not gpus or not span:
        raise UsageError("give --gpus and --for, as --gpus 64 --for 2d; or --release")
    span_s = math.ceil(seconds(span, "--for"))
    is_new = budgets.reserve(api, name, job, gpus * span_s / 86_400, _date(until, "--until"))
    tell(
        f"budget {name} keeps {cost_in_words(gpus, span_s)} free for {job}"
        + ("" if is_new else ", as before")
    )


# -- what is shown


def _show_one(thing: dict[str, Any], address: str, cluster: str, api: Api) -> None:
    spec, status = thing["spec"], thing.get("status", {})
    rows = [
        ("Budget", thing["metadata"]["name"]),
        ("Mode", _mode(thing)),
        ("Limit", f"{spec['gpuDays']:,.1f} GPU-days"),
        *((word, f"{value:,.3f} GPU-days") for word, value in _figures(thing)),
        ("Period", f"{status.get('period', {}).get('from', '-')} to {_until(thing)}"),
    ]
    if address:
        rows += _burn(read_ledger(address, cluster), thing, api.transport.clock.now_ms())
    rows += [
        (each["type"], f"{each['status']} ({each['message']})")
        for each in status.get("conditions", ())
    ]
    print("\n".join(f"{word + ':':<12}{text}" for word, text in rows))
    if holds := status.get("holds"):
        print()
        shown = [
            (f"{each['namespace']}/{each['job']}", str(each["gpus"]),
             _days(each["gpuMilliseconds"]), _days(each.get("usedGPUMilliseconds", 0)))
            for each in holds
        ]  # fmt: skip
        print(table(["HELD FOR", "GPUS", "GPU-DAYS", "USED"], shown))


def _burn(ledger: Ledger, thing: dict[str, Any], now_ms: int) -> list[tuple[str, str]]:
    """GPU-days a day of late, and when nothing will be left if that goes on."""
    name = thing["metadata"]["name"]
    rates = {
        days: ledger.used(name, now_ms - days * DAY_MS, now_ms) / DAY_MS / days for days in (1, 7)
    }
    left = thing.get("status", {}).get("gpuDays", {}).get("remaining", thing["spec"]["gpuDays"])
    end = "never at this rate"
    if rates[7] > 0 and left < 1e6 * rates[7]:
        at = now_ms / 1000 + max(0, left) / rates[7] * 86_400
        end = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d} at the rate of 7 days"
    burn = f"{rates[1]:,.1f} GPU-days in the last day, {rates[7]:,.1f} a day in the last 7"
    return [("Burn", burn), ("Used up", end)]


def _document(thing: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": thing["metadata"]["name"],
        "spec": thing["spec"],
        "status": thing.get("status", {}),
    }


def _row(thing: dict[str, Any]) -> list[str]:
    shown = {word: f"{value:,.1f}" for word, value in _figures(thing)}
    return [
        thing["metadata"]["name"],
        f"{thing['spec']['gpuDays']:,.1f}",
        *(shown.get(word, "-") for word in ("Used", "Reserved", "Left")),
        thing["spec"].get("mode", "safe"),
        _until(thing)[:10],
        str(thing.get("status", {}).get("jobs", "-")),
    ]


def _figures(thing: dict[str, Any]) -> list[tuple[str, float]]:
    figures = thing.get("status", {}).get("gpuDays", {})
    words = {"Used": "used", "Reserved": "reserved", "Left": "remaining"}
    return [(word, figures[key]) for word, key in words.items() if key in figures]


def _mode(thing: dict[str, Any]) -> str:
    spec = thing["spec"]
    mode = str(spec.get("mode", "safe"))
    if mode != "hard":
        return mode
    return f"hard, {spec['onExhaustion']}, grace {spec['graceSeconds']} s"


def _until(thing: dict[str, Any]) -> str:
    return str(thing.get("status", {}).get("period", {}).get("until", "-"))


def _changes(ledger: Ledger, name: str, begin_ms: int) -> list[dict[str, Any]]:
    """Refunds and corrections of a budget, in order."""
    found = [
        {"at": _iso(each.at_ms), "what": f"refund {each.refund_id}", "gpu_ms": -each.gpu_ms,
         "why": f"{each.author}: {each.reason}"}
        for each in ledger.refunds()
        if each.budget == name and each.at_ms >= begin_ms
    ]  # fmt: skip
    found += [
        {"at": _iso(each.through_ms), "what": f"correction of {each.pod_uid}",
         "gpu_ms": each.gpu_ms, "why": each.note}
        for each in ledger.intervals()
        if each.source == "correction" and each.owner.budget == name
        and each.through_ms >= begin_ms
    ]  # fmt: skip
    return sorted(found, key=lambda each: str(each["at"]))


def _charged(ledger: Ledger, name: str, pod_uid: str) -> float:
    found = ledger.of_pod(pod_uid)
    if found is None or found.owner.budget != name:
        raise UsageError(f"--pod {pod_uid}: the ledger knows no such pod of budget {name}")
    if not found.is_closed:
        raise UsageError(f"--pod {pod_uid} still runs; wait for its end, or refund --gpu-days")
    return found.gpu_ms / DAY_MS


def _api(context: typer.Context, kube_context: str) -> Api:
    return api_of(Place("", kube_context), context.obj)


def _date(text: str, flag: str) -> str:
    """RFC 3339 of a date or a moment; empty stays."""
    return _iso(moment(text, flag)) if text else ""


def _iso(moment_ms: int) -> str:
    from launcher.budget.objects import iso

    return iso(moment_ms)


def _days(gpu_ms: int) -> str:
    return f"{gpu_ms / DAY_MS:,.3f}"
