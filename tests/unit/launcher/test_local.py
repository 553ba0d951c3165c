"""The pure parts of the local backend: when a restart is in vain, and what a log says of an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.local import gpus
from launcher.local.job import Job, at_port, clean_environment, read_objects
from launcher.local.restarts import (
    FAILURES_MOST,
    HEALTHY_S,
    REPEAT_S,
    REPEATS_MOST,
    Record,
    back_off_s,
    last_words,
)
from launcher.render import render
from launcher.request import Request
from tests.unit.launcher.goldens import spec


def test_the_back_off_doubles_to_its_longest() -> None:
    assert [back_off_s(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert back_off_s(10_000) == 30


def test_a_process_that_fails_soon_each_time_is_given_up() -> None:
    record = Record()
    for _ in range(FAILURES_MOST - 1):
        assert record.ended(1.0, 1, "exit code 1") == ""
    assert record.ended(1.0, 1, "exit code 1") == "exit code 1 (6 times in a row, each within 20 s)"


@given(st.lists(st.floats(HEALTHY_S, 1e6), max_size=100))
def test_a_process_that_gets_somewhere_is_started_for_ever(spans_s: list[float]) -> None:
    record = Record()
    for ran_s in spans_s:
        assert record.ended(ran_s, -9, "killed by SIGKILL") == ""
        assert back_off_s(record.failures) == 1


def test_a_usage_error_is_not_repeated() -> None:
    assert Record().ended(500.0, 2, "lr (-1) is below 0") == "lr (-1) is below 0"


def test_only_the_same_message_in_quick_succession_counts() -> None:
    record = Record()
    for n in range(1, REPEATS_MOST):
        assert record.told("out of memory", n * 10.0) == ""
    assert record.told("out of memory", 50.0) == "out of memory (5 times in a row)"

    record = Record()
    for n in range(100):
        assert record.told(f"a peer was lost at update {n}", n * 1.0) == ""
    for n in range(100):
        assert record.told("a peer was lost", 1000 + n * (REPEAT_S + 1)) == ""
    assert record.told("fatal: another seed", 9e9) == "another seed"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("one\n\ntwo\n=====\n", "two"),
        ("KeyError: 'a'\nmore\n", "KeyError: 'a'"),
        ("[rank0]: Traceback\n[rank0]: a.b.OddError: it broke\nlast\n", "a.b.OddError: it broke"),
        (
            "ModuleNotFoundError: No module named 'x'\n"
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\n"
            "  traceback : To enable traceback see: https://pytorch.org\n=====\n",
            "ModuleNotFoundError: No module named 'x'",
        ),
    ],
)
def test_the_last_error_tells_why(log: str, words: str) -> None:
    assert last_words(log.splitlines()) == words


def test_the_store_listens_on_this_machine_alone() -> None:
    command = ("python", "-m", "trainer.rendezvous", "--port", "29400")
    assert at_port(command, 7) == (*command[:4], "7", "--host", "127.0.0.1")
    assert at_port(("sleep", "9"), 7) == ("sleep", "9")


def test_a_torchrun_around_us_does_not_mislead_ours() -> None:
    inherited = {"PATH": "/bin", "RANK": "3", "PET_NNODES": "9", "TORCHELASTIC_RUN_ID": "x"}
    assert clean_environment({**inherited, "AWS_REGION": "z"}) == {
        "PATH": "/bin",
        "AWS_REGION": "z",
    }


def local_job(*overrides: str, **asked: int) -> Job:
    request = Request(
        model="resnet18", name="a", local=True, data="/d", overrides=overrides, **asked
    )
    return read_objects(render(spec(request)))


def test_a_worker_has_the_same_gpus_after_each_restart_and_shares_none() -> None:
    job = local_job(workers=2, max_workers=3, gpus_per_worker=2)
    shown = ["0", "1", "2", "3", "GPU-5", "7", "9"]
    shares = [gpus.share(job, worker, shown)["CUDA_VISIBLE_DEVICES"] for worker in range(3)]
    assert shares == ["0,1", "2,3", "GPU-5,7"]
    gpus.check(job, shown)
    with pytest.raises(UsageError, match=r"--max-workers 3 with 2 processes .* need 6 GPUs, .* 5;"):
        gpus.check(job, shown[:5])


def test_without_gpus_any_number_of_workers_trains_on_the_cpu(tmp_path: Path) -> None:
    job = local_job(workers=2)
    for hidden in ({"CUDA_VISIBLE_DEVICES": ""}, {}):
        shown = gpus.visible(hidden, tmp_path)
        gpus.check(job, shown)
        assert gpus.share(job, 0, shown) == {}
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus.visible({}, tmp_path) == ["0", "1"]
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": "1, 3"}, tmp_path) == ["1", "3"]


def test_a_rendezvous_setting_of_the_user_holds_here_too() -> None:
    conf = dict(
        pair.split("=")
        for pair in local_job("job.rendezvous.last_call_timeout_s=7")
        .worker_env["PET_RDZV_CONF"]
        .split(",")
    )
    assert conf["last_call_timeout"] == "7"
    assert conf["join_timeout"] == "600"
