"""The verb that looks ahead: plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.manners import Output, emit, table, tell
from launcher.errors import LauncherError, NotFound, UsageError

if TYPE_CHECKING:
    from launcher.plan import Limits, Measurement, Network, Plan


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(plan)


def plan(
    gpu_type: Annotated[
        str, typer.Option(help="Kind of GPU, as 'TITAN Xp', H100, or what was measured.")
    ],
    gpus: Annotated[int, opt.number("GPUs at hand.")],
    images: Annotated[int, opt.number("Pictures of an epoch.")] = 16_000_000,
    epochs: Annotated[
        str, typer.Option(metavar="N[,N]...", help="Lengths to choose from, in epochs.")
    ] = "150",
    sizes: Annotated[
        str,
        typer.Option(metavar="PX[,PX]...", help="Input sizes to choose from; default: own ones."),
    ] = "",
    models: Annotated[
        str, typer.Option(metavar="NAME[,NAME]...", help="Networks to choose from; default: all.")
    ] = "",
    networks: Annotated[
        str, typer.Option(metavar="FILE", help="More networks: NAME: {size_px, gmac, mact, ...}.")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="fp32 or amp (bf16, fp16); default: the GPU's best known.")
    ] = "",
    measured: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Result of launcher calibrate: path or s3:// address."),
    ] = None,
    level: Annotated[
        str, typer.Option(help="measured, table or formula; default: the best there is for each.")
    ] = "",
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RATIO",
            help="On top of the steps: input, evaluation, checkpoint, communication.",
        ),
    ] = None,
    network_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Longest time for one network.")
    ] = None,
    deadline: Annotated[
        str,
        typer.Option(metavar="DAYS|DATE", help="End of all, in days from now or as 2027-06-01."),
    ] = "",
    budget_gpu_days: Annotated[
        float | None, typer.Option(metavar="GPU-DAYS", help="Most that all may cost.")
    ] = None,
    networks_most: Annotated[int | None, opt.number("Most networks of the ensemble.")] = None,
    schedule: Annotated[
        str, typer.Option(help="sequential: each on all GPUs; parallel: beside each other.")
    ] = "sequential",
    gantt: Annotated[
        str, typer.Option(metavar="FILE", help="Draw the schedule, .png or .svg.")
    ] = "",
    commands: Annotated[
        bool, typer.Option("--commands", help="Print the launcher submit lines of the plan alone.")
    ] = False,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Tell what networks cost in GPU-days, and which of them make the best ensemble in limits.

    docs/planning.md has the estimates, the model of accuracy and what they rest on.

    \b
    Examples:
      launcher plan --gpu-type "TITAN Xp" --gpus 64 -o json
      launcher plan --gpu-type "TITAN Xp" --gpus 64 --network-days 12 --networks-most 1 --commands
      launcher plan --gpu-type H100 --gpus 8 --epochs 60,100,150 --sizes 224,288 \\
        --budget-gpu-days 500 --deadline 2027-06-01 --gantt plan.svg
      launcher plan --gpu-type H100 --gpus 8 --measured calibration.json --share evaluation=0.02
    """
    from launcher.plan import Question, make_plan, read_hardware
    from launcher.plan.gantt import check_picture, draw_plan

    if gantt:
        check_picture(gantt)
    question = Question(
        gpu_type,
        _limits(gpus, network_days, deadline, budget_gpu_days, networks_most, schedule),
        _networks(models, networks),
        _at_least(images, 1, "--images"),
        tuple(_listed(epochs, "--epochs")),
        tuple(_at_least(px, 32, "--sizes") for px in _listed(sizes, "--sizes")),
        _one_of(precision, ("", "fp32", "amp"), "--precision"),
        _one_of(level, ("", "measured", "table", "formula"), "--level"),
        _shares(share or []),
        _measurements(measured or []),
    )
    found = make_plan(question, read_hardware())
    if gantt:
        draw_plan(found, gantt)
        tell(f"drawn into {gantt}")
    _show(found, output, commands)


