"""What turns sentences into unit vectors: the built-in encoder, or a model from its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import NGRAMS, ConfigError, EncoderConfig
from trainer.storage import NotFound, StorageError, Store, open_store
from trainer.text.ngrams import Ngrams

FILES = ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json")
"""Of a model's folder in a bucket; the last may be absent."""


class Encoder(Protocol):
    """Sentences to vectors. Equal names mean equal vectors, but for rounding."""

    @property
    def name(self) -> str:
        """What it is, weights and settings included."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dim) unit vectors; zeros for an empty text."""


def open_encoder(
    config: EncoderConfig, cache_dir: Path, device: torch.device, num_texts: int = 0
) -> Encoder:
    """The encoder of a configuration; a model in a bucket is fetched into `cache_dir`.

    num_texts: about how many will be encoded.

    Raises ConfigError naming encoder.model and what is wrong with it, StorageError.
    """
    if config.model == NGRAMS:
        return Ngrams()
    try:
        from trainer.text import bert
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"encoder.model {config.model} needs {error.name}; pip install '.[train,text]', or "
            f"take the built-in encoder, {NGRAMS}"
        ) from error
    return bert.load(_folder(config.model, cache_dir), config, device, num_texts)


def encode_once(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """(len(texts), dim) vectors; a text that occurs several times is encoded once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = encoder.encode(list(places))
    picked: NDArray[np.float32] = vectors[[places[text] for text in texts]]
    return picked


def _folder(address: str, cache_dir: Path) -> Path:
    store = open_store(address)
    here = store.local("config.json")
    if here is not None:
        return here.parent
    # A model that is replaced by another of the same size is another one.
    versions = [(each.key, each.size, each.modified_at) for each in store.list()]
    told = repr((store.address, [each for each in versions if each[0] in FILES]))
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    folder = cache_dir / "encoders" / name
    for key in FILES:
        _fetch(store, key, folder / key)
    return folder


def _fetch(store: Store, key: str, path: Path) -> None:
    """Copies an object beside and renames it, so that pods of one node may do so at once."""
    try:
        size = store.size(key)
        if path.exists() and path.stat().st_size == size:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{id(path)}.draft")
        store.download(key, draft)
        draft.replace(path)
    except NotFound:
        return  # whoever needs it says so
    except StorageError as error:
        raise ConfigError(f"encoder.model cannot be read: {error}") from error
