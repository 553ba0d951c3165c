"""A tiny WordNet for tests, in the format of the manual page wndb(5WN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NOTICE = "  1 This stands for the copyright notice, whose lines begin with blanks.  \n" * 3


@dataclass(frozen=True)
class Entry:
    """One synset to write."""

    words: tuple[str, ...]
    """With underscores, the usual one first."""
    gloss: str
    above: tuple[str, ...] = ()
    """Names of its hypernyms."""
    related: tuple[tuple[str, str], ...] = ()
    """Other relations, as (`#p`, name)."""
    lexnames: int = 5
    """Number of its lexicographer file; 5 is of animals."""


ANIMALS = {
    "entity": Entry(("entity",), "that which is", lexnames=3),
    "being": Entry(("being", "organism"), "a living thing", ("entity",)),
    "fish": Entry(("fish",), "a cold-blooded animal", ("being",)),
    "food": Entry(("fish",), 'flesh of fish as food; "we had fish"', ("entity",), lexnames=13),
    "carp": Entry(
        ("carp", "Cyprinus_carpio"),
        'a large freshwater fish; "carp thrive in ponds"; "they are eaten"',
        ("fish",),
        (("#m", "family"), ("%p", "fin"), (";c", "zoology"), ("+", "entity")),
    ),
    "koi": Entry(("koi", "nishikigoi"), "a coloured carp", ("carp",)),
    "ghost": Entry(("ghost_koi",), "a pale koi", ("koi",)),
    "carping": Entry(("carp", "nagging"), "persistent petty criticism", ("entity",), lexnames=10),
    "fin": Entry(("fin",), "an organ for swimming", ("entity",), lexnames=8),
    "family": Entry(("Cyprinidae",), "a family of fishes", ("entity",), lexnames=14),
    "genus": Entry(("Cyprinus",), "type genus of carps", ("entity",)),
    "zoology": Entry(("zoology",), "the study of animals", ("entity",), lexnames=9),
    "chair": Entry(("chair",), "a seat for one person", ("entity",), lexnames=6),
    "hammer": Entry(("hammer",), "a tool for nails", ("entity",), lexnames=6),
    "instance": Entry(("Bismarck",), "a carp of that name", related=(("@i", "carp"),)),
}
"""Of `carp` there is a second sense, of `fish` too."""


@dataclass
class Written:
    """The folder, and each synset's id by its name."""

    folder: Path
    ids: dict[str, str] = field(default_factory=dict)


def write_wordnet(folder: Path, entries: Mapping[str, Entry] = ANIMALS) -> Written:
    """data.noun, whose synsets begin at the byte that their id says, and index.noun."""
    folder.mkdir(parents=True)
    blank = dict.fromkeys(entries, 0)
    start, offsets = len(NOTICE.encode()), {}
    for name in entries:  # offsets have eight digits, so lengths do not depend on them
        offsets[name] = start
        start += len(_line(name, entries, blank))
    lines = [_line(name, entries, offsets) for name in entries]
    (folder / "data.noun").write_bytes(NOTICE.encode() + b"".join(lines))
    senses: dict[str, list[int]] = {}
    for name, entry in entries.items():
        for word in entry.words:
            senses.setdefault(word.lower(), []).append(offsets[name])
    index = [
        f"{word} n {len(found)} 2 @ ~ {len(found)} 1 {' '.join(f'{at:08d}' for at in found)}  \n"
        for word, found in sorted(senses.items())
    ]
    (folder / "index.noun").write_text(NOTICE + "".join(index))
    return Written(folder, {name: f"n{at:08d}" for name, at in offsets.items()})


def _line(name: str, entries: Mapping[str, Entry], offsets: Mapping[str, int]) -> bytes:
    entry = entries[name]
    pointers = [("@", above) for above in entry.above]
    pointers += [("~", other) for other, below in entries.items() if name in below.above]
    pointers += entry.related
    words = " ".join(f"{word} {number:x}" for number, word in enumerate(entry.words))
    # A relation to a verb has the same offsets in another file.
    told = "".join(f"{symbol} {offsets[other]:08d} n 0000 " for symbol, other in pointers)
    told += f"+ {offsets[name]:08d} v 0101 "
    return (
        f"{offsets[name]:08d} {entry.lexnames:02d} n {len(entry.words):02x} {words} "
        f"{len(pointers) + 1:03d} {told}| {entry.gloss}  \n"
    ).encode()
