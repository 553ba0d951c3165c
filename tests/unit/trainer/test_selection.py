"""Selections and weights: what is taken, and the one-line errors for what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.config import ConfigError
from trainer.data.selection import load_selection, load_weights


def test_all_samples_without_a_file() -> None:
    assert load_selection("", 9) == (None, "")
    assert load_weights("", 9) == (None, "")


def test_files_are_read_with_their_hash(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([1, 4, 8], dtype=np.uint32))
    ids, digest = load_selection(f"file://{tmp_path}/s.npy", 9)
    assert ids is not None
    assert ids.tolist() == [1, 4, 8]
    assert len(digest) == 64
    np.save(tmp_path / "w.npy", np.ones(9, dtype=np.float32))
    weights, _ = load_weights(str(tmp_path / "w.npy"), 9)
    assert weights is not None
    assert weights.sum() == 9


BAD_SELECTIONS = [
    (np.array([1, 1]), "different ids, ascending"),
    (np.array([3, 2]), "different ids, ascending"),
    (np.array([0, 9]), "from 0 to 8"),
    (np.array([-1, 2]), "from 0 to 8"),
    (np.array([0.5]), "integers"),
    (np.zeros((2, 2), dtype=int), "one dimension"),
    (np.array([], dtype=int), "at least one"),
    (np.array([{"a": 1}], dtype=object), "not a .npy file of numbers"),
]


@pytest.mark.parametrize(("array", "said"), BAD_SELECTIONS)
def test_wrong_selections_are_one_line(array: np.ndarray, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.npy"
    np.save(path, array, allow_pickle=True)
    refused(lambda: load_selection(str(path), 9), "data.selection", str(path), said)


BAD_WEIGHTS = [
    (np.ones(8, dtype=np.float32), r"of shape (9,)"),
    (np.ones(9), "float32"),
    (np.full(9, np.nan, dtype=np.float32), "finite"),
    (np.full(9, -1, dtype=np.float32), "at least 0"),
]


@pytest.mark.parametrize(("array", "said"), BAD_WEIGHTS)
def test_wrong_weights_are_one_line(array: np.ndarray, said: str, tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, array)
    refused(lambda: load_weights(str(path), 9), "data.weights", str(path), said)


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    refused(lambda: load_selection(f"{tmp_path}/no.npy", 9), "data.selection", "no.npy")
    refused(lambda: load_selection("gs://a/b.npy", 9), "data.selection", "gs://a/b.npy")
    (tmp_path / "text.npy").write_text("hello")
    refused(lambda: load_weights(f"{tmp_path}/text.npy", 9), "data.weights", "text.npy")
    np.savez(tmp_path / "two.npz", a=np.ones(2))
    (tmp_path / "two.npz").rename(tmp_path / "two.npy")
    refused(lambda: load_selection(f"{tmp_path}/two.npy", 9), "data.selection", "archive")


def refused(call: object, *said: str) -> None:
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert [part for part in said if part not in message] == [], message
    assert "\n" not in message
