"""Opening datasets: what a good one tells, and one line for each way to be a bad one."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.raws import SYNSETS, write_dataset
from trainer.data.shards import INDEX, DatasetError, open_dataset
from trainer.storage import BadAddress

IMAGES = [bytes([i]) * (300 + i) for i in range(9)]  # opening a dataset decodes nothing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of nine samples in shards of three."""
    write_dataset(str(tmp_path / "set"), IMAGES, 7168)
    return tmp_path / "set"


def refusal(address: object, error: type[Exception] = DatasetError) -> str:
    with pytest.raises(error) as caught:
        open_dataset(str(address), Path("not used for a folder"))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return manifest


def keep(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


# --- good ---------------------------------------------------------------------------------------


def test_a_good_dataset_is_described(folder: Path) -> None:
    dataset = open_dataset(str(folder), Path("not used for a folder"))
    assert dataset.address == f"file://{folder}"
    assert (dataset.num_samples, dataset.num_classes, dataset.classes) == (9, 3, SYNSETS)
    assert [shard.num_samples for shard in dataset.shards] == [3, 3, 3]
    content = (folder / "manifest.json").read_bytes()
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()
    index = dataset.index()
    assert index.dtype == INDEX
    assert not index.flags.writeable
    assert index["label"].tolist() == [0, 1, 2] * 3
    assert open_dataset(f"file://{folder}", Path("not used for a folder")) == dataset


def test_a_dataset_is_small_when_pickled(folder: Path) -> None:
    dataset = open_dataset(str(folder), Path("not used for a folder"))
    dataset.index()
    assert len(pickle.dumps(dataset)) < 2000
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_classes_and_unknown_keys_may_be_as_they_like(folder: Path) -> None:
    keep(folder, {**manifest_of(folder), "classes": [], "new": 1})
    assert open_dataset(str(folder), Path("not used for a folder")).classes == ()


# --- bad addresses ------------------------------------------------------------------------------


def test_a_place_without_a_dataset_is_named_with_the_way_out(tmp_path: Path, folder: Path) -> None:
    hint = "it has no manifest.json; make one with python -m trainer.pack"
    for place in (tmp_path, tmp_path / "absent", folder / "manifest.json"):
        assert refusal(place) == f"no dataset at file://{place}: {hint}"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "address is empty; expected s3://bucket/folder, file:///folder or path"),
        ("http://a/b", "address 'http://a/b' has no known form; expected s3://bucket/folder"),
        ("file://a/b", "address 'file://a/b' has no absolute path; write file:///folder"),
        ("s3://B/set", "address 's3://B/set' names the bucket 'B'; a bucket has 3 to 63"),
    ],
)
def test_addresses_that_no_store_has(address: str, said: str) -> None:
    assert refusal(address, BadAddress).startswith(said)


