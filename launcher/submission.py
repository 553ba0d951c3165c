"""WebVision's submission, checked as the challenge would: order, count, labels, and its zip.

One line a test image, in the order of the test list: its name and five different labels, counted
from 0, the likeliest first, with any whitespace between. A zip holds that one file.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from launcher.errors import UsageError
from trainer.config import SUBMISSION_FILE, SUBMISSION_LABELS

_LABEL = re.compile("[0-9]{1,9}")


class SubmissionError(UsageError):
    """A file that the challenge would refuse: one line naming file and line."""


def check(path: Path, list_path: Path, num_classes: int) -> int:
    """Checks a predictions.txt, or a zip with one, against the test list.

    Gives the number of lines. Raises SubmissionError, OSError.
    """
    where, text = _read(path)
    names = [line.split()[0] for line in _text(list_path).splitlines() if line.strip()]
    if not names:
        raise SubmissionError(f"the list {list_path} is empty; give the challenge's test list")
    seen: dict[str, int] = {}
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        _check_line(f"{where} line {number}", line, number, names, seen, num_classes)
    if number < len(names):
        raise SubmissionError(
            f"{where} has {number} lines, but the list {list_path} has {len(names)}; after line"
            f" {number} must come {names[number]}"
        )
    return number


def _check_line(
    where: str, line: str, number: int, names: list[str], seen: dict[str, int], num_classes: int
) -> None:
    if not line.strip():
        raise SubmissionError(
            f"{where} is blank; each line must be an image and {SUBMISSION_LABELS} labels"
        )
    name, *labels = line.split()
    if name in seen:
        raise SubmissionError(f"{where} names {name}, as line {seen[name]} does; once is allowed")
    seen[name] = number
    if number > len(names):
        raise SubmissionError(f"{where} is {name}, but the list has {len(names)} images alone")
    if name != names[number - 1]:
        raise SubmissionError(
            f"{where} is {name!r:.80}, but the list has {names[number - 1]} there; keep its order"
        )
    if len(labels) != SUBMISSION_LABELS:
        raise SubmissionError(f"{where} has {len(labels)} labels; it must have {SUBMISSION_LABELS}")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise SubmissionError(f"{where} has the label {label!r:.40}; it must be a whole number")
        if int(label) >= num_classes:
            raise SubmissionError(
                f"{where} has the label {label}; allowed is 0 to {num_classes - 1}"
            )
    twice = next(
        (label for i, label in enumerate(labels) if int(label) in map(int, labels[:i])), ""
    )
    if twice:
        raise SubmissionError(f"{where} has the label {twice} twice; the labels must be different")


def _read(path: Path) -> tuple[str, str]:
    """What to call the predictions in errors, and their text."""
    if not zipfile.is_zipfile(path):
        return str(path), _text(path)
    with zipfile.ZipFile(path) as file:
        held = file.namelist()
        if held != [SUBMISSION_FILE]:
            raise SubmissionError(
                f"{path} holds {', '.join(held[:5]) or 'nothing'}; it must hold {SUBMISSION_FILE}"
                " alone"
            )
        try:
            return f"{path}/{SUBMISSION_FILE}", file.read(SUBMISSION_FILE).decode()
        except (UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise SubmissionError(f"{path}/{SUBMISSION_FILE} cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SubmissionError(f"{path} is not a text file: {error}") from error
