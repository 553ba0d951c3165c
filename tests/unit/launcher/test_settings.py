"""Which of several settings wins, where it is said to come from, and how files are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.settings import load, store, user_file


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_each_layer_hides_those_below_and_names_itself(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    user = write(user_file(env), '[launcher]\nimage = "u"\ndata = "u"\nval = "u"\nbudget = "u"\n')
    pyproject = write(
        tmp_path / "pyproject.toml", '[tool.launcher]\nimage = "p"\ndata = "p"\nval = "p"\n'
    )
    project = write(tmp_path / "launcher.toml", '[launcher]\nimage = "l"\ndata = "l"\n')
    known = load(env | {"LAUNCHER_IMAGE": "e", "LAUNCHER_UNRELATED": "x"}, tmp_path)
    found = {key: (entry.value, entry.origin) for key, entry in known.entries.items()}
    assert found["image"] == ("e", "LAUNCHER_IMAGE")
    assert found["data"] == ("l", project)
    assert found["val"] == ("p", pyproject)
    assert found["budget"] == ("u", user)
    assert found["queue"] == ("", "built-in")
    assert [str(path) for path in known.files] == [project, pyproject, user]


def test_without_files_everything_is_built_in(tmp_path: Path) -> None:
    known = load({"HOME": str(tmp_path)}, tmp_path)
    assert {entry.origin for entry in known.entries.values()} == {"built-in"}
    assert user_file({"HOME": "/home/a"}) == Path("/home/a/.config/launcher/config.toml")


def test_a_pyproject_of_others_is_no_settings_file(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[project]\nname = "theirs"\n[tool.ruff]\nline-length = 1\n')
    assert load({"HOME": str(tmp_path)}, tmp_path).files == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("launcher.toml", "[launcher\n", ("launcher.toml", "not valid TOML")),
        ("launcher.toml", '[launcher]\nimagee = "x"\n', ("launcher.toml", "imagee", "mean image")),
        ("launcher.toml", "[launcher]\nimage = 3\n", ("launcher.toml", "image", "3", "string")),
        ("launcher.toml", 'image = "x"\n', ("launcher.toml", "image", "[launcher]")),
        ("launcher.toml", "launcher = 1\n", ("launcher.toml", "launcher", "table")),
        ("pyproject.toml", '[tool.launcher]\nx = "y"\n', ("pyproject.toml", "'x'", "known are")),
        ("pyproject.toml", "tool = 1\n", ("pyproject.toml", "tool", "table")),
        ("launcher.toml", b"\xff", ("launcher.toml", "not valid TOML")),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, name: str, text: str | bytes, said: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as refusal:
        load({"HOME": str(tmp_path)}, tmp_path)
    assert all(part in str(refusal.value) for part in said), str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_storing_keeps_comments_and_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "launcher.toml"
    store(path, "image", 'a"b\\c')
    assert load({"HOME": str(tmp_path)}, tmp_path).get("image") == 'a"b\\c'
    write(path, '# ours\n[launcher] # all of it\n# the image\nimage = "old"\nval = "v"\n')
    store(path, "image", "new")
    store(path, "data", "ä/b")
    assert path.read_text(encoding="utf-8").splitlines() == [
        "# ours", "[launcher] # all of it", 'data = "ä/b"', "# the image", 'image = "new"',
        'val = "v"',
    ]  # fmt: skip


def test_storing_into_a_broken_file_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "launcher.toml"
    write(path, "[launcher\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        store(path, "image", "x")
    assert path.read_text(encoding="utf-8") == "[launcher\n"