def _show(found: Plan, output: Output, commands: bool) -> None:
    """Data on stdout; of a table, what one should know of it on stderr."""
    from launcher.plan import report

    if commands:
        from launcher.jobfile import recipes

        print("".join(f"{line}\n" for line in report.commands(found, recipes())), end="")
    elif output in (Output.json, Output.yaml):
        emit(report.document(found), output)
    elif output is Output.name:
        print("".join(f"{slot.run.model}\n" for slot in found.slots), end="")
    else:
        print(table(report.HEAD, report.rows(found)))
    if output in (Output.table, Output.wide, Output.name):
        for sentence in found.refusals.values():
            tell(sentence)
        tell(report.summary(found))


def _limits(
    gpus: int,
    network_days: float | None,
    deadline: str,
    budget_gpu_days: float | None,
    networks_most: int | None,
    schedule: str,
) -> Limits:
    from launcher.plan import Limits

    for flag, value in (
        ("--network-days", network_days),
        ("--budget-gpu-days", budget_gpu_days),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{flag} is {value:g}, but a number above 0 is needed")
    _one_of(schedule, ("sequential", "parallel"), "--schedule")
    if networks_most is not None:
        _at_least(networks_most, 1, "--networks-most")
    return Limits(
        _at_least(gpus, 1, "--gpus"),
        network_days,
        _days_until(deadline) if deadline else None,
        budget_gpu_days,
        networks_most,
        "parallel" if schedule == "parallel" else "sequential",
    )


def _days_until(deadline: str) -> float:
    """Days from now: the number itself, or until the beginning of a date (UTC)."""
    from datetime import UTC, datetime

    try:
        days = float(deadline)
    except ValueError:
        try:
            end = datetime.fromisoformat(deadline)
        except ValueError:
            raise UsageError(
                f"--deadline {deadline!r} is neither a number of days nor a date as 2027-06-01"
            ) from None
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
        days = (end - datetime.now(UTC)).total_seconds() / 86_400
        if days <= 0:
            raise UsageError(f"--deadline {deadline} is over; give a day to come") from None
    if not 0 < days < math.inf:
        raise UsageError(f"--deadline is {deadline} days, but a number above 0 is needed")
    return days


def _networks(models: str, file: str) -> dict[str, Network]:
    """The packaged networks and those of the file, or of both the ones named."""
    from launcher.plan import packaged_networks, parse_networks

    known = packaged_networks()
    if file:
        known |= parse_networks(_read(file, "--networks"), file)
    if not models.strip(" ,"):
        return known
    wanted = [name.strip() for name in models.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"--models {name!r} is unknown; {hint}")
    return {name: known[name] for name in wanted}


def _measurements(sources: list[str]) -> list[Measurement]:
    from launcher.plan import parse_measurements

    return [
        entry
        for source in sources
        for entry in parse_measurements(_read(source, "--measured"), source)
    ]


def _read(source: str, flag: str) -> str:
    """The text of a file, or of an object in a store."""
    if "://" in source:
        from trainer import storage

        folder, _, key = source.rpartition("/")
        try:
            return storage.open_store(folder).get(key).decode(errors="replace")
        except storage.NotFound as error:
            raise NotFound(f"there is no {source}; a calibration writes it at its end") from error
        except storage.StorageError as error:
            raise LauncherError(str(error)) from error
    try:
        with open(source, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"{flag} {source} cannot be read: {reason}") from error


def _shares(given: list[str]) -> dict[str, float]:
    from launcher.plan.estimate import SHARES

    found = {}
    for each in given:
        name, _, value = each.partition("=")
        _one_of(name, SHARES, "--share")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] <= 10:
            raise UsageError(f"--share {each} must look like {name}=0.02, a ratio from 0 to 10")
    return found


def _listed(text: str, flag: str) -> list[float]:
    """Numbers above 0 by commas, each once."""
    numbers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not 0 < value < 100_000:
            raise UsageError(f"{flag} {part!r} is no number above 0")
        numbers.append(value)
    if text and not numbers:
        raise UsageError(f"{flag} {text!r} holds no number")
    return list(dict.fromkeys(numbers))


def _at_least(value: float, least: int, flag: str) -> int:
    if value < least or value != int(value):
        raise UsageError(f"{flag} is {value:g}, but a whole number from {least} is allowed")
    return int(value)


def _one_of(value: str, allowed: tuple[str, ...], flag: str) -> str:
    if value not in allowed:
        raise UsageError(
            f"{flag} {value!r} is unknown; allowed are {', '.join(filter(None, allowed))}"
        )
    return value
