"""What agents and rendezvous tell each other: one JSON object a line, its class in `type`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

LINE_MOST_BYTES = 8192
State = Literal["waiting", "working", "done", "leaving"]


class BadMessage(ValueError):
    """A line that is no message."""


@dataclass(frozen=True)
class Standing:
    """Where an agent stands; it says so after each change and after each new connection."""

    run: str
    """The run it belongs to; a rendezvous serves one."""
    node: str
    """Unique for this agent process."""
    name: str
    """For people: the pod."""
    state: State
    ranks: int
    """Ranks that it runs."""
    least: int
    """Workers a group has at least."""
    most: int
    last_call_s: float
    """How long a group that could be larger waits for more workers."""
    host: str
    """Where its first rank would hold the ranks' store, and on which port."""
    port: int
    round: int = 0
    """The last group it was part of: its number, the agent's place in it, its number of agents."""
    place: int = 0
    size: int = 0


@dataclass(frozen=True)
class Start:
    """Rendezvous to agent: a group is formed, start the ranks."""

    round: int
    place: int
    size: int
    first_rank: int
    """Rank of this worker's first one; the others follow."""
    world: int
    """Number of ranks."""
    host: str
    """Where rank 0 holds the store of the ranks."""
    port: int
    lost: int
    """Agents of the group before that did not come back."""


@dataclass(frozen=True)
class Regroup:
    """Rendezvous to agent: end the ranks of that round and say again that you wait."""

    round: int
    reason: str


@dataclass(frozen=True)
class Over:
    """Rendezvous to agent: the run is done, there is nothing left to do."""


@dataclass(frozen=True)
class Refused:
    """Rendezvous to agent: it serves somebody else."""

    reason: str


Order = Start | Regroup | Over | Refused
Message = Standing | Order
_CLASSES: dict[str, type[Message]] = {each.__name__: each for each in get_args(Message)}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "State": str,
}


def pack(message: Message) -> bytes:
    """The message as a line."""
    return json.dumps({"type": type(message).__name__} | asdict(message)).encode() + b"\n"


def parse(line: bytes) -> Message:
    """The message of a line. Raises BadMessage."""
    try:
        content = json.loads(line)
        made = _CLASSES[content.pop("type")]
        for field in fields(made):
            value = content.get(field.name)
            if not isinstance(value, _TYPES[str(field.type)]) or isinstance(value, bool):
                raise BadMessage(f"{made.__name__}.{field.name} is {value!r}, not a {field.type}")
        if made is Standing and content["state"] not in get_args(State):
            raise BadMessage(f"Standing.state is {content['state']!r}, not of {get_args(State)}")
        return made(**content)
    except BadMessage:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadMessage(f"no message: {line[:100]!r}") from error
