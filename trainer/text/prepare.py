"""A picture's texts as one sentence to encode: without mark-up, addresses, file names and digits.

After CAPro (Qin et al. 2023), but words keep their case and order, and stop words stay: sentence
encoders were trained on whole sentences.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config import TextConfig

_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.I | re.S)
_TAG = re.compile(r"<[!/?a-zA-Z][^<>]*>")
_URL = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+|\S+@\S+\.\w+", re.I)
_FILE = re.compile(r"\.(?:jpe?g|png|gif|bmp|tiff?|webp|svg|html?|php|aspx?)\b", re.I)
_CAMERA = re.compile(r"\b(?:img|dsc[fn]?|pict?|p|dscn|cimg|imgp|mvc|sam)[-_ ]?\d{2,}\b", re.I)
_NUMBER = re.compile(r"(?<![^\W\d_])\d[\d.,:/x×%-]*(?![^\W\d_])", re.I)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_LATIN = re.compile(r"[^\W\d_]")

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
    tags = [clean(tag, config) for tag in _tags(record.get("tags"))] if config.tags else []
    parts = [title, description]
    known = {word.lower() for part in parts for word in _WORD.findall(part)}
    fresh = [tag for tag in tags if {word.lower() for word in _WORD.findall(tag)} - known]
    parts.append(", ".join(dict.fromkeys(fresh)))
    text = ". ".join(part.rstrip(" .") for part in _different(parts))
    query = stems(_text(record.get("query")))
    words = stems(text)
    return Prepared(text, len(words), len(words & query))


def clean(text: str, config: TextConfig) -> str:
    """One field as plain words. At most config.most_chars of it are looked at."""
    text = html.unescape(html.unescape(text[: config.most_chars]))  # crawls escape twice
    text = unicodedata.normalize("NFKC", text)
    text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    text = _FILE.sub("", _URL.sub(" ", text))
    text = _CAMERA.sub(" ", text)
    if not config.digits:
        text = _NUMBER.sub(" ", text)
    text = "".join(
        char if unicodedata.category(char)[0] != "C" else " " for char in text.replace("_", " ")
    )
    if config.scripts == "latin":
        text = _WORD.sub(lambda word: word[0] if is_latin(word[0]) else " ", text)
    return re.sub(r"\s+", " ", text).strip(" \t-\u2013\u2014|,;:/*#")


def is_latin(word: str) -> bool:
    """Whether all letters of the word are Latin ones."""
    return all("LATIN" in unicodedata.name(char, "") for char in word if _LATIN.match(char))


def stems(text: str) -> set[str]:
    """The telling words of a text, in lower case and without a plural's ending."""
    words = (word.lower() for word in _WORD.findall(text))
    return {_singular(word) for word in words if _may_tell(word)}


def _may_tell(word: str) -> bool:
    return word not in _EMPTY_WORDS and (len(word) > 1 or word.isdecimal())


def _singular(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("\u2019s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _different(parts: Iterable[str]) -> list[str]:
    """Parts that say something, each once; one that another holds is left out."""
    kept: list[str] = []
    for part in parts:
        if part and not any(part.lower() in other.lower() for other in kept):
            kept.append(part)
    return kept


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        " ".join(map(str, value))
        if isinstance(value, Sequence | Mapping) and not isinstance(value, str)
        else str(value)
    )


def _tags(value: Any) -> list[str]:
    """A list, or one string with commas or spaces between."""
    if isinstance(value, list):
        return [str(tag) for tag in value if tag]
    text = _text(value)
    return [tag for tag in (text.split(",") if "," in text else text.split()) if tag.strip()]
