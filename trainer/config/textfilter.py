"""The fields of a text filtering: what is read, how texts are encoded and judged, what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.fields import section, setting

SUMMARY_KEY = "summary.json"
"""Under a filtering's output, written last: what was found."""
NGRAMS = "ngrams"
"""The built-in encoder's name, in the place of a model's folder."""


@dataclass(frozen=True)
class TextConfig:
    """How a picture's title, description and tags become one sentence."""

    tags: bool = setting(True, "tags are read too", "Flickr's tell what titles do not")
    digits: bool = setting(
        False,
        "numbers are kept",
        "dates and counters tell nothing; where classes are numbers: true",
    )
    scripts: Literal["all", "latin"] = setting(
        "all", "words of every script, or of Latin letters alone", "drop what the encoder cannot"
    )
    most_chars: int = setting(
        4096,
        "characters of each field that are looked at",
        "longer than an encoder reads",
        unit="characters",
        least=16,
        most=1 << 20,
    )


@dataclass(frozen=True)
class ClassesConfig:
    """Where it stands what the classes mean."""

    file: str = setting(
        "",
        "address of a YAML list of classes with names, description and other meanings; empty:"
        " WordNet, by the synset ids of the dataset",
        "WebVision's and ImageNet's classes are synsets",
    )
    wordnet: str = setting(
        "/usr/share/wordnet", "folder with WordNet 3.0's data.noun and index.noun", "Debian's"
    )
    background: int = setting(
        4096,
        "other nouns of WordNet that a text may mean, beside the classes; 0: none",
        "with few classes most wrong pictures show something else",
        unit="synsets",
        least=0,
        most=82115,
    )


@dataclass(frozen=True)
class EncoderConfig:
    """What turns a sentence into a vector."""

    model: str = setting(
        "",
        "folder of a BERT-like or CLIP text model with config.json, tokenizer.json and"
        " model.safetensors (a path or s3://), or ngrams, the small one that is built in",
        "no model is everybody's",
        required=True,
    )
    pooling: Literal["auto", "mean", "cls"] = setting(
        "auto", "the mean of the tokens or the first one; auto: as the model's folder says", "its"
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "auto: bf16 where the processor multiplies it, else fp32", "4 times as fast"
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto", "auto: where a compiler is and the texts are many", "a quarter faster"
    )
    batch_tokens: int = setting(
        4096,
        "tokens of a batch in bf16, padding included; half as many in fp32",
        "the fastest on CPUs; a GPU takes 32 times as many",
        unit="tokens",
        least=64,
        most=1 << 20,
    )
    most_tokens: int = setting(
        256,
        "tokens of a text that are read; fewer where the model reads fewer",
        "what comes later tells little",
        unit="tokens",
        least=8,
        most=8192,
    )


@dataclass(frozen=True)
class JudgeConfig:
    """How vectors become a probability that the label is right."""

    neighbours: int = setting(
        0,
        "texts of the same class with which a text's score is averaged; 0: none",
        "with clear texts it blurs",
        unit="texts",
        least=0,
        most=256,
    )
    features: str = setting(
        "",
        "address of a run whose features tell which pictures are alike; empty: none",
        "needs a trained network",
    )
    picture_neighbours: int = setting(
        30,
        "with features: alike pictures of the class whose texts tell of this one too",
        "a picture's text may be mute where those of pictures like it are not",
        unit="pictures",
        least=1,
        most=256,
    )
    own_share: float = setting(
        0.5,
        "share of a text's own score in its average with neighbours",
        "half for itself",
        unit="ratio",
        least=0,
        most=1,
    )
    noise: str = setting(
        "",
        "address of a .npy of float32 by id: a network's probabilities of the labels, as launcher"
        " noise writes them; empty: texts alone",
        "needs a trained network",
    )


@dataclass(frozen=True)
class SelectConfig:
    """Which samples a hard selection keeps."""

    by: Literal["threshold", "share", "count"] = setting(
        "threshold",
        "those above a probability, a share of each class, or so many of each class",
        "classes differ in how much of them is right",
    )
    threshold: float = setting(
        0.5, "least probability", "rather right than wrong", unit="ratio", least=0, most=1
    )
    share: float = setting(
        0.6, "of each class, the most probable", "40 % are wrong", unit="ratio", above=0, most=1
    )
    count: int = setting(
        50, "of each class, the most probable", "CAPro's top 50", unit="samples", least=1
    )
    least_per_class: int = setting(
        20, "kept of each class whatever they score", "a class must not vanish", unit="samples",
        least=0,
    )  # fmt: skip
    weight_floor: float = setting(
        0.0,
        "least weight of a sample, in loss and sampling",
        "0: as probable as it is",
        unit="ratio",
        least=0,
        most=1,
    )


@dataclass(frozen=True)
class TextfilterConfig:
    """One text filtering."""

    name: str = setting("textfilter", "name in logs", "the launcher sets the job's name")
    data: str = setting(
        "", "address of the packed dataset (file:// or s3://)", "no dataset is everybody's",
        required=True,
    )  # fmt: skip
    output: str = setting(
        "", "address of the folder that everything is written to", "no folder is everybody's",
        required=True,
    )  # fmt: skip
    cache_dir: str = setting(
        "", "folder for what is fetched; empty: $TMPDIR/shards", "node-local scratch"
    )
    text: TextConfig = section(TextConfig, "how texts are prepared")
    classes: ClassesConfig = section(ClassesConfig, "what the classes mean")
    encoder: EncoderConfig = section(EncoderConfig, "what encodes texts")
    judge: JudgeConfig = section(JudgeConfig, "how they are judged")
    select: SelectConfig = section(SelectConfig, "what is kept")
