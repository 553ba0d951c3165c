"""From a job's spec to the objects that carry it, and their check. Pure."""

from launcher.render.check import problems
from launcher.render.objects import Object, render
from launcher.render.text import to_json, to_yaml

__all__ = ["Object", "problems", "render", "to_json", "to_yaml"]
