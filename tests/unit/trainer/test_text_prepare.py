"""What of a picture's texts is encoded, and that no text can hold it up or break it."""

from __future__ import annotations

import json
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainer.config import TextConfig
from trainer.text.prepare import Prepared, clean, prepare, stems

UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
ALL, LATIN = TextConfig(), TextConfig(scripts="latin")

CLEANED = [
    ("Tench &amp; carp", "Tench & carp"),
    ("Tench &amp;amp; carp &amp;#39;s", "Tench & carp 's"),
    ("a <b>big</b> tench<br/>here", "a big tench here"),
    ("&lt;p&gt;a tench&lt;/p&gt;", "a tench"),
    ("before <script>var fish = '<b>';</script> after", "before after"),
    ("before <SCRIPT src=x>var fish = 1", "before"),
    ("before <style>p { }</style> after <!-- no --> end", "before after end"),
    ("I <3 fish, 2 < 3", "I < fish, <"),
    ("see https://a.example/tench_1?x=y#z or www.fish.example now", "see or now"),
    ("mail me.too+x@fish-net.example.org. Thanks", "mail . Thanks"),
    ("tench.jpg Lake.HTML big.jpeg_small", "tench Lake big small"),
    ("the .htm of a.jpgx", "the of a.jpgx"),
    ("IMG_1234 DSC0042 dscn-0007 P1010042 my_DSC0042_edit a", "my edit a"),
    ("IMG_20120304_1234.jpg", ""),
    ("Uncle Sam 1976, a P51 and sample_12", "Uncle Sam , a P51 and sample"),
    ("3D 35mm R2-D2 B52 22nd n01440764", "3D 35mm R2-D2 B52 22nd n01440764"),
    ("12 of 1,234.5 on 2012-03-04, 12:30, 50%, 4x4, 10×15, 800x600px", "of on , , , , , 800x600px"),
    ("3,Tench 10-year old", "Tench -year old"),
    ("big_fish__here", "big fish here"),
    ("a\x00b\x1b[0m\ttab\nline\u2028end", "a b [0m tab line end"),
    ("tin\u00adca\u200b tin\u200dca \ufefftench", "tinca tinca tench"),
    ("\ud800 lone", "lone"),
    ("\uff34ench \ufb01sh", "Tench fish"),
    (" - | tench, ; : ", "tench"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "cleaned"), CLEANED)
def test_a_field_as_plain_words(text: str, cleaned: str) -> None:
    assert clean(text, ALL) == cleaned


def test_other_scripts_are_kept_or_dropped() -> None:
    text = "Tench, 丁鱥 лінь हिन्दी Schleie, poisson-chat naïve cafe\u0301"
    assert clean(text, ALL).startswith("Tench, 丁鱥 лінь")
    assert clean(text, LATIN) == "Tench, Schleie, poisson-chat naïve café"
    assert stems("हिन्दी") == {"हनद"}, "vowel signs do not part a word"


def test_title_description_and_tags_each_say_a_thing_once() -> None:
    record = {"title": "A tench.", "description": "a TENCH", "tags": ["lake", "Tench", "Lake", 3]}
    assert prepare(record, ALL).text == "A tench. lake, Lake"
    assert prepare(record, TextConfig(tags=False)).text == "A tench"
    longer = {"title": "tench", "description": "a tench in a lake"}
    assert prepare(longer, ALL).text == "tench. a tench in a lake"


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (["big fish", "lake"], "big fish, lake"),
        ("big fish, lake,,", "big fish, lake"),
        ("fish lake", "fish, lake"),
        ([{"raw": "big fish"}, None, ["lake"], "", 4], "big fish, lake"),
        ({"tag": "lake"}, "lake"),
        (7, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_tags_are_a_list_or_a_text(tags: Any, text: str) -> None:
    assert prepare({"tags": tags}, ALL).text == text


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"title": None, "description": "", "tags": []},
        {"title": 7, "description": float("nan"), "tags": True},
        {"title": "...", "description": "2012", "tags": "!!! ???"},
        {"title": "https://a.example/b.jpg"},
    ],
)
def test_of_no_words_nothing_is_encoded(record: dict[str, Any]) -> None:
    assert prepare(record, ALL) == Prepared("", 0, 0)
    assert not prepare(record, ALL).tells


