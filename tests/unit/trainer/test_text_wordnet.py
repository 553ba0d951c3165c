"""Nouns from WordNet's own files: a tiny one with true offsets, and Debian's where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import absent
from tests.unit.trainer.wordnets import Entry, Written, write_wordnet
from trainer.config import ClassesConfig, ConfigError
from trainer.text.wordnet import WordNet

INSTALLED = Path(ClassesConfig().wordnet)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_wordnet(tmp_path_factory.mktemp("wordnet") / "tiny")


@pytest.fixture(scope="module")
def debian() -> WordNet:
    if not (INSTALLED / "data.noun").is_file():
        absent("WordNet's files are missing; apt-get install --no-install-recommends wordnet-base")
    return WordNet(INSTALLED)


def test_a_synset_with_all_its_relations(tiny: Written) -> None:
    ids = tiny.ids
    carp = WordNet(tiny.folder).synset(ids["carp"])
    assert carp is not None
    assert carp.id == ids["carp"]
    assert carp.lemmas == ("carp", "Cyprinus carpio")
    assert carp.gloss == "a large freshwater fish"
    assert carp.hypernyms == (ids["fish"],)
    assert carp.hyponyms == (ids["koi"],)
    assert carp.domains == (ids["zoology"],)
    assert carp.wholes_and_parts == (ids["family"], ids["fin"])
    instance = WordNet(tiny.folder).synset(ids["instance"])
    assert instance is not None
    assert instance.hypernyms == (ids["carp"],), "an instance is a kind"


def test_every_synset_stands_where_its_id_says(tiny: Written) -> None:
    wordnet = WordNet(tiny.folder)
    for id_ in tiny.ids.values():
        found = wordnet.synset(id_)
        assert found is not None
        assert found.id == id_


def test_the_senses_of_a_word_the_usual_first(tiny: Written) -> None:
    wordnet = WordNet(tiny.folder)
    assert [s.id for s in wordnet.senses("Carp")] == [tiny.ids["carp"], tiny.ids["carping"]]
    for spelling in ("Cyprinus carpio", "cyprinus_carpio"):
        assert [s.id for s in wordnet.senses(spelling)] == [tiny.ids["carp"]]
    assert wordnet.senses("tench") == []
    assert wordnet.senses("1") == [], "the notice is no word"


@pytest.mark.parametrize("id_", ["n00000001", "n99999999", "v00000214", "carp", "", "n0000021"])
def test_an_id_that_is_none(tiny: Written, id_: str) -> None:
    assert WordNet(tiny.folder).synset(id_) is None


def test_an_id_amid_a_synset_is_none(tiny: Written) -> None:
    at = int(tiny.ids["carp"][1:])
    assert WordNet(tiny.folder).synset(f"n{at + 1:08d}") is None


def test_the_nouns_of_some_files_in_order(tiny: Written) -> None:
    wordnet = WordNet(tiny.folder)
    assert wordnet.ids({6}) == [tiny.ids["chair"], tiny.ids["hammer"]]
    assert wordnet.ids({6, 13}) == [tiny.ids[name] for name in ("food", "chair", "hammer")]
    assert wordnet.ids(set()) == []
    assert len(wordnet.ids(set(range(30)))) == len(tiny.ids)


def test_more_than_nine_words_are_counted_in_hexadecimal(tmp_path: Path) -> None:
    words = tuple(f"word_{number}" for number in range(17))
    made = write_wordnet(tmp_path / "many", {"many": Entry(words, "much")})
    many = WordNet(made.folder).synset(made.ids["many"])
    assert many is not None
    assert many.lemmas == tuple(word.replace("_", " ") for word in words)
    assert many.gloss == "much"


def test_a_last_line_without_its_end_is_read_whole(tmp_path: Path) -> None:
    made = write_wordnet(tmp_path / "cut", {"one": Entry(("one",), "single")})
    data = made.folder / "data.noun"
    data.write_bytes(data.read_bytes().rstrip())
    one = WordNet(made.folder).synset(made.ids["one"])
    assert one is not None
    assert one.gloss == "single"


@pytest.mark.parametrize("missing", ["data.noun", "index.noun", "both"])
def test_without_wordnet_the_message_says_what_to_do(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "wordnet"
    if missing != "both":
        write_wordnet(folder)
        (folder / missing).unlink()
    with pytest.raises(ConfigError) as caught:
        WordNet(folder)
    message = str(caught.value)
    parts = (f"no WordNet in {folder}", "wordnet-base", "classes.wordnet", "classes.file")
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_debians_crane_is_the_machine_and_the_bird_is_another_sense(debian: WordNet) -> None:
    crane = debian.synset("n03126707")
    assert crane is not None
    assert crane.lemmas == ("crane",)
    assert crane.gloss.startswith("lifts and moves heavy objects; lifting tackle is suspended")
    assert crane.hypernyms == ("n03664675",)
    lifting = debian.synset("n03664675")
    assert lifting is not None
    assert lifting.lemmas[0] == "lifting device"
    senses = debian.senses("crane")
    assert len(senses) == 5
    assert {"n03126707", "n02012849"} <= {sense.id for sense in senses}
    [bird] = [sense for sense in senses if sense.id == "n02012849"]
    assert "wading bird" in bird.gloss
    assert [s.id for s in debian.senses("Tinca tinca")] == ["n01440764"]


def test_debians_nouns_can_all_be_read(debian: WordNet) -> None:
    every = debian.ids(set(range(30)))
    assert len(every) == 82115
    for id_ in every[::400]:
        found = debian.synset(id_)
        assert found is not None
        assert found.lemmas
        assert found.gloss
