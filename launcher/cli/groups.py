"""Groups of verbs in which one is meant where none is named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

RUN = "run"
"""The verb that is meant."""


class RunsByDefault(TyperGroup):
    """`launcher textfilter --data ...` means `launcher textfilter run --data ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        helped = bool(args) and args[0] in ctx.help_option_names
        if args and not helped and args[0] not in self.commands:
            args = [RUN, *args]
        return super().parse_args(ctx, args)
