"""The command line by itself: help, streams, formats, exit codes, and what is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from launcher.cli import app
from launcher.cli.main import run
from launcher.cli.manners import Color, seconds, span, table, wants_color, wants_json
from launcher.errors import UsageError

CLUSTER = ["--image", "i", "--data", "s3://a/d", "--checkpoints", "s3://a/c"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nobody's settings."""
    for key in list(os.environ):
        if key.startswith(("LAUNCHER_", "XDG_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def commands(group: typer.Typer = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each verb as it is typed."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, (*path, str(inner.name)))


ALL = sorted(commands())


def test_the_verbs_are_these() -> None:
    names = {" ".join(path) for path in ALL}
    assert names == {
        "submit", "finetune", "evaluate", "noise", "render", "list", "status", "logs", "cancel",
        "scale", "wait", "delete",
        "suspend", "resume", "prune", "diff", "top", "bundle", "plan", "calibrate", "usage",
        "budget show", "budget set", "budget history", "budget refund", "budget correct",
        "budget reserve",
        "config view", "config get", "config set", "doctor", "controller", "plot", "completion",
        "version", "textfilter run", "textfilter report",
        "ensemble run", "ensemble combine", "predict", "submission check",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_verb_has_help_with_an_example_of_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Examples:\s+launcher {' '.join(path)}\b", result.stdout), result.stdout
    for line in result.stdout.splitlines():
        option = re.match(r"  (?:-\w, )?(--[\w-]+)(.*)", line)
        assert option is None or len(option.group(2).split()) > 0, f"{option.group(1)} says nothing"


def test_every_example_in_a_help_is_understood(tmp_path: Path) -> None:
    for path in ALL:
        text = CliRunner().invoke(app, [*path, "--help"]).stdout
        for flag in re.findall(
            r" (--[a-z][a-z-]+)", text.partition("Examples:")[2].partition("\n\n")[0]
        ):
            assert flag in text.partition("Options:")[2], f"{' '.join(path)} has no {flag}"


def test_data_is_on_stdout_and_talk_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "--model", "senet154", "--gpus", "64", "--dry-run=client"]) == 0
    out, err = capfd.readouterr()
    kinds = [thing["kind"] for thing in yaml.safe_load_all(out)]
    assert kinds == ["Job", "Service", "PyTorchJob"]
    for key, variable in (("image", "LAUNCHER_IMAGE"), ("data", "LAUNCHER_DATA")):
        assert f"MISSING-{key}" in out
        assert re.search(
            rf"warning: {key} is not set; give --{key}.*{variable}.*launcher.toml", err
        )
    assert "5 (40): 96.0%, 7 (56): 85.7%" in err, "uneven sizes only"


def test_render_says_the_same_as_a_dry_run(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "dpn98", *CLUSTER, "optim.lr=0.2"]
    assert run(["submit", "--dry-run=client", *arguments]) == 0
    dry = capfd.readouterr()
    assert run(["render", *arguments]) == 0
    assert capfd.readouterr() == dry
    assert "lr: 0.2" in dry.out
    assert run(["render", *arguments, "-o", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["items"] == list(yaml.safe_load_all(dry.out))


def test_names_of_objects_are_kubectls(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "--model", "dpn98", "--name", "a", *CLUSTER, "-o", "name"]) == 0
    assert capfd.readouterr().out.split() == [
        "job.batch/a-rendezvous", "service/a-rendezvous", "pytorchjob.kubeflow.org/a",
    ]  # fmt: skip


def test_the_same_command_names_the_same_job(capfd: pytest.CaptureFixture[str]) -> None:
    names = []
    for lr in ("0.2", "0.2", "0.3"):
        run(["render", "--model", "dpn98", *CLUSTER, f"optim.lr={lr}", "-o", "name"])
        names.append(capfd.readouterr().out.split()[-1])
    assert names[0] == names[1] != names[2]


def test_settings_reach_the_objects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for key, value in (("image", "from-toml"), ("data", "s3://t/d"), ("budget", "ours")):
        assert run(["config", "set", key, value]) == 0
    assert run(["config", "set", "--user", "checkpoints", "s3://user/runs"]) == 0
    assert run(["config", "get", "checkpoints"]) == 0
    assert capfd.readouterr().out == "s3://user/runs\n"
    assert run(["config", "view", "--show-origin"]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"image +from-toml +\S+/launcher.toml", shown)
    assert re.search(r"checkpoints +s3://user/runs +\S+/config/launcher/config.toml", shown)
    assert re.search(r"queue +- +built-in", shown)
    assert run(["render", "--model", "dpn98", "--image", "from-flag", "--name", "a"]) == 0
    out, err = capfd.readouterr()
    job = list(yaml.safe_load_all(out))[2]
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["spec"]["containers"][0]["image"] == "from-flag"
    assert job["metadata"]["labels"]["launcher.dev/budget"] == "ours"
    assert "address: s3://user/runs/a" in out
    assert "warning" not in err


def test_a_file_of_ones_own_is_a_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "job: {gpus: 4, gpus_per_worker: 2, image: mine}\nrun: {model: {name: vgg11}, epochs: 3}\n"
    )
    (tmp_path / "my.yaml").write_text(text)
    assert run(["render", "--model", "my.yaml", *CLUSTER[2:], "epochs=4"]) == 0
    job = list(yaml.safe_load_all(capfd.readouterr().out))[2]
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert job["metadata"]["name"].startswith("vgg11-")
    assert "epochs: 4.0" in str(job)


