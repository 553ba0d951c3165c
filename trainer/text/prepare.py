"""A picture's texts as one sentence to encode: without mark-up, addresses, file names and digits.

After CAPro (Qin et al. 2023), but words keep their case and order, and stop words stay: sentence
encoders were trained on whole sentences.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import TextConfig

# Each takes time in proportion to the text: what cannot match is passed over once, not from each of
# its characters (`++` and `*+` never give back).
_SCRIPT = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)", re.I | re.S)
_TAG = re.compile(r"<[!/?a-zA-Z][^<>]*+>")
_URL = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", re.I)
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}+@[\w-]++(?:\.[\w-]++)++", re.A)
_FILE = re.compile(r"\.(?:jpe?g|png|gif|bmp|tiff?|webp|svg|html?|php|aspx?)(?![^\W_])", re.I)
_CAMERA = re.compile(
    r"(?<![^\W_])(?:img|dsc[fn]?|pict?|p(?=\d{5})|cimg|imgp|mvc|sam)[-_]?\d{2,}+(?![^\W_])", re.I
)
_NUMBER = re.compile(r"(?<![^\W_])\d++(?:[.,:/x×-]++\d++)*+%?+([^\W_]?)", re.I)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_STEM = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

_EMPTY = (
    "a an and at by for from in is it its my of on or our the this to was with "
    "photo photos picture pictures image images img stock free royalty download wallpaper "
    "wallpapers clipart clip art thumbnail untitled description no title hd jpg file scan taken"
)
_EMPTY_WORDS = frozenset(_EMPTY.split())
"""Words that tell nothing of what is shown."""


@dataclass(frozen=True)
class Prepared:
    """What is encoded of a picture's texts."""

    text: str
    """Empty where there is nothing to encode."""
    num_words: int
    """Different words that may tell what is shown."""
    num_query_words: int
    """Of these, words of the query that brought the picture."""

    @property
    def tells(self) -> bool:
        """Whether it has a word that the query has not: else it is only the query's echo."""
        return self.num_words > self.num_query_words


def prepare(record: Mapping[str, Any], config: TextConfig) -> Prepared:
    """The texts of one line of a shard's texts; every field may be missing or of another type."""
    title = clean(_text(record.get("title")), config)
    description = clean(_text(record.get("description")), config)
    tags = _tags(record.get("tags"), config.most_chars) if config.tags else []
    parts = [title, description]
    known = {word.lower() for part in parts for word in _WORD.findall(part)}
    cleaned = [clean(tag, config) for tag in tags]
    fresh = [tag for tag in cleaned if {word.lower() for word in _WORD.findall(tag)} - known]
    parts.append(", ".join(dict.fromkeys(fresh)))
    text = ". ".join(part.rstrip(" .") for part in _different(parts))
    query = stems(_text(record.get("query"))[: config.most_chars])
    words = stems(text)
    return Prepared(text, len(words), len(words & query))


def clean(text: str, config: TextConfig) -> str:
    """One field as plain words. At most config.most_chars of it are looked at."""
    text = html.unescape(html.unescape(text[: config.most_chars]))  # crawls escape twice
    text = unicodedata.normalize("NFKC", _printable(text))
    text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    text = _FILE.sub(" ", _MAIL.sub(" ", _URL.sub(" ", text)))
    if config.scripts == "latin":
        text = _bare(_WORD.sub(lambda word: word[0] if is_latin(word[0]) else " ", text))
    text = _CAMERA.sub(" ", text)
    if not config.digits:  # a number that is part of a word is one: 3D, 35mm
        text = _NUMBER.sub(lambda found: found[0] if found[1] else " ", text)
    text = text.replace("_", " ")
    return re.sub(r"\s+", " ", text).strip(" \t-\u2013\u2014|,;:/*#")


def _printable(text: str) -> str:
    """Without control characters; those inside words, as soft hyphens, leave no gap."""
    if text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    kind = unicodedata.category(char)
    if kind == "Cf" and char != "\u200b":  # which has no width, but parts words
        return ""
    return " " if kind[0] == "C" else char


def _bare(text: str) -> str:
    """Without accents and vowel signs that are characters of their own."""
    if text.isascii():
        return text
    return "".join(char for char in text if unicodedata.category(char)[0] != "M")


def is_latin(word: str) -> bool:
    """Whether all letters of the word are Latin ones."""
    return all("LATIN" in unicodedata.name(char, "") for char in word if char.isalpha())


def stems(text: str) -> set[str]:
    """The telling words of a text, in lower case; a plural has the stem of its singular."""
    words = (word.lower() for word in _STEM.findall(_bare(text)))
    return {_stem(word) for word in words if _may_tell(word)}


def _may_tell(word: str) -> bool:
    return word not in _EMPTY_WORDS and (len(word) > 1 or word.isdecimal())


def _stem(word: str) -> str:
    """Without the endings in which plurals differ: tench(es), hors(e, es), pon(y, ies)."""
    word = word.removesuffix("'s").removesuffix("\u2019s")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def _different(parts: Iterable[str]) -> list[str]:
    """Parts with a word, each once; one that stands in a part before it is left out."""
    kept: list[str] = []
    for part in parts:
        if _WORD.search(part) and not any(part.lower() in other.lower() for other in kept):
            kept.append(part)
    return kept


def _text(value: Any) -> str:
    """A text, or all texts of a list or an object; what is no text says nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return ""
    return " ".join(part for part in value if isinstance(part, str))


def _tags(value: Any, most_chars: int) -> list[str]:
    """A list, or one string with commas or spaces between; so many characters of all of them."""
    if isinstance(value, list):
        tags = [_text(tag) for tag in value]
    else:
        text = _text(value)[:most_chars]
        tags = text.split(",") if "," in text else text.split()
    tags = [tag for tag in tags if tag.strip()]
    ends = itertools.accumulate(map(len, tags))
    return [tag for tag, end in zip(tags, ends, strict=True) if end <= most_chars]
