"""WordNet's nouns from its own files, such as Debian's wordnet-base: what a synset id means.

WebVision's and ImageNet's ids are `n` and the byte offset of the synset in WordNet 3.0's data.noun.
Format: the manual page wndb(5WN). nltk does not read that package (it wants a lexnames file, and
only below its own data folders), wn reads no such files at all.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.config import ConfigError

_ID = re.compile(r"n(\d{8})")
_HYPERNYM, _HYPONYM, _DOMAIN = ("@", "@i"), ("~", "~i"), (";c", ";u", ";r")
_WHOLES_AND_PARTS = ("#m", "#s", "#p", "%m", "%s", "%p")


@dataclass(frozen=True)
class Synset:
    """One meaning. Relations are synset ids, nouns only."""

    id: str
    """As `n03126707`."""
    lemmas: tuple[str, ...]
    """Its words, the usual first, with spaces."""
    gloss: str
    """Definition, without examples."""
    hypernyms: tuple[str, ...]
    hyponyms: tuple[str, ...]
    domains: tuple[str, ...]
    wholes_and_parts: tuple[str, ...]
    """What it is a member, part or substance of, and what is one of it."""


class WordNet:
    """The nouns of a WordNet 3.0 folder. Takes 20 MB; a synset is parsed when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where the folder has no such files."""
        try:
            self._data = (folder / "data.noun").read_bytes()
            self._words = (folder / "index.noun").read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"no WordNet in {folder} ({error}); install Debian's wordnet-base, name a folder "
                "that has data.noun and index.noun with classes.wordnet, or describe the classes "
                "in a file of your own with classes.file"
            ) from error

    def synset(self, id_: str) -> Synset | None:
        """The synset of an id such as n03126707; None where this WordNet has none."""
        found = _ID.fullmatch(id_)
        if found is None:
            return None
        start = int(found[1])
        end = self._data.find(b"\n", start)
        line = self._data[start:] if end < 0 else self._data[start:end]
        if not line.startswith(found[1].encode() + b" "):
            return None
        return _parse(line.decode("utf-8", "replace"))

    def senses(self, word: str) -> list[Synset]:
        """All meanings of a noun, the most frequent first."""
        fields = self._senses.get(word.lower().replace(" ", "_"), "").split()
        # lemma pos synset_cnt p_cnt [ptr...] sense_cnt tagsense_cnt offset [offset...]
        count = int(fields[2]) if fields else 0
        found = (self.synset(f"n{offset}") for offset in fields[len(fields) - count :])
        return [synset for synset in found if synset]

    def ids(self, files: Set[int]) -> list[str]:
        """The ids of all nouns of these lexicographer files, in the order of the file."""
        # A copyright notice stands at the top, its lines begin with blanks.
        heads = (line[:11] for line in self._data.split(b"\n") if line[:1].isdigit())
        return [f"n{head[:8].decode()}" for head in heads if int(head[9:11]) in files]

    @cached_property
    def _senses(self) -> dict[str, str]:
        """The line of each word."""
        lines = (line for line in self._words.splitlines() if not line.startswith(" "))
        return {line.partition(" ")[0]: line for line in lines}


def _parse(line: str) -> Synset:
    """`offset file type w_cnt word lex_id [...] p_cnt [symbol offset pos nn ...] | gloss`"""
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    num_words = int(fields[3], 16)
    words = fields[4 : 4 + 2 * num_words : 2]
    rest = fields[5 + 2 * num_words :]
    related = [(rest[i], rest[i + 1]) for i in range(0, len(rest) - 3, 4) if rest[i + 2] == "n"]

    def by(symbols: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"n{offset}" for symbol, offset in related if symbol in symbols)

    return Synset(
        f"n{fields[0]}",
        tuple(word.replace("_", " ") for word in words),
        gloss.split('; "')[0].strip(),
        by(_HYPERNYM),
        by(_HYPONYM),
        by(_DOMAIN),
        by(_WHOLES_AND_PARTS),
    )