def test_local_addresses_become_absolute(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "--local", "--model", "resnet18", "--data", "d", "--name", "a"]) == 0
    out = capfd.readouterr().out
    assert f"train: file://{tmp_path}/d\n" in out
    assert re.search(r"launcher.dev/checkpoints: file:///\S+/a\b", out)


@pytest.mark.parametrize(("said", "port"), [("9090", 0), ("9123", 9123)])
def test_a_local_run_keeps_a_port_that_its_file_asks_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], said: str, port: int
) -> None:
    text = f"run: {{model: {{name: resnet18}}, log: {{metrics_port: {said}}}}}\n"
    (tmp_path / "my.yaml").write_text(text)
    assert run(["render", "--local", "--model", "my.yaml", "--data", "d"]) == 0
    assert f"metrics_port: {port}\n" in capfd.readouterr().out


def test_errors_are_json_where_json_was_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "nobody", "-o", "json"]) == 3
    out, err = capfd.readouterr()
    error = json.loads(err)["error"]
    assert (out, error["kind"], error["exitCode"]) == ("", "NotFound", 3)
    assert "nobody" in error["message"]


def test_destructive_acts_do_not_hang_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # An unknown job is told first, with its own code, whatever --yes says.
    for verb in ("cancel", "delete"):
        assert run([verb, "nobody"]) == 3
        assert "nobody" in capfd.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.render.render", lambda spec: [][1])
    with pytest.raises(IndexError):
        run(["render", "--model", "dpn98", *CLUSTER])


def test_verbose_shows_where_a_known_failure_came_from() -> None:
    with pytest.raises(UsageError):
        run(["-v", "render", "--model", "dpn"])


@pytest.mark.parametrize(
    ("choice", "terminal", "env", "colored"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", False, {"FORCE_COLOR": "1"}, True),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour(choice: str, terminal: bool, env: dict[str, str], colored: bool) -> None:
    assert wants_color(Color(choice), terminal, env) is colored


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2", 2), ("0.5s", 0.5)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text, "--timeout") == value


@pytest.mark.parametrize("text", ["", "x", "5 m", "-3s", "m", "3w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        seconds(text, "--timeout")


def test_small_texts() -> None:
    assert [span(s) for s in (5, 600, 12_000, 360_000)] == ["5s", "10m", "3h20m", "4d4h"]
    assert table(["A", "LONG"], [("wide", "x")]) == "A      LONG\nwide   x"
    assert wants_json(["status", "x", "-o", "json"])
    assert wants_json(["status", "--output=json"])
    assert not wants_json(["logs", "json-o", "-o", "yaml"])


FORBIDDEN = ("torch", "boto3", "kubernetes", "jsonschema", "numpy", "scipy", "matplotlib")
WATCHED = f"""
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN}:
            raise AssertionError(f"{{name}} is imported")
sys.meta_path.insert(0, Watch())
from launcher.cli import main
main()
"""


def process(
    *arguments: str, code: str = "from launcher.cli import main; main()"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["submit", "--help"],
        ["render", "--model", "senet154", *CLUSTER],
        ["submit", "--model", "senet154", "--gpus", "64", "--dry-run=client"],
        ["list"],
        ["config", "view"],
        ["plan", "--help"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = process(*arguments, code=WATCHED)
    assert done.returncode == 0, done.stderr


def test_help_does_not_load_the_configuration() -> None:
    code = "import sys\nfrom launcher.cli.main import run\nrun(['--help'])\nsys.exit(int(bool(" \
        "{'omegaconf', 'yaml', 'pydantic', 'trainer'} & set(sys.modules))))"  # fmt: skip
    assert process(code=code).returncode == 0


def test_completion_prints_a_script_and_completes_recipes() -> None:
    assert "_LAUNCHER_COMPLETE" in process("completion", "bash").stdout
    line = {"_LAUNCHER_COMPLETE": "complete_bash", "COMP_WORDS": "launcher submit --model res"}
    os.environ.update(line | {"COMP_CWORD": "3"})
    try:
        done = process()
    finally:
        for key in (*line, "COMP_CWORD"):
            del os.environ[key]
    assert done.stdout.split() == ["resnet18", "resnext152d_32x4d"]
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m launcher submit --model senet154 --dry-run=client | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True,
        check=False, timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "---\n"
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)


@pytest.mark.parametrize(
    ("verb", "collects"), [(("version",), False), (("controller", "--once", "--ledger=x"), True)]
)
def test_only_verbs_that_go_on_collect_garbage(verb: tuple[str, ...], collects: bool) -> None:
    script = (
        "import atexit, gc, sys; from launcher.__main__ import main; sys.argv[0] = 'launcher';"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0)); main()"
    )
    done = subprocess.run([sys.executable, "-c", script, *verb], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{collects} True"
