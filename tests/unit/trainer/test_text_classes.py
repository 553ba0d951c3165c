"""What classes mean in words: from a tiny WordNet, or from a file and what is refused of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.trainer.wordnets import Written, write_wordnet
from trainer.config import ClassesConfig, ConfigError
from trainer.text.classes import Meaning, meanings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_wordnet(tmp_path_factory.mktemp("wordnet") / "tiny")


def from_wordnet(tiny: Written, *names: str, background: int = 100) -> Any:
    lines = [f"{tiny.ids[name]} {name}" for name in names]
    config = ClassesConfig(wordnet=str(tiny.folder), background=background)
    return meanings(lines, len(lines), config)


def test_a_class_is_told_by_each_word_by_its_kind_and_by_what_is_below(tiny: Written) -> None:
    [carp] = from_wordnet(tiny, "carp").classes
    assert carp.name == "carp"
    assert carp.own == (
        "carp: a large freshwater fish",
        "Cyprinus carpio: a large freshwater fish",
        "carp (zoology), a kind of fish: a large freshwater fish",
        "koi: a coloured carp",
    )
    assert carp.others == ("carp: persistent petty criticism",)


def test_a_class_without_kind_has_its_words_alone(tiny: Written) -> None:
    [entity] = from_wordnet(tiny, "entity").classes
    assert entity.own[0] == "entity: that which is"
    assert not [sentence for sentence in entity.own if "a kind of" in sentence]
    assert entity.others == ()


def test_kin_is_no_other_meaning(tiny: Written) -> None:
    ids = tiny.ids
    [carp] = from_wordnet(tiny, "carp").classes
    below, above = {"koi", "ghost"}, {"fish", "being"}
    assert carp.kin == {ids[name] for name in {"carp", "family", "fin"} | below | above}
    [fish] = from_wordnet(tiny, "fish").classes
    assert fish.others == ("fish: flesh of fish as food",)
    assert ids["ghost"] in fish.kin, "far below"


def test_the_background_has_no_capitals_and_none_of_the_classes_kin(tiny: Written) -> None:
    found = from_wordnet(tiny, "carp", "chair")
    told = dict(zip(found.background_ids, found.background, strict=True))
    # What can be photographed: not entity, carping, family, zoology; no names in capitals.
    names = ("being", "fish", "food", "carp", "koi", "ghost", "fin", "chair", "hammer")
    assert sorted(told) == sorted(tiny.ids[name] for name in names)
    assert told[tiny.ids["hammer"]] == "hammer: a tool for nails"
    assert list(found.background_ids) == sorted(found.background_ids)
    left = [
        [name for name in names if tiny.ids[name] not in excluded]
        for excluded in (
            {found.background_ids[i] for i in found.excluded(label).nonzero()[0]}
            for label in (0, 1)
        )
    ]
    assert left == [["food", "chair", "hammer"], [name for name in names if name != "chair"]]


def test_the_background_is_the_same_in_every_run_and_of_the_size_asked(tiny: Written) -> None:
    some = from_wordnet(tiny, "carp", background=4)
    assert len(some.background) == 4
    assert some == from_wordnet(tiny, "carp", background=4)
    assert set(some.background) < set(from_wordnet(tiny, "carp").background)
    assert from_wordnet(tiny, "carp", background=0).background == ()


def test_what_wordnet_does_not_know_is_named(tiny: Written, tmp_path: Path) -> None:
    config = ClassesConfig(wordnet=str(tiny.folder))
    lines = [f"{tiny.ids['carp']} carp", "n00000007 tench, Tinca tinca"]
    refused(lines, 2, config, "class 1, 'n00000007 tench, Tinca tinca'", "3.0", "classes.file")
    refused(["tench"], 1, config, "class 0, 'tench'", "classes.file")
    refused([], 3, config, "names no classes", "synsets.txt", "classes.file")
    gone = ClassesConfig(wordnet=str(tmp_path / "gone"))
    refused(lines, 2, gone, f"no WordNet in {tmp_path}/gone", "wordnet-base")


GOOD = [
    {"names": ["tench", "Tinca tinca"], "description": "a fish", "not": ["Tench Island"]},
    {"names": ["chair"], "id": "n02", "description": None},
]


def written(folder: Path, content: object) -> ClassesConfig:
    path = folder / "classes.yaml"
    path.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    return ClassesConfig(file=str(path), wordnet="/nowhere")


def test_a_file_tells_without_wordnet(tmp_path: Path) -> None:
    for lines in (["n01 tench", "n02 chair"], []):
        found = meanings(lines, 2, written(tmp_path, GOOD))
        assert found.classes == (
            Meaning("tench", ("tench: a fish", "Tinca tinca: a fish"), ("Tench Island",)),
            Meaning("chair", ("chair",)),
        )
        assert found.background == ()
        assert len(found.excluded(0)) == 0


def entry(**more: Any) -> list[dict[str, Any]]:
    return [{**GOOD[0], **more}, GOOD[1]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (GOOD[:1], ["has 1 entries", "the dataset has 2 classes", "order of the labels"]),
        ({"tench": "a fish"}, ["has no list", "2 classes"]),
        (b"", ["has no list"]),
        (b"- names: [tench\n- names: [", ["is not valid YAML", "in line"]),
        (b"\xff\xfe\x00", ["is no text in UTF-8"]),
        (b"- names: \x07", ["is not valid YAML"]),
        ([GOOD[0], "chair"], ["entry 1", "must have the keys"]),
        (entry(name="x"), ["entry 0", "must have the keys"]),
        (entry(names=[]), ["entry 0", "names []", "a list of words"]),
        (entry(names="tench"), ["entry 0", "names 'tench'", "a list of words"]),
        (entry(names=[False]), ["entry 0", "names [False]", "a list of words"]),
        (entry(names=["tench", " "]), ["entry 0", "names ['tench', ' ']", "a list of words"]),
        ([{}, GOOD[1]], ["entry 0", "names None"]),
        (entry(description=["a"]), ["entry 0", "description must be a text"]),
        (entry(**{"not": "an island"}), ["entry 0", "not a list of texts"]),
        (entry(**{"not": [{"a": 1}]}), ["entry 0", "not a list of texts"]),
        (entry(id="n09"), ["entry 0", "is of n09", "'n01 tench'"]),
        (entry(id=1), ["entry 0", "is of 1", "'n01 tench'"]),
    ],
    ids=str,
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: object, parts: list[str]) -> None:
    config = written(tmp_path, content)
    refused(["n01 tench", "n02 chair"], 2, config, f"{tmp_path}/classes.yaml", *parts)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = ClassesConfig(file=str(tmp_path / "gone.yaml"))
    refused([], 2, config, "classes.file cannot be read", "gone.yaml")


def refused(names: list[str], num_classes: int, config: ClassesConfig, *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        meanings(names, num_classes, config)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message
