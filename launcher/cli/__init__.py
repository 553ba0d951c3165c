"""The command line: one module for each group of verbs; parse, call, print, no logic."""

from launcher.cli.main import app, main

__all__ = ["app", "main"]
