"""What each class means in words, and what else its words may mean: from WordNet, or a file.

The file is a YAML list, an entry a class in the order of the labels:

    - names: [tench, Tinca tinca]        # at least one; the first is the usual one
      description: freshwater dace-like game fish of Europe and western Asia
      not: [Tench Island in the Bismarck Sea]     # optional: other meanings
      id: n01440764                               # optional; checked against the dataset
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import ClassesConfig, ConfigError
from trainer.data.order import permutation
from trainer.storage import StorageError, open_store, split
from trainer.text.wordnet import Synset, WordNet

KEYS = {"id", "names", "description", "not"}
MOST_BELOW = 32
"""Kinds of a class that are described beside it."""
CONCRETE = frozenset({5, 6, 8, 13, 17, 18, 19, 20, 27})
"""Lexicographer files of what can be photographed: animal, artifact, body, food, object, person,
phenomenon, plant, substance. Source: the manual page lexnames(5WN)."""


@dataclass(frozen=True)
class Meaning:
    """One class in words."""

    name: str
    own: tuple[str, ...]
    """Sentences of what it means, one for each of its words; at least one."""
    others: tuple[str, ...] = ()
    """Sentences of what else its words may mean."""
    kin: frozenset[str] = frozenset()
    """Synsets that are no other meaning: the class, what is below it and just above, its parts and
    what it is part of."""


@dataclass(frozen=True)
class Meanings:
    """All classes in words, and other things that a text may be about."""

    classes: tuple[Meaning, ...]
    background: tuple[str, ...] = ()
    background_ids: tuple[str, ...] = field(default=(), repr=False)

    def excluded(self, label: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(len(background),) which of the background is kin of the class."""
        kin = self.classes[label].kin
        return np.array([id_ in kin for id_ in self.background_ids], np.bool_)


def meanings(names: Sequence[str], num_classes: int, config: ClassesConfig) -> Meanings:
    """The meanings of a dataset's classes.

    names: synset lines such as `n01440764 tench, Tinca tinca`; empty where the packer knew none.
    Raises ConfigError naming the class, or the file's line, and what to do.
    """
    if config.file:
        return Meanings(_from_file(config.file, names, num_classes))
    if not names:
        raise ConfigError(
            "the dataset names no classes (its packer found no synsets.txt); describe them in a "
            "file with classes.file"
        )
    wordnet = WordNet(Path(config.wordnet))
    classes = tuple(_from_wordnet(wordnet, line, label) for label, line in enumerate(names))
    chosen = _background(wordnet, config.background)
    return Meanings(
        classes,
        tuple(f"{each.lemmas[0]}: {each.gloss}" for each in chosen),
        tuple(each.id for each in chosen),
    )


def _from_wordnet(wordnet: WordNet, line: str, label: int) -> Meaning:
    synset = wordnet.synset(line.partition(" ")[0])
    if synset is None:
        raise ConfigError(
            f"class {label}, {line!r}, is no synset of this WordNet; ids are of WordNet 3.0, or "
            "describe the classes in a file with classes.file"
        )
    kin = {synset.id, *synset.hypernyms, *synset.wholes_and_parts} | _below(wordnet, synset)
    parents = _known(wordnet, synset.hypernyms)
    kin |= {above for parent in parents for above in parent.hypernyms}
    others = [
        f"{lemma}: {sense.gloss}"
        for lemma in synset.lemmas
        for sense in wordnet.senses(lemma)
        if sense.id not in kin
    ]
    return Meaning(
        name=synset.lemmas[0],
        own=tuple(_own(wordnet, synset, parents)),
        others=tuple(dict.fromkeys(others)),
        kin=frozenset(kin),
    )


def _own(wordnet: WordNet, synset: Synset, parents: list[Synset]) -> list[str]:
    """The gloss after each word, after the kind of thing with its domains, and those just below.

    A sentence each, since the text about a picture has one of the words, rarely all.
    """
    kinds = [parent.lemmas[0] for parent in parents]
    fields = [domain.lemmas[0] for domain in _known(wordnet, synset.domains)]
    about = f" ({', '.join(fields)})" if fields else ""
    general = f"{synset.lemmas[0]}{about}, a kind of {', '.join(kinds)}: {synset.gloss}"
    below = _known(wordnet, synset.hyponyms[:MOST_BELOW])
    return [
        *(f"{lemma}: {synset.gloss}" for lemma in synset.lemmas),
        *([general] if kinds else []),
        *(f"{each.lemmas[0]}: {each.gloss}" for each in below),
    ]


def _known(wordnet: WordNet, ids: Sequence[str]) -> list[Synset]:
    return [synset for id_ in ids if (synset := wordnet.synset(id_))]


def _below(wordnet: WordNet, synset: Synset) -> set[str]:
    found: set[str] = set()
    todo = list(synset.hyponyms)
    while todo:
        id_ = todo.pop()
        if id_ not in found:
            found.add(id_)
            below = wordnet.synset(id_)
            todo += below.hyponyms if below else ()
    return found


def _background(wordnet: WordNet, count: int) -> list[Synset]:
    """So many things that can be photographed, the same in every run.

    None with a capital: genera and persons repeat in their glosses what the classes are.
    """
    every = wordnet.ids(CONCRETE) if count else []
    found: list[Synset] = []
    for number in permutation(len(every), "background").tolist():
        synset = wordnet.synset(every[number])
        if synset and synset.lemmas[0].islower():
            found.append(synset)
        if len(found) == count:
            break
    return sorted(found, key=lambda synset: synset.id)


def _from_file(address: str, names: Sequence[str], num_classes: int) -> tuple[Meaning, ...]:
    import yaml

    try:
        folder, name = split(address)
        entries = yaml.safe_load(open_store(folder).get(name).decode())
    except StorageError as error:
        raise ConfigError(f"classes.file cannot be read: {error}") from error
    except UnicodeError as error:
        raise ConfigError(f"classes.file {address} is no text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"classes.file {address} is not valid YAML{where}") from error
    if not isinstance(entries, list) or len(entries) != num_classes:
        count = f"{len(entries)} entries" if isinstance(entries, list) else "no list"
        raise ConfigError(
            f"classes.file {address} has {count}, but the dataset has {num_classes} classes; give "
            "one entry for each, in the order of the labels"
        )
    return tuple(
        _entry(entry, f"entry {label} of classes.file {address}", names[label] if names else "")
        for label, entry in enumerate(entries)
    )


def _entry(entry: Any, where: str, line: str) -> Meaning:
    if not isinstance(entry, dict) or not set(entry) <= KEYS:
        raise ConfigError(f"{where} must have the keys names, description, not, id and no other")
    names = entry.get("names")
    if not isinstance(names, list) or not names or not all(map(_says, names)):
        raise ConfigError(f"{where} has names {names!r}, but they must be a list of words")
    description = entry.get("description") or ""
    others = entry.get("not") or []
    listed = isinstance(others, list) and all(map(_says, others))
    if not isinstance(description, str) or not listed:
        raise ConfigError(f"{where}: description must be a text, and not a list of texts")
    id_ = entry.get("id")
    if id_ and line and id_ != line.partition(" ")[0]:
        raise ConfigError(f"{where} is of {id_}, but the dataset's class there is {line!r}")
    own = tuple(f"{name}: {description}" if description else name for name in names)
    return Meaning(names[0], own, tuple(others))


def _says(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())
