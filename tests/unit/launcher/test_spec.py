"""The arithmetic of sizes, and what may be a name, a label, an address."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.spec import (
    NAME_MOST_CHARS,
    Workers,
    check_address,
    check_name,
    default_name,
    gpu_workers,
    local_workers,
)

COUNTS = st.integers(1, 40)


def test_half_of_the_gpus_are_enough_by_default() -> None:
    assert gpu_workers(64, 8) == Workers(4, 8, 8)
    assert gpu_workers(64, 8, min_gpus=16, max_gpus=96) == Workers(2, 8, 12)
    assert gpu_workers(8, 8) == Workers(1, 1, 1)
    assert local_workers(2) == Workers(1, 2, 2)
    assert local_workers(2, 2, 5) == Workers(2, 2, 5)


@given(desired=COUNTS, per_worker=COUNTS, least=st.integers(0, 40), most=st.integers(0, 40))
def test_a_size_is_ordered_and_multiplies_back_or_is_refused(
    desired: int, per_worker: int, least: int, most: int
) -> None:
    fits = (least <= desired or not least) and (most >= desired or not most)
    sizes = (desired * per_worker, per_worker, least * per_worker, most * per_worker)
    if not fits:
        with pytest.raises(UsageError, match=r"--(min|max)-gpus \(\d+\) is (above|below) --gpus"):
            gpu_workers(*sizes)
        return
    workers = gpu_workers(*sizes)
    assert 1 <= workers.least <= workers.desired <= workers.most
    assert workers.desired * per_worker == sizes[0]
    assert workers.least == (least or max(1, desired // 2))
    assert workers.most == (most or desired)


@given(gpus=st.integers(1, 500), per_worker=st.integers(2, 16))
def test_gpus_that_do_not_fill_workers_are_refused_with_the_nearest_that_do(
    gpus: int, per_worker: int
) -> None:
    if gpus % per_worker == 0:
        return
    with pytest.raises(UsageError) as refusal:
        gpu_workers(gpus, per_worker)
    near = [int(n) for n in re.findall(r"\d+", str(refusal.value).partition("; give ")[2])]
    assert near
    assert all(n % per_worker == 0 and n > 0 and abs(n - gpus) < per_worker for n in near)


@given(model=st.text(max_size=80), digest=st.text("0123456789abcdef", min_size=6, max_size=64))
def test_every_model_gives_a_name_that_pods_and_services_can_bear(model: str, digest: str) -> None:
    name = default_name(model, digest)
    assert check_name(name) == name
    assert len(name) <= NAME_MOST_CHARS
    assert len(f"{name}-worker-9999") <= 63
    assert len(f"{name}-rendezvous") <= 63


@pytest.mark.parametrize(
    "address", ["s3://bucket", "s3://bucket/a/b", "file:///data", "/data", "data/x", ""]
)
def test_addresses_of_files_and_s3_are_taken(address: str) -> None:
    assert check_address(address, "--data") == address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("gs://bucket/x", "gs:// is unknown"),
        ("file://data", "absolute path"),
        ("s3:///x", "names no bucket"),
        ("s3://AKIA:secretword@bucket/x", "credentials"),
    ],
)
def test_other_addresses_are_refused_and_no_secret_is_repeated(address: str, said: str) -> None:
    with pytest.raises(UsageError, match="--data") as refusal:
        check_address(address, "--data")
    assert said in str(refusal.value)
    assert "secretword" not in str(refusal.value)
