"""launcher evaluate without the trainer: sizes, refusals, the table, the picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run
from launcher.cli.manners import table
from launcher.errors import LauncherError, UsageError
from launcher.evaluation import HEAD, check_picture, check_sizes, draw, fill, legend, measure, rows


def document(name: str, p: float | None = None) -> dict[str, Any]:
    def result(size_px: int, top1: float) -> dict[str, Any]:
        ratios = {"top1": top1, "top5": 0.9, "class_top1": top1 - 0.1, "class_top5": 0.85}
        return {"size_px": size_px, "loss": 1.25, "num_samples": 5000, **ratios}

    return {
        "name": name,
        "run": f"s3://runs/{name}/",
        "model": "senet154",
        "update": 7,
        "trained_at_px": 224,
        "p": p,
        "results": [result(320, 0.705), result(224, 0.7)],
    }


@pytest.mark.parametrize("text", ["", "224", "16,2048", "224, 288,320"])
def test_sizes_are_numbers_by_commas(text: str) -> None:
    check_sizes(text)


@pytest.mark.parametrize(
    ("text", "odd"), [("8", "'8'"), ("224,", "''"), ("224,4096", "'4096'"), ("2x", "'2x'")]
)
def test_other_sizes_are_named(text: str, odd: str) -> None:
    with pytest.raises(UsageError, match=rf"--image-size '{text}' holds {odd}.*16 to 2048"):
        check_sizes(text)


def test_a_row_for_each_run_and_size() -> None:
    made = list(rows([document("a"), document("b", 1.6)]))
    assert made[0] == ("a", "320", "70.50%", "90.00%", "60.50%", "85.00%", "1.2500", "5,000")
    assert [row[:2] for row in made] == [("a", "320"), ("a", "224"), ("b", "320"), ("b", "224")]
    assert len(table(HEAD, made).splitlines()) == 5


def test_the_picture_has_a_curve_a_run_and_the_power_of_gem() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    assert legend(document("a")) == "a (senet154)"
    assert legend(document("b", 1.6)) == "b (senet154, p 1.60)"
    figure = Figure()
    fill(figure, [document("a"), document("b", 1.6)])
    (panel,) = figure.axes
    curves = {str(line.get_label()): line for line in panel.get_lines()}
    assert [*map(int, curves["a (senet154), top-1"].get_xdata())] == [224, 320], "by size"
    assert list(curves["b (senet154, p 1.60), mean of classes"].get_ydata()) == pytest.approx(
        [60, 60.5]
    )
    assert len(panel.get_legend().get_texts()) == 4, "the rings have no entry"


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"sizes{suffix}"
    draw([document("a")], str(out))
    assert out.read_bytes().startswith(magic)
    with pytest.raises(LauncherError, match=r"cannot write .*No such file"):
        draw([document("a")], str(tmp_path / "no" / "a.png"))


def test_what_is_not_installed_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("evaluation", "programs"):
        monkeypatch.setattr(f"launcher.{module}.find_spec", lambda name: None)
    with pytest.raises(LauncherError, match=r"evaluate needs torch on this machine.*\[train\]"):
        measure("a", "file:///a", "", "val", "best")
    with pytest.raises(LauncherError, match=r"--out needs matplotlib.*\[plot\]"):
        check_picture("a.svg")
    assert importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody"], 3, ("nobody",)),
        (["./a", "--image-size", "8"], 2, ("--image-size '8'", "16")),
        (["./a", "--out", "a.gif"], 2, ("--out 'a.gif'", ".svg")),
        (["./a", "-o", "name"], 2, ("-o name", "json")),
        (["./a", "--which", "last"], 2, ("--which", "'last'", "newest")),
        (["./a", "--local", "-n", "ml"], 2, ("--local", "--namespace")),
        ([], 2, ("RUN",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    code: int,
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate", *arguments]) == code
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("error: ")
    assert all(part in line for part in said), line