def test_a_field_of_another_type_gives_the_texts_it_holds() -> None:
    assert prepare({"title": ["a tench", 3, ["x"]]}, ALL).text == "a tench"
    assert prepare({"title": {"_content": "a tench"}}, ALL).text == "a tench"


@pytest.mark.parametrize(
    ("query", "title", "tells"),
    [
        ("tench", "Tench", False),
        ("tench", "Photo of two tenches, IMG_1234.jpg", True),
        ("tench", "A photo of the tenches", False),
        ("tench+Tinca+tinca", "tench (Tinca tinca)", False),
        ("horse", "Horses' picture", False),
        ("glasses", "glass", False),
        ("pony", "ponies", False),
        ("black-footed ferret", "Black footed ferrets", False),
        ("tench", "", False),
        ("", "tench", True),
        (None, "tench in a lake", True),
    ],
)
def test_a_text_tells_what_its_query_has_not(query: str | None, title: str, tells: bool) -> None:
    assert prepare({"query": query, "title": title}, ALL).tells == tells


def test_telling_words_are_counted_once_each() -> None:
    found = prepare({"query": "tench", "title": "Tench, tenches and a carp of the lake"}, ALL)
    assert (found.num_words, found.num_query_words) == (3, 1)


UNITS = ["<", "&", "_", "a@", "<script ", "&amp;", "1.", ".", "a-", "<a", "www.", "鱼", "\ufdfa"]
UNITS += ["img1", "http://", "'", "<!--", "&#", "x1", "@a.", ".jpg", "1 ", " ", "\u0301", "1x", "%"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(UNITS), min_size=1, max_size=4))
@example(["a@"])
@example(["<script "])
@example(["1."])
def test_long_texts_take_time_in_proportion(units: list[str]) -> None:
    """A cubic expression would take minutes for 20 KB, a square one seconds."""
    unit = "".join(units)
    text = (unit * 20_000)[:20_000]
    config = TextConfig(most_chars=20_000)
    began = time.process_time()
    prepare({"title": text, "description": text, "tags": text, "query": text}, config)
    assert time.process_time() - began < 2.0


def test_of_100_kb_the_beginning_is_looked_at() -> None:
    words = "tench lake " * 10_000
    record = {
        "title": words,
        "description": words[::-1],
        "tags": [words, *["carp"] * 9],
        "query": "",
    }
    found = prepare(record, TextConfig(most_chars=64))
    assert len(found.text) <= 3 * 64
    assert found.text.startswith("tench lake")
    many = prepare({"tags": [f"t{'abcdefghij'[i % 10] * (i // 10 + 1)}" for i in range(999)]}, ALL)
    assert 3000 < len(many.text.replace(", ", "")) <= 4096


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.sampled_from(["title", "description", "tags", "query"]), VALUES)


@UNHURRIED
@given(RECORDS, st.sampled_from([ALL, LATIN, TextConfig(most_chars=16)]))
def test_any_json_has_an_outcome(record: dict[str, Any], config: TextConfig) -> None:
    for given_ in (record, json.loads(json.dumps(record))):
        found = prepare(given_, config)
        assert not [char for char in found.text if unicodedata.category(char)[0] == "C"]
        assert 0 <= found.num_query_words <= found.num_words
        assert found.text.encode("utf-8").strip() == found.text.encode("utf-8")


PLAIN = st.text(
    st.characters(exclude_categories=("M",)) | st.sampled_from("a1._-@ x%"), max_size=40
)


@UNHURRIED
@given(PLAIN, st.sampled_from([ALL, LATIN]))
def test_cleaning_twice_is_cleaning_once(text: str, config: TextConfig) -> None:
    """Of plain text. Mark-up escaped three times is unescaped twice, as a crawl may have done."""
    if set("&<>") & set(unicodedata.normalize("NFKC", text)):
        return
    once = clean(text, config)
    assert clean(once, config) == once
