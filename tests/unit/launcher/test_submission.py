"""The check of a submission: what is good, and the line that each fault is told of."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.submission import SubmissionError, check
from trainer.infer.submission import lines_of, zipped

NAMES = [f"test{number:06d}.jpg" for number in range(1, 5)]
GOOD = "".join(lines_of(NAMES, [[4, 3, 2, 1, 0]] * 4))


def checked(folder: Path, text: str | bytes, names: list[str] = NAMES) -> int:
    file, listed = folder / "predictions.txt", folder / "test_filelist.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    listed.write_text("".join(f"{name}\n" for name in names))
    return check(file, listed, num_classes=5)


@pytest.mark.parametrize("text", [GOOD, GOOD.replace(" ", "\t   "), GOOD.replace("\n", "\r\n")])
def test_any_whitespace_is_good(tmp_path: Path, text: str) -> None:
    assert checked(tmp_path, text) == 4


@given(labels=st.lists(st.permutations(range(9)).map(lambda all: all[:5]), min_size=1, max_size=20))
def test_what_is_written_is_good(
    tmp_path_factory: pytest.TempPathFactory, labels: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("written")
    names = [f"{number}.jpg" for number in range(len(labels))]
    (folder / "list").write_text("\n".join(names))
    text = "".join(lines_of(names, labels))
    (folder / "predictions.zip").write_bytes(zipped(text))
    assert check(folder / "predictions.zip", folder / "list", 9) == len(labels)
    with zipfile.ZipFile(folder / "predictions.zip") as file:
        assert file.read("predictions.txt").decode() == text
    assert zipped(text) == zipped(text)


LINES = GOOD.splitlines()
FAULTS = [
    ("\n".join(LINES[:3]), "has 3 lines, but the list .* has 4; after line 3 must come test000004"),
    ("\n".join([*LINES, "more.jpg 0 1 2 3 4"]), "line 5 is more.jpg, but the list has 4 images"),
    (
        "\n".join([LINES[1], LINES[0]]),
        "line 1 is 'test000002.jpg', but the list has test000001.jpg",
    ),
    ("\n".join([LINES[0], LINES[0]]), "line 2 names test000001.jpg, as line 1 does"),
    ("\n".join([LINES[0], "", *LINES[1:]]), "line 2 is blank"),
    (GOOD.replace(" 0\n", "\n", 1), "line 1 has 4 labels; it must have 5"),
    (GOOD.replace(" 0\n", " 0 1\n", 1), "line 1 has 6 labels"),
    (GOOD.replace("4 3", "4 4", 1), "line 1 has the label 4 twice"),
    (GOOD.replace("4 3", "4 04", 1), "line 1 has the label 04 twice"),
    (GOOD.replace("4 3", "5 3", 1), "line 1 has the label 5; allowed is 0 to 4"),
    (GOOD.replace("4 3", "-1 3", 1), "line 1 has the label '-1'; it must be a whole number"),
    (GOOD.replace("4 3", "4.0 3", 1), "line 1 has the label '4.0'"),
    (b"\xff\xfe\x00", "is not a text file"),
    ("", "has 0 lines, but the list .* after line 0 must come test000001.jpg"),
]


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=[said[:30] for _, said in FAULTS])
def test_each_fault_names_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(SubmissionError, match=said) as caught:
        checked(tmp_path, text)
    assert str(tmp_path / "predictions.txt") in str(caught.value)


@pytest.mark.parametrize("held", [[], ["other.txt"], ["predictions.txt", "more.txt"]])
def test_a_zip_must_hold_the_file_alone(tmp_path: Path, held: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for name in held:
            file.writestr(name, GOOD)
    (tmp_path / "list").write_text("\n".join(NAMES))
    with pytest.raises(SubmissionError, match=r"it must hold predictions\.txt alone"):
        check(tmp_path / "p.zip", tmp_path / "list", 5)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"the list .* is empty"):
        checked(tmp_path, GOOD, names=[])
