"""Loading a run: what is taken, and the one-line errors for what is not."""

import dataclasses

import pytest

from trainer.config import (
    RUN_CONFIG,
    ConfigError,
    TrainConfig,
    describe,
    dump,
    lane_balance,
    load,
    parse,
)

GIVEN = "data: {train: file:///x}\ncheckpoint: {address: file:///y}\n"


def test_overrides_win_over_the_file() -> None:
    config = parse(
        TrainConfig,
        GIVEN + "optim: {lr: 0.3}",
        ["optim.lr=0.2", "input.size_px=64"],
        source="run.yaml",
    )
    assert (config.optim.lr, config.input.size_px) == (0.2, 64)
    assert dataclasses.is_dataclass(config.optim)


def test_a_dumped_run_reads_back_the_same() -> None:
    config = parse(TrainConfig, GIVEN, source="run.yaml")
    assert parse(TrainConfig, dump(config), source="again") == config


def test_a_pod_takes_the_run_from_its_environment() -> None:
    assert load(TrainConfig, env={RUN_CONFIG: GIVEN + "name: a"}).name == "a"


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("optim: {lrr: 1}", [], ("run.yaml", "optim.lrr", "Did you mean: 'lr'")),
        ("optim: {lr: hi}", [], ("run.yaml", "optim.lr", "'hi'")),
        ("optim: {lr: -1}", [], ("run.yaml", "optim.lr", "-1", "above 0")),
        ("optim: {lr: null}", [], ("run.yaml", "optim.lr", "float")),
        ("update: {precision: fp16}", [], ("run.yaml", "update.precision", "'fp16'", "bf16")),
        ("input: {mean: [1, 2]}", [], ("run.yaml", "input.mean", "3")),
        ("input: {mean: [1, 2, 3]}", [], ("run.yaml", "input.mean", "at most 1")),
        ("optim: 3", [], ("run.yaml", "optim", "keys and values")),
        ("model: null", [], ("run.yaml", "model", "not Optional")),
        ("epochs: .nan", [], ("run.yaml", "epochs", "finite")),
        ("a: [", [], ("run.yaml", "line 1", "YAML")),
        ("- a", [], ("run.yaml", "keys and values", "list")),
        ("", [], ("run.yaml", "data.train", "must be given")),
        (GIVEN, ["optim.lr"], ("override 'optim.lr'", "key.name=value")),
        (GIVEN, ["optim.lr=x"], ("override 'optim.lr=x'", "optim.lr", "'x'")),
        (GIVEN, ["optim.lr=900"], ("override 'optim.lr=900'", "at most 100")),
        (GIVEN, ["data.lanes=0"], ("override 'data.lanes=0'", "at least 1")),
    ],
)
def test_a_wrong_run_is_one_line_naming_source_key_and_value(
    text: str, overrides: list[str], said: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, text, overrides, source="run.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in said if part not in message] == [], message


def test_exactly_one_source(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="neither given"):
        load(TrainConfig, env={})
    with pytest.raises(ConfigError, match="both given"):
        load(TrainConfig, "run.yaml", env={RUN_CONFIG: GIVEN})
    with pytest.raises(ConfigError, match=r"cannot read the run file .*absent\.yaml"):
        load(TrainConfig, f"{tmp_path}/absent.yaml", env={})


def test_every_field_says_its_meaning_and_the_reason_of_its_default() -> None:
    rows = list(describe(TrainConfig))
    assert len(rows) > 40
    assert [row[0] for row in rows if not (row[5] and row[6])] == []


@pytest.mark.parametrize(
    ("world", "balance"), [(1, 1.0), (48, 1.0), (64, 1.0), (40, 0.96), (56, 192 / 56 / 4)]
)
def test_lane_balance(world: int, balance: float) -> None:
    assert lane_balance(192, world) == pytest.approx(balance)
