"""Folders of tiny random text models for tests, as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "tench",
    "carp",
    "fish",
    "lake",
    "in",
    "the",
    "big",
]
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
}
CLIP = {**SMALL, "projection_dim": 8, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def bert(**more: Any) -> transformers.BertConfig:
    return transformers.BertConfig(**(SMALL | more))


def write_model(
    folder: Path, kind: type[transformers.PreTrainedModel], config: Any, *, pooling: Any = None
) -> Path:
    """The folder of a model with weights of seed 0. pooling: what 1_Pooling/config.json holds."""
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    write_tokenizer(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def write_tokenizer(folder: Path) -> None:
    """[CLS] words [SEP]; a word that is none of WORDS is [UNK]."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
