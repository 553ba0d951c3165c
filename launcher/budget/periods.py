"""Spans of a budget: for good, or each day, week, month, quarter or year from an anchor, in UTC."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Every = Literal["once", "day", "week", "month", "quarter", "year"]
_MONTHS: dict[str, int] = {"month": 1, "quarter": 3, "year": 12}
_DAYS: dict[str, int] = {"day": 1, "week": 7}


@dataclass(frozen=True)
class Period:
    """From `begin_ms` up to, without, `end_ms`; milliseconds since 1970."""

    begin_ms: int
    end_ms: int


@dataclass(frozen=True)
class Calendar:
    """When a budget begins anew. `once`: never; `end` ends it for good, None leaves it open."""

    every: Every
    anchor: datetime
    end: datetime | None = None

    def __post_init__(self) -> None:
        for name, moment in (("anchor", self.anchor), ("end", self.end)):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name} {moment.isoformat()} names no time zone; write it with Z")
        if self.end is not None and self.end <= self.anchor:
            raise ValueError(f"the end {self.end.isoformat()} is not after the begin")

    def at(self, moment_ms: int) -> Period | None:
        """The period that holds a moment; None before the anchor and after the end."""
        moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
        if moment < self.anchor or (self.end is not None and moment >= self.end):
            return None
        if self.every == "once":
            return Period(_ms(self.anchor), _ms(self.end) if self.end else 1 << 62)
        number = self._number(moment)
        begin, end = self._start(number), self._start(number + 1)
        if self.end is not None:
            end = min(end, self.end)
        return Period(_ms(begin), _ms(end))

    def _number(self, moment: datetime) -> int:
        """How many periods have begun before, after the first."""
        anchor = self.anchor.astimezone(UTC)
        if days := _DAYS.get(self.every):
            return (moment - anchor) // timedelta(days=days)
        months = (moment.year - anchor.year) * 12 + moment.month - anchor.month
        number = months // _MONTHS[self.every]
        return number if self._start(number) <= moment else number - 1

    def _start(self, number: int) -> datetime:
        anchor = self.anchor.astimezone(UTC)
        if days := _DAYS.get(self.every):
            return anchor + timedelta(days=days * number)
        months = anchor.month - 1 + _MONTHS[self.every] * number
        year, month = anchor.year + months // 12, months % 12 + 1
        # An anchor on the 31st begins short months on their last day.
        day = min(anchor.day, calendar.monthrange(year, month)[1])
        return anchor.replace(year=year, month=month, day=day)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
