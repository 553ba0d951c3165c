"""A fine-tuning's run made of another's by the command line: what it keeps and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.main import run
from launcher.jobfile import recipe_of
from launcher.render import pod_templates
from launcher.resolve import recipes
from launcher.tuning import Wishes, passes_of, tuned_run
from trainer.config import FinetuneConfig, TrainConfig, dump, parse

CLUSTER = ["--image", "i", "--data", "s3://a/d", "--checkpoints", "s3://a/c"]
SOURCE = """
name: first
seed: 7
epochs: 150
model: {name: senet154, pretrained: s3://a/zoo.safetensors}
data: {train: s3://a/d, val: s3://a/v, weights: s3://a/w.npy}
input: {size_px: 224, crop_ratio: 0.9, start_px: 128, grow_epochs: 100}
optim: {lr: 0.45, lr_end: 0.01, warmup_epochs: 5}
update: {global_batch: 1152, micro_batch: 36, mixup: 0.3}
loss: {name: elr, elr: {beta: 0.8}}
checkpoint: {address: s3://a/runs/first, keep_last: 7}
log: {metrics_port: 0, audit_dir: /audit}
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nobody's settings."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The address of a run's folder that holds its configuration."""
    return keep(tmp_path / "runs" / "first", SOURCE)


def keep(folder: Path, text: str) -> str:
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(dump(parse(TrainConfig, text, source="x")))
    return folder.as_uri()


def config(text: str, **changes: Any) -> TrainConfig:
    return parse(
        TrainConfig, text, [f"{key}={value}" for key, value in changes.items()], source="x"
    )


def rendered(
    capfd: pytest.CaptureFixture[str], *arguments: str, kind: str = "PyTorchJob"
) -> tuple[dict[str, Any], FinetuneConfig, str]:
    """The job, its run, and what was said beside."""
    assert run(["finetune", *arguments, "--dry-run=client"]) == 0
    out, err = capfd.readouterr()
    job = next(thing for thing in yaml.safe_load_all(out) if thing["kind"] == kind)
    return job, run_of(job), err


def container(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod(job)["spec"]["containers"][0]
    return found


def pod(job: dict[str, Any]) -> dict[str, Any]:
    _, template = next(pod_templates(job))
    return template


def run_of(job: dict[str, Any]) -> FinetuneConfig:
    text = next(each["value"] for each in container(job)["env"] if each["name"] == "RUN_CONFIG")
    return parse(FinetuneConfig, text, source="RUN_CONFIG")


def test_the_run_is_the_sources_with_a_schedule_of_its_own(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job, made, said = rendered(capfd, "--from", source, "--image-size", "320", *CLUSTER)
    assert container(job)["args"] == ["-m", "trainer.finetune"]
    assert made.start.address == source
    assert (made.epochs, made.optim.lr, made.optim.lr_end) == (15, 0.225, 0.005)
    assert (made.optim.warmup_epochs, made.seed) == (0, 7)
    assert (made.input.size_px, made.input.crop_ratio) == (320, 0.9)
    assert (made.input.start_px, made.input.grow_epochs) == (0, 0)
    assert made.loss == config(SOURCE).loss
    assert (made.data.train, made.data.val) == ("s3://a/d", "s3://a/v")
    assert (made.data.weights, made.update.mixup) == ("s3://a/w.npy", 0.3)
    assert (made.model.name, made.model.pretrained) == ("senet154", "")
    # What belonged to the other run alone.
    assert made.name == job["metadata"]["name"] != "first"
    assert made.checkpoint.address == f"s3://a/c/{made.name}"
    assert made.checkpoint.keep_last == 7
    assert (made.log.metrics_port, made.log.audit_dir) == (9090, "")
    # 36 x .49 is 17.6, and three equal passes of 12 fit below.
    assert (made.update.micro_batch, made.update.global_batch) == (12, 1152)
    assert "note: update.micro_batch is 12 in place of 36" in said
    assert "2.0 times the memory" in said
    labels = pod(job)["metadata"]["labels"]
    assert (labels["launcher.dev/stage"], labels["launcher.dev/model"]) == ("finetune", "senet154")
    assert job["spec"]["nprocPerNode"] == "8", "the recipe's"


def test_flags_and_overrides_win_in_this_order(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--pool", "gem", "--freeze", "3", "--train", "head", "--new-head", "--statistics", "9")
    _, made, _ = rendered(capfd, "--from", source, *flags, *CLUSTER)
    assert made.model.pool == "gem"
    assert made.start.frozen_stages == 3
    assert (made.start.train, made.start.head) == ("head", "new")
    assert (made.start.statistics_samples, made.start.which) == (9, "best")
    assert (made.input.size_px, made.update.micro_batch) == (224, 36)
    overrides = (
        "start.frozen_stages=1", "start.which=newest", "optim.lr=1", "epochs=2",
        "update.micro_batch=5", "model.pool=gem_channel", "loss.balance.kind=inverse_frequency",
    )  # fmt: skip
    _, made, _ = rendered(
        capfd, "--from", source, "--image-size", "299", *flags, *CLUSTER, *overrides
    )
    assert (made.start.frozen_stages, made.start.which) == (1, "newest")
    assert (made.optim.lr, made.epochs, made.update.micro_batch) == (1, 2, 5)
    assert (made.model.pool, made.loss.balance.kind) == ("gem_channel", "inverse_frequency")


def test_the_pooling_is_the_sources_unless_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = SOURCE.replace("name: senet154", "name: senet154, pool: gem, pool_p: 2.5")
    source = keep(tmp_path / "pooled", text)
    for flags, kept in (
        ((), ("gem", 2.5)),
        (("--pool", "gem_channel"), ("gem_channel", 2.5)),
        (("--pool", "default"), ("default", 1)),
    ):
        _, made, _ = rendered(capfd, "--from", source, *flags, *CLUSTER)
        assert (made.model.pool, made.model.pool_p) == kept


def test_a_trainjob_and_a_local_run_have_the_same_program(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    common = ("--from", source, "--image-size", "320")
    job, _, _ = rendered(capfd, *common, *CLUSTER, "--backend", "trainjob", kind="TrainingRuntime")
    assert container(job)["args"] == ["-m", "trainer.finetune"]
    job, made, _ = rendered(capfd, *common, "--local", "--data", "d", "--workers", "3")
    assert container(job)["args"] == ["-m", "trainer.finetune"]
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    assert made.log.metrics_port == 0


def test_the_same_command_names_the_same_job(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [
        rendered(capfd, "--from", source, "--image-size", size, *CLUSTER)[1].name
        for size in ("288", "288", "320")
    ]
    assert names[0] == names[1] != names[2]


def test_a_fine_tuning_may_be_tuned_again(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, made, _ = rendered(capfd, "--from", source, "--freeze", "2", *CLUSTER)
    (tmp_path / "second").mkdir()
    (tmp_path / "second/run.yaml").write_text(dump(made))
    _, again, _ = rendered(capfd, "--from", str(tmp_path / "second"), *CLUSTER)
    assert (again.epochs, again.optim.lr) == (1.5, 0.1125)
    assert again.start.address == str(tmp_path / "second")
    assert again.start.frozen_stages == 0, "its own, not those of the stage before"


def test_a_run_on_this_machine_is_known_by_its_name(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["finetune", "--from", "first", "--local"]) == 3
    assert "no run 'first' on this machine" in capfd.readouterr().err
    assert run(["finetune", "--from", "first", *CLUSTER]) == 2
    assert "no usable kubeconfig" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "dpn98"], ("dpn98.yaml is of the network dpn98", "of senet154", "--model")),
        (["model.name=dpn98"], ("model.*", "dpn98", "of senet154", "no other")),
        (["model.width=0.5", "model.name=resnet18"], ("resnet18 of width 0.5", "senet154")),
        (["--image-size", "8"], ("--image-size", "16", "2048")),
        (["--image-size", "big"], ("--image-size", "'big'")),
        (["--pool", "max"], ("--pool", "'max'", "gem_channel")),
        (["--freeze", "17"], ("--freeze", "16")),
        (["--train", "tail"], ("--train", "'tail'", "head")),
        (["--statistics", "-1"], ("--statistics",)),
        (["start.frozen_stage=1"], ("start.frozen_stage", "mean: 'frozen_stages'")),
        (["--checkpoints", "runs", "--name", "first", "--local"], ("begin from", "--name")),
        (["--local", "--dry-run=server"], ("--dry-run=server", "--local")),
        (["--timeout", "3m"], ("--timeout 3m", "--wait")),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_is_one_line(
    source: str,
    arguments: list[str],
    said: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    where = [] if "--local" in arguments else CLUSTER
    assert run(["finetune", "--from", source, *where, *arguments]) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (out, len(lines)) == ("", 1), err
    assert lines[0].startswith("error: ")
    assert all(part in lines[0] for part in said), lines[0]


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("file:///nowhere/at-all", 3, ("file:///nowhere/at-all", "no run", "read here")),
        ("gs://bucket/a", 2, ("gs://bucket/a", "s3://bucket")),
        ("s3://b/a", 2, ("s3://b/a", "bucket")),
    ],
)
def test_an_address_that_cannot_be_read_here_says_what_to_do(
    address: str, code: int, said: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["finetune", "--from", address, *CLUSTER, "--dry-run=client"]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert all(part in line for part in said), line


def test_a_store_that_is_away_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ):
        monkeypatch.setenv(name, value)
    assert run(["finetune", "--from", "s3://bucket/a", *CLUSTER, "--dry-run=client"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert all(part in line for part in ("s3://bucket/a", "read here", "AWS_*", "start.address"))


def test_a_network_without_a_recipe_needs_a_job_of_ones_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = keep(tmp_path / "vgg", SOURCE.replace("senet154", "vgg11"))
    assert run(["finetune", "--from", source, *CLUSTER, "--dry-run=client"]) == 2
    assert "no packaged recipe trains 'vgg11'" in capfd.readouterr().err
    (tmp_path / "my.yaml").write_text("job: {gpus: 4, gpus_per_worker: 2}\n")
    job, made, _ = rendered(capfd, "--from", source, "--model", "my.yaml", *CLUSTER)
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert made.model.name == "vgg11"


def test_each_recipe_is_found_by_its_network() -> None:
    assert [recipe_of(name) for name in recipes()] == recipes()


def test_a_file_with_a_start_is_a_fine_tuning_for_submit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "run: {model: {name: senet154}, start: {address: s3://a/runs/b}}\n"
    (tmp_path / "my.yaml").write_text(text)
    submit = ["submit", "--model", "my.yaml", *CLUSTER, "--dry-run=client"]
    assert run([*submit, "start.train=head"]) == 0
    job = list(yaml.safe_load_all(capfd.readouterr().out))[2]
    assert container(job)["args"] == ["-m", "trainer.finetune"]
    assert run_of(job).start.train == "head"
    assert pod(job)["metadata"]["labels"]["launcher.dev/stage"] == "finetune"
    assert run([*submit, "--stage", "soup"]) == 0
    job = list(yaml.safe_load_all(capfd.readouterr().out))[2]
    assert pod(job)["metadata"]["labels"]["launcher.dev/stage"] == "soup"


def test_an_override_makes_a_recipe_a_fine_tuning(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["render", "--model", "senet154", *CLUSTER]
    assert run([*arguments, "start.address=s3://a/runs/b"]) == 0
    job = list(yaml.safe_load_all(capfd.readouterr().out))[2]
    assert container(job)["args"] == ["-m", "trainer.finetune"]
    for wrong, said in (
        ("start.train=head", "start.address in run of senet154.yaml is empty"),
        ("start.address=gs://a/b", "start.address 'gs://a/b'"),
    ):
        assert run([*arguments, wrong]) == 2
        assert said in capfd.readouterr().err
    assert run(["calibrate", "--model", "senet154", "--local", "start.address=s3://a/runs/b"]) == 2
    assert "has a start, but calibrate reads no weights" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("micro_batch", "from_px", "to_px", "expected"),
    [
        (36, 224, 320, 12),  # at most 17: three of 12
        (18, 224, 320, 6),
        (24, 224, 320, 8),
        (32, 224, 224, 32),
        (32, 320, 224, 32),  # a smaller input asks for nothing
        (1, 224, 2048, 1),
        (0, 224, 320, 0),  # the trainer finds it
        (8, 16, 2048, 1),
        (64, 224, 448, 16),
    ],
)
def test_passes_are_equal_and_fit(
    micro_batch: int, from_px: int, to_px: int, expected: int
) -> None:
    found = passes_of(micro_batch, from_px, to_px)
    assert found == expected
    assert found <= 1 or found * max(1, (to_px / from_px) ** 2) <= micro_batch


def test_a_short_run_is_tuned_for_an_epoch() -> None:
    made, notes = tuned_run(config(SOURCE, epochs=4), "s3://a/b", Wishes())
    assert "epochs: 1.0" in made.run
    assert len(notes) == 1
