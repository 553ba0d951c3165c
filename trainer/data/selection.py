"""Which samples are trained on and what each counts: .npy files aligned by sample id."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import ConfigError
from trainer.storage import StorageError, open_store, split


def load_selection(address: str, num_samples: int) -> tuple[NDArray[np.int64] | None, str]:
    """The sorted ids to train on, or None for all, and their SHA-256 ("" for all).

    Raises ConfigError naming data.selection and what the file must hold.
    """
    if not address:
        return None, ""
    array, digest = _load("data.selection", address)
    where = f"data.selection {address}"
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        raise ConfigError(
            f"{where} holds {array.dtype} of shape {array.shape}, but it must be a list of ids:"
            " integers in one dimension, at least one"
        )
    ids = array.astype(np.int64)
    if (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= num_samples:
        raise ConfigError(
            f"{where} must hold different ids, ascending, from 0 to {num_samples - 1}"
        )
    return ids, digest


def load_weights(
    address: str, num_samples: int, key: str = "data.weights"
) -> tuple[NDArray[np.float32] | None, str]:
    """The weight of each sample id, or None for 1 everywhere, and the file's SHA-256.

    Raises ConfigError naming the key and what the file must hold.
    """
    if not address:
        return None, ""
    array, digest = _by_id(key, address, num_samples, "one for each sample of the dataset")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ConfigError(f"{key} {address} must be finite and at least 0 everywhere")
    return array, digest


def load_sampling(
    address: str, num_samples: int, ids: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32] | None, str]:
    """How often each of the trained ids is seen in an epoch, in proportion; None: each once.

    Raises ConfigError as load_weights does, and where none of the ids would ever be seen.
    """
    array, digest = load_weights(address, num_samples, "data.sampling")
    if array is None:
        return None, ""
    chosen = array if ids is None else array[ids]
    if not (chosen > 0).any():
        raise ConfigError(f"data.sampling {address} is 0 for every sample that is trained on")
    return chosen, digest


def load_probabilities(address: str, num_samples: int) -> NDArray[np.float32] | None:
    """A network's probability of each sample's label, or None where no address is given.

    Not a number where it has none. Raises ConfigError naming judge.noise.
    """
    if not address:
        return None
    writes = "as launcher noise writes *.probabilities.npy"
    array, _ = _by_id("judge.noise", address, num_samples, writes)
    known = array[np.isfinite(array)]
    if len(known) and (known.min() < 0 or known.max() > 1):
        raise ConfigError(f"judge.noise {address} must hold probabilities, from 0 to 1")
    return array


def _by_id(key: str, address: str, num_samples: int, hint: str) -> tuple[NDArray[np.float32], str]:
    """A float32 for each id, and the SHA-256 of its file."""
    array, digest = _load(key, address)
    if array.dtype != np.float32 or array.shape != (num_samples,):
        raise ConfigError(
            f"{key} {address} holds {array.dtype} of shape {array.shape}, but it must hold"
            f" float32 of shape ({num_samples},), {hint}"
        )
    return array, digest


def _load(key: str, address: str) -> tuple[NDArray[Any], str]:
    """The array of a .npy file, never unpickled, and the SHA-256 of its bytes."""
    try:
        folder, name = split(address)
        data = open_store(folder).get(name)
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except StorageError as error:
        raise ConfigError(f"{key} cannot be read: {error}") from error
    except (ValueError, EOFError, OSError) as error:
        raise ConfigError(f"{key} {address} is not a .npy file of numbers") from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{key} {address} is an archive, but it must be one .npy array")
    return array, hashlib.sha256(data).hexdigest()
