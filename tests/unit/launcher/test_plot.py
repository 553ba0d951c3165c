"""Which lines of metrics.jsonl count, and the picture made of them."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import LauncherError, NotFound, UsageError
from launcher.plot import plot_run, read_metrics


def line(event: str, generation: int, update: int, **more: Any) -> str:
    facts = {"event": event, "at": 1.0, "generation": generation, "update": update}
    return json.dumps({**facts, "seen": update * 10, "epoch": update / 4, "world": 2, **more})


def text_of(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_what_a_later_generation_has_undone_is_dropped() -> None:
    text = text_of(
        line("start", 1, 0, parent_update=0),
        *(line("train", 1, update) for update in (1, 2, 3)),
        line("start", 2, 2, parent_update=2),
        *(line("train", 2, update) for update in (3, 4)),
        line("start", 3, 1, parent_update=1),
        line("train", 3, 2),
    )
    kept = [(x["event"], x["generation"], x["update"]) for x in read_metrics(text)]
    assert kept == [("start", 1, 0), ("train", 1, 1), ("start", 3, 1), ("train", 3, 2)]


def test_torn_and_foreign_lines_are_left_out() -> None:
    text = '{"event": "tra\n[1]\n\nnull\n{"event": "train", "update": "3"}\n' + line("train", 1, 5)
    assert [x["update"] for x in read_metrics(text)] == [5]
    assert read_metrics("") == []


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 12)), min_size=1, max_size=8))
def test_the_kept_updates_are_those_of_one_undisturbed_run(
    generations: list[tuple[int, int]],
) -> None:
    """Each generation resumes somewhere in what is kept so far, and makes some updates more.

    The model: a list of which generation made each update, cut at each resume.
    """
    made_by: list[int] = []
    lines: list[str] = []
    for generation, (choice, more) in enumerate(generations, 1):
        parent = choice % (len(made_by) + 1)
        made_by = made_by[:parent] + [generation] * more
        lines.append(line("start", generation, parent, parent_update=parent))
        lines += [line("train", generation, parent + n) for n in range(1, more + 1)]
    kept = [x for x in read_metrics(text_of(*lines)) if x["event"] == "train"]
    assert [x["update"] for x in kept] == list(range(1, len(made_by) + 1))
    assert [x["generation"] for x in kept] == made_by


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text(
        text_of(
            line("start", 1, 0, parent_update=0),
            line("train", 1, 1, loss=2.0, top1=0.1, samples_per_s=50.0),
            line("train", 1, 2, loss=None, top1=None, samples_per_s=55.0),
            line("evaluate", 1, 2, top1=0.4, top5=0.7, class_top1=0.3, class_top5=0.6, loss=1.9),
            line("start", 2, 2, parent_update=2),
            line("train", 2, 3, loss=1.0, top1=0.5, samples_per_s=30.0, world=1),
        )
    )
    out = tmp_path / f"curve{suffix}"
    plot_run(tmp_path.as_uri(), out)
    content = out.read_bytes()
    assert content.startswith(magic)
    assert len(content) > 10_000


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(NotFound, match=r"no metrics\.jsonl under file://.*first update"):
        plot_run(tmp_path.as_uri(), tmp_path / "a.png")
    (tmp_path / "metrics.jsonl").write_text(line("start", 1, 0, parent_update=0))
    with pytest.raises(NotFound, match="no update is told of"):
        plot_run(tmp_path.as_uri(), tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"'a\.gif' must end in \.png or \.svg"):
        plot_run(tmp_path.as_uri(), "a.gif")
    (tmp_path / "metrics.jsonl").write_text(line("train", 1, 1, loss=1.0))
    with pytest.raises(LauncherError, match=r"cannot write .*No such file or directory"):
        plot_run(tmp_path.as_uri(), tmp_path / "no" / "a.png")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(LauncherError, match=r"plot needs matplotlib; pip install '\.\[plot\]'"):
        plot_run("file:///nowhere", "a.png")
