"""A worker of an elastic run: meets the others and runs one rank for each of its GPUs.

    python -m trainer.agent -m trainer.train

Its settings are torchrun's, from the variables that the training operator gives each pod:
PET_RDZV_ENDPOINT, PET_RDZV_ID, PET_NNODES (least:most), PET_NPROC_PER_NODE, PET_MAX_RESTARTS,
PET_RDZV_CONF (join_timeout, last_call_timeout), PET_LOCAL_ADDR, TORCH_ELASTIC_SHUTDOWN_TIMEOUT.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping

from trainer.elastic.agent import Agent, Settings
from trainer.elastic.ranks import Program
from trainer.exits import USAGE


class BadSettings(ValueError):
    """A variable is missing or wrong."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The agent's settings. Raises BadSettings naming the variable."""
    host, port = _endpoint(_required(environment, "PET_RDZV_ENDPOINT"))
    least, _, most = environment.get("PET_NNODES", "1").partition(":")
    conf = environment.get("PET_RDZV_CONF", "")
    pairs = dict(pair.partition("=")[::2] for pair in conf.split(",") if pair)
    settings = Settings(
        run=_required(environment, "PET_RDZV_ID"),
        name=socket.gethostname(),
        host=host,
        port=port,
        own_host=_required(environment, "PET_LOCAL_ADDR"),
        ranks=_number(environment.get("PET_NPROC_PER_NODE", "1"), "PET_NPROC_PER_NODE"),
        least=_number(least, "PET_NNODES"),
        most=_number(most or least, "PET_NNODES"),
        max_restarts=_number(environment.get("PET_MAX_RESTARTS", "0"), "PET_MAX_RESTARTS", 0),
        join_timeout_s=_number(pairs.get("join_timeout", "600"), "PET_RDZV_CONF: join_timeout"),
        last_call_s=_number(
            pairs.get("last_call_timeout", "30"), "PET_RDZV_CONF: last_call_timeout", 0
        ),
        stop_s=_number(
            environment.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
        ),
    )
    if settings.least > settings.most:
        raise BadSettings(f"PET_NNODES is {environment['PET_NNODES']}; expected least:most")
    return settings


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise BadSettings(f"{name} is not set; the operator or the local backend sets it")
    return environment[name]


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        raise BadSettings(f"PET_RDZV_ENDPOINT is {text!r}; expected host:port")
    return host.strip("[]"), _number(port, "PET_RDZV_ENDPOINT")


def _number(text: str, name: str, least: int = 1) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise BadSettings(f"{name} is {text!r}; expected a whole number of at least {least}")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="trainer.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module")
    parser.add_argument("program", metavar="PROGRAM", help="module with a main(), or a script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to each rank")
    flags = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s agent: %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        settings = read_settings(os.environ)
    except BadSettings as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if settings.ranks > 1:
        # As torchrun does: several ranks that each take all cores are slower than one core each.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    module, script = (flags.program, "") if flags.module else ("", flags.program)
    program = Program(module, script, tuple(flags.arguments))
    return asyncio.run(_run(settings, program))


async def _run(settings: Settings, program: Program) -> int:
    return await Agent(settings, program).run()


if __name__ == "__main__":
    sys.exit(main())
