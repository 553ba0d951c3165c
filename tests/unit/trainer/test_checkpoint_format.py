"""The file layout against the safetensors library, and manifests that are wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.format import Manifest, StoredObject, mismatch
from trainer.checkpoint.layout import (
    DTYPES,
    differences,
    header_bytes,
    lay_out,
    parse_header,
)
from trainer.checkpoint.staging import Staging

MANIFEST = Manifest(
    run="demo",
    generation=2,
    attempt="a1",
    parent="step-0000000005-g0001/manifest.json",
    update=10,
    seen=1920,
    epoch=1,
    identity={"dataset": "d" * 64, "seed": 1},
    facts={"precision": "fp32", "rng": [1, 2]},
    config_sha256="c" * 64,
    objects=(StoredObject("step-0000000010-g0002/a1/state.safetensors", 120, "0" * 64),),
    created_at=1.5,
)


def staged(state: dict[str, torch.Tensor]) -> bytes:
    staging = Staging(state)
    staging.fill(state)
    return b"".join(staging.chunks())


def mixed_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "model.conv": torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last),
        "model.fc": torch.randn(5, 7),
        "model.slice": torch.randn(8, 8)[:, ::2],
        "model.num_batches": torch.tensor(12),
        "ema.fc": torch.randn(5, 7).bfloat16(),
        "momentum.flag": torch.tensor([True, False, True]),
        "momentum.none": torch.empty(0, 3),
        "rng.cpu": torch.get_rng_state(),
    }


def test_the_library_loads_what_is_staged() -> None:
    state = mixed_state()
    loaded = safetensors.torch.load(staged(state))
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name], tensor), name


def test_every_start_is_aligned_to_its_kind() -> None:
    state = {f"{name}": torch.ones(3).to(dtype) for name, dtype in DTYPES.items()}
    layout = lay_out(state)
    assert len(layout.header) % 8 == 0
    assert all(field.start % field.dtype.itemsize == 0 for field in layout.fields.values())
    assert torch.equal(safetensors.torch.load(staged(state))["BF16"], state["BF16"])


def test_a_file_of_the_library_is_parsed(tmp_path: Path) -> None:
    state = {"b": torch.randn(3, 2), "a": torch.arange(3, dtype=torch.int8)}
    safetensors.torch.save_file(state, tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    layout = parse_header(data[: header_bytes(data, len(data))], len(data))
    assert differences(layout, state) == ""


def test_staging_keeps_the_values_of_its_moment() -> None:
    state = mixed_state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    staging = Staging(state)
    staging.fill(state)
    for tensor in state.values():
        tensor.zero_()
    loaded = safetensors.torch.load(b"".join(staging.chunks()))
    assert all(torch.equal(loaded[name], before[name]) for name in before)
    staging.fill(state)  # the same memory again
    loaded = safetensors.torch.load(b"".join(staging.chunks()))
    assert not any(tensor.any() for tensor in loaded.values())


def test_staging_takes_parameters_that_need_gradients() -> None:
    layer = torch.nn.Linear(3, 2)
    assert torch.equal(
        safetensors.torch.load(staged(dict(layer.named_parameters())))["weight"], layer.weight
    )


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(1)},
        {"a": torch.zeros(3, 2), "b": torch.zeros(1)},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(1)},
        {"a": torch.zeros(3, 2).T, "b": torch.zeros(1), "c": torch.zeros(1)},
    ],
)
def test_staging_notices_another_state(other: dict[str, torch.Tensor]) -> None:
    assert not Staging({"a": torch.zeros(2, 3), "b": torch.zeros(1)}).fits(other)


def test_a_kind_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tensor 'x' of the state is torch.complex64; allowed"):
        lay_out({"x": torch.zeros(1, dtype=torch.complex64)})


@given(st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 4), max_size=3), max_size=6))
def test_any_names_and_shapes_survive(shapes: dict[str, list[int]]) -> None:
    state = {name: torch.rand(shape) for name, shape in shapes.items()}
    data = staged(state)
    layout = parse_header(data[: header_bytes(data, len(data))], len(data))
    assert differences(layout, state) == ""
    assert layout.fields == lay_out(state).fields


HEADER: dict[str, Any] = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
BAD_HEADERS = {
    "not json": (b"{nothing", "not JSON"),
    "not an object": (b"[1, 2]  ", "not a JSON object"),
    "unknown kind": ({"a": HEADER["a"] | {"dtype": "F31"}}, "'a' has a damaged header entry"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "'a' has a damaged header"),
    "entry is a list": ({"a": [1]}, "'a' has a damaged header entry"),
    "one offset": ({"a": HEADER["a"] | {"data_offsets": [0]}}, "'a' has a damaged header"),
    "shape unlike bytes": ({"a": HEADER["a"] | {"shape": [3]}}, "'a' has bytes 0 to 8 for"),
    "negative shape": ({"a": HEADER["a"] | {"shape": [-2, -1]}}, "'a' has bytes 0 to 8 for"),
    "gap": ({"a": HEADER["a"] | {"data_offsets": [8, 16]}}, "'a' starts at byte 8, expected 0"),
    "overlap": (HEADER | {"b": HEADER["a"]}, "'b' starts at byte 0, expected 8"),
    "too short": ({"a": HEADER["a"] | {"shape": [1], "data_offsets": [0, 4]}}, "tensors end at"),
}


@pytest.mark.parametrize(("header", "message"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_headers_are_named(header: Any, message: str) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    with pytest.raises(ValueError, match=message):
        parse_header(data[: header_bytes(data, len(data))], len(data))


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 8, bytes(8), b"\x09" + bytes(9)])
def test_impossible_header_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"too few for a header|header claims \d+ bytes"):
        header_bytes(data, len(data))


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Manifest.parse(MANIFEST.dump(), MANIFEST.key) == MANIFEST
    assert MANIFEST.key == "step-0000000010-g0002/manifest.json"


def test_facts_must_be_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(MANIFEST, facts={"loss": float("nan")}).dump()


def changed(**changes: Any) -> bytes:
    described = json.loads(MANIFEST.dump()) | changes
    return json.dumps({k: v for k, v in described.items() if v is not None}).encode()


OBJECT = {"key": MANIFEST.objects[0].key, "size": 120, "sha256": "0" * 64}
BAD_MANIFESTS = {
    "empty": (b"", "not JSON"),
    "torn": (MANIFEST.dump()[:100], "not JSON"),
    "binary": (b"\x80\x04\x95", "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "no format": (changed(format=None), "format is None, expected 'checkpoint/1'"),
    "other format": (changed(format="checkpoint/9"), "'checkpoint/9', expected 'checkpoint/1'"),
    "no update": (changed(update=None), "has no 'update'"),
    "no objects": (changed(objects=None), "has no 'objects'"),
    "no identity": (changed(identity=None), "has no 'identity'"),
    "update is text": (changed(update="10"), "'update' of the manifest is '10'"),
    "seen is true": (changed(seen=True), "'seen' of the manifest is True"),
    "epoch is a fraction": (changed(epoch=0.5), "'epoch' of the manifest is 0.5"),
    "facts are a list": (changed(facts=[]), "'facts' of the manifest is"),
    "negative": (changed(seen=-1), "'seen' of the manifest is -1, below 0"),
    "another place": (changed(update=11), "belongs under step-0000000011-g0002/manifest.json"),
    "another generation": (changed(generation=3), "belongs under step-0000000010-g0003"),
    "object is text": (changed(objects=["x"]), "an object of the manifest is 'x'"),
    "object without size": (changed(objects=[{"key": "x"}]), "an object of the manifest"),
    "size is text": (changed(objects=[OBJECT | {"size": "1"}]), "an object of the manifest"),
    "hash is short": (changed(objects=[OBJECT | {"sha256": "00"}]), "an object of the manifest"),
    "object elsewhere": (changed(objects=[OBJECT | {"key": "../x"}]), r"objects are \[../x\]"),
    "two objects": (changed(objects=[OBJECT, OBJECT]), "the objects are"),
    "none": (changed(objects=[]), r"the objects are \[\], expected step-0000000010-g0002/a1/"),
}


@pytest.mark.parametrize(("data", "message"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifests_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Manifest.parse(data, MANIFEST.key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "d", "seed": 1}, ""),
        ({"dataset": "e", "seed": 1}, "dataset 'd', but this run has dataset 'e'"),
        ({"dataset": "d", "seed": 2}, "seed 1, but this run has seed 2"),
        ({"dataset": "d", "seed": "1"}, "seed 1, but this run has seed '1'"),
        ({"dataset": "d"}, "seed 1, but this run has seed 'absent'"),
        (
            {"dataset": "d", "seed": 1, "selection": "s"},
            "selection 'absent', but this run has selection 's'",
        ),
    ],
)
def test_identities_differ_by_name_and_value(given: dict[str, str | int], words: str) -> None:
    assert mismatch({"dataset": "d", "seed": 1}, given) == words
