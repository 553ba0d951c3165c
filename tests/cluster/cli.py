"""The command line against a control plane, from within the test's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run
from tests.cluster.control_plane import ControlPlane


class Cli:
    """`launcher` as a user of one namespace."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.plane, self.namespace, self.folder, self.capsys = plane, namespace, folder, capsys
        monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
        monkeypatch.setenv("LAUNCHER_NAMESPACE", namespace)
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command line."""
        self.capsys.readouterr()
        code = run(list(words))
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def out(self, *words: str) -> str:
        """stdout of a command line that succeeds."""
        code, out, err = self(*words)
        assert code == 0, err
        return out

    def fails(self, code: int, *words: str, stream: str = "err") -> str:
        """What a command line that ends with this code says last on stderr, or all of stdout."""
        found, out, err = self(*words)
        assert found == code, (out, err)
        return out if stream == "out" else err.splitlines()[-1]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command line in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def complete(self, *words: str) -> str:
        """What the shell would offer behind these words."""
        env = {
            "_LAUNCHER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        command = [sys.executable, "-m", "launcher"]
        done = subprocess.run(
            command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    def status(self, name: str) -> dict[str, Any]:
        """The job as `status -o json` tells it."""
        found: dict[str, Any] = json.loads(self.out("status", name, "-o", "json"))
        return found

    def state(self, name: str) -> str:
        return str(self.status(name)["state"])

    def fresh(self) -> str:
        """Another job, that has just been submitted; its name."""
        name = "another"
        given = ("--model", "senet154", "--gpus", "8", "--image", "registry.example/trainer:1")
        places = ("--data", "s3://webvision/train", "--checkpoints", "s3://webvision/runs")
        self.out("submit", *given, *places, "--name", name)
        return name

    def kubectl(self, *words: str) -> str:
        return self.plane.kubectl("-n", self.namespace, *words)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object as the API server has it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def names(self, kind: str) -> list[str]:
        """Names of all objects of a kind."""
        items = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return [item["metadata"]["name"] for item in items]

    def quota(self, resource: str, most: int) -> None:
        """Limits the namespace; returns once the limit is in force."""
        self.kubectl("create", "quota", "test", f"--hard={resource}={most}")
        path = "{.status.hard}"
        self.kubectl("wait", f"--for=jsonpath={path}", "quota/test", "--timeout=30s")