# --- bad manifests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON: Expecting value"),
        (b'{"format": "shards/1", "num_sam', "is not valid JSON: Unterminated string"),
        (b"\xff\xfe\xfd", "is not valid JSON: 'utf"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth exceeded"),
        (b'["shards/1"]', "is ['shards/1'], but it must be an object"),
    ],
)
def test_manifests_that_are_no_object(content: bytes, said: str, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert refusal(folder).startswith(f"file://{folder}/manifest.json {said}")


ABSENT = object()

BAD_FIELDS: list[tuple[str, object, str]] = [
    ("format", ABSENT, "format is missing in M"),
    ("format", "shards/2", "format in M is 'shards/2'; allowed is 'shards/1'"),
    ("format", 1, "format in M is 1, but it must be a string"),
    ("num_samples", ABSENT, "num_samples is missing in M"),
    ("num_samples", 10, "num_samples in M is 10, but its shards have 9"),
    ("num_samples", "9", "num_samples in M is '9', but it must be a whole number"),
    ("num_samples", 9.0, "num_samples in M is 9.0, but it must be a whole number"),
    ("num_samples", True, "num_samples in M is True, but it must be a whole number"),
    ("num_samples", 0, f"num_samples in M is 0, but it must be from 1 to {2**63 - 1}"),
    ("num_classes", ABSENT, "num_classes is missing in M"),
    ("num_classes", 4, "classes in M has 3 names, but num_classes is 4"),
    ("num_classes", -1, "num_classes in M is -1, but it must be from 1 to"),
    ("classes", ABSENT, "classes is missing in M"),
    ("classes", "abc", "classes in M is 'abc', but it must be a list"),
    ("classes", ["a", None, "c"], "classes[1] in M is None, but it must be a string"),
    ("shards", ABSENT, "shards is missing in M"),
    ("shards", [], "num_samples in M is 9, but its shards have 0"),
    ("shards", {}, "shards in M is {}, but it must be a list"),
    ("shards.1", None, "shards[1] in M is None, but it must be an object"),
    ("shards.1.key", ABSENT, "shards[1].key is missing in M"),
    ("shards.1.key", "../a.tar", "shards[1].key in M is '../a.tar', but it must be a relative"),
    ("shards.1.key", "/etc/passwd", "shards[1].key in M is '/etc/passwd', but it must be a rel"),
    ("shards.1.key", "a\0b", r"shards[1].key in M is 'a\x00b', but it must be a relative path"),
    ("shards.1.key", "", "shards[1].key in M is '', but it must be a relative path"),
    ("shards.1.size", 2**70, "shards[1].size in M is 1180591620717411303424, but it must be from"),
    ("shards.1.num_samples", 0, "shards[1].num_samples in M is 0, but it must be from 1"),
    ("shards.1.num_samples", 4, "num_samples in M is 9, but its shards have 10"),
    ("shards.1.sha256", "abc", "shards[1].sha256 in M is 'abc', but it must be 64 hexadecimal"),
    ("index", ABSENT, "index is missing in M"),
    ("index", [], "index in M is [], but it must be an object"),
    ("index.key", 5, "index.key in M is 5, but it must be a string"),
    ("index.size", ABSENT, "index.size is missing in M"),
    ("index.sha256", "A" * 64, f"index.sha256 in M is '{'A' * 59}, but it must be 64 hex"),
]


@pytest.mark.parametrize(("key", "value", "said"), BAD_FIELDS)
def test_bad_fields_are_named_with_file_and_key(
    key: str, value: object, said: str, folder: Path
) -> None:
    manifest = manifest_of(folder)
    *path, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    inner: Any = manifest
    for part in path:
        inner = inner[part]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    keep(folder, manifest)
    assert refusal(folder).startswith(said.replace(" M", f" file://{folder}/manifest.json"))


# --- bad indexes --------------------------------------------------------------------------------


def replaced(folder: Path, content: bytes) -> str:
    """Gives the dataset another index that its manifest agrees with; gives its address."""
    manifest = manifest_of(folder)
    (folder / manifest["index"]["key"]).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest["index"] |= {"size": len(content), "sha256": digest}
    keep(folder, manifest)
    return f"file://{folder}/{manifest['index']['key']}"


def column(name: str, row: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(index: np.ndarray) -> np.ndarray:
        index[name][row] = value
        return index

    return change


BAD_ROWS: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda i: i[:-1], "the index I has the shape (8,), but the manifest's num_samples is 9"),
    (lambda i: i.reshape(3, 3), "the index I has the shape (3, 3), but the manifest's num_samp"),
    (lambda i: i["label"], "the index I has the columns [('', '<u4')], but it must have [('shard"),
    (lambda i: i.astype([(n, ">u8") for n in INDEX.names or ()]), "the index I has the columns ["),
    (column("shard", 4, 3), "shard of sample 4 in the index I is 3, but it must be below 3"),
    (column("label", 8, 3), "label of sample 8 in the index I is 3, but it must be below 3"),
    (column("offset", 2, 10**9), "offset of sample 2 in the index I is 1000000000, but it must be"),
    (column("offset", 2, 2**64 - 1), "offset of sample 2 in the index I is 18446744073709551615, "),
    (column("length", 0, 10**5), "length of sample 0 in the index I is 100000, but it must be ins"),
    (column("shard", 4, 0), "the index I has 4 samples in shard "),
]


@pytest.mark.parametrize(("change", "said"), BAD_ROWS)
def test_bad_rows_are_named_with_file_and_column(
    change: Callable[[np.ndarray], np.ndarray], said: str, folder: Path
) -> None:
    file = io.BytesIO()
    np.save(file, change(np.load(folder / manifest_of(folder)["index"]["key"])))
    address = replaced(folder, file.getvalue())
    assert refusal(folder).startswith(said.replace(" I ", f" {address} "))


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(9, INDEX))
    return file.getvalue()


OF_9 = "'fortran_order': False, 'shape': (9,)}"


@pytest.mark.parametrize(
    "content",
    [
        b"no array",
        pickle.dumps({"a": 1}),
        archive(),
        header("{'descr': 'O', " + OF_9) + bytes(99),
        header("{'descr': '<u4', " + OF_9.replace("9", "9" * 30)),
        header("{'descr': '''<u4', " + OF_9),
        header("{'descr': '<u4', " + OF_9 + " " * 20_000),
    ],
)
def test_indexes_that_are_no_array(content: bytes, folder: Path) -> None:
    address = replaced(folder, content)
    assert refusal(folder) == f"the index {address} is not a .npy file of plain columns"


# --- files that are not what the manifest says --------------------------------------------------


def index_path(folder: Path) -> Path:
    return folder / str(manifest_of(folder)["index"]["key"])


def test_a_damaged_index_is_named(folder: Path) -> None:
    path = index_path(folder)
    content = path.read_bytes()
    path.write_bytes(content[:-24])
    sizes = f"has {len(content) - 24:,} bytes, but its manifest says {len(content):,}"
    assert refusal(folder) == f"the index file://{path} {sizes}; pack the dataset again"
    path.write_bytes(content[:-1] + b"\xff")
    assert refusal(folder).startswith(f"the index file://{path} has the SHA-256 ")
    path.unlink()
    assert refusal(folder) == f"cannot read the index file://{path}: no such file or directory"
    path.mkdir()
    assert refusal(folder).startswith(f"the index file://{path} has ")


def test_an_absent_or_cut_shard_is_named(folder: Path) -> None:
    shard = manifest_of(folder)["shards"][1]
    path = folder / str(shard["key"])
    path.write_bytes(path.read_bytes()[:1000])
    sizes = f"has 1,000 bytes, but the manifest says {shard['size']:,}"
    assert refusal(folder) == f"shard file://{path} {sizes}"
    path.unlink()
    assert refusal(folder) == f"shard file://{path} is missing, but the manifest names it"
