"""Titles, descriptions and tags of the demo's pictures: some betray a wrong label, many nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

WORDS = (
    ("zero", "0", "nought"),
    ("one", "1", "unity"),
    ("two", "2", "deuce"),
    ("three", "3", "trio"),
    ("four", "4", "quartet"),
    ("five", "5", "quintet"),
    ("six", "6", "half a dozen"),
    ("seven", "7", "heptad"),
    ("eight", "8", "octet"),
    ("nine", "9", "niner"),
)
"""Names of each class, the first its usual one."""

MUTE_SHARE = 0.35
"""Titles that name no class."""

TRUE_SHARE = 0.7
"""Of the telling titles of wrong pictures: these name what is shown, the rest repeat the query."""

MUTE_TITLES = ("", "untitled", "IMG_{number}", "Stock photo {number}", "scan {number}", "thumbnail")
TITLES = ("{name}", "the digit {name}", "photo of a {name}", "{name} | clip art", "my {name}, 1997")
DESCRIPTIONS = (
    "",
    "",
    "no description",
    "Royalty-free picture, all sizes.",
    "A {name} written by hand.",
    "Free download: {name} <b>vector</b> https://example.com/{number}",
)
TAGS = ("digit", "number", "handwriting", "paper", "ink", "macro", "2018", "nikon")


@dataclass(frozen=True)
class Texts:
    """What the web page says of a picture; any of it may be empty."""

    title: str
    description: str
    tags: tuple[str, ...]
    joined: bool
    """Tags as one string with spaces instead of a list: the crawl has both."""

    def fields(self, source: str) -> Iterator[tuple[str, object]]:
        """The metadata fields as (key, value); only Flickr has tags."""
        yield "title", self.title
        yield "description", self.description
        if source == "flickr":
            yield "tags", " ".join(self.tags) if self.joined else list(self.tags)


def describe(query: str, label: int, truth: int, rng: Generator) -> Texts:
    """Texts for a picture that `query` (of class `label`) brought and that shows `truth`."""
    number = int(rng.integers(1000, 9999))
    tells = truth if rng.random() < TRUE_SHARE else label
    name = query if tells != truth else _one_of(WORDS[truth], rng)
    titles = MUTE_TITLES if rng.random() < MUTE_SHARE else TITLES
    title = _one_of(titles, rng).format(name=name, number=number)
    description = _one_of(DESCRIPTIONS, rng).format(name=name, number=number)
    tags = rng.choice(TAGS, rng.integers(0, 4), replace=False).tolist()
    if rng.random() < 0.4:
        tags.insert(0, name)
    return Texts(title, description, tuple(tags), joined=bool(rng.random() < 0.3))


def _one_of(choices: tuple[str, ...], rng: Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
