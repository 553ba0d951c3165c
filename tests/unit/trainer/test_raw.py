"""WebVision's two layouts, and what copies of it are known to have wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.raws import SYNSETS, Sample, Tree, picture, samples
from trainer.data import raw, texts
from trainer.data.judge import Verdict, judge

Layout = Literal["1.0", "2.0"]
LAYOUTS: tuple[Layout, ...] = ("1.0", "2.0")
VAL = [(2, picture(90)), (2, picture(91)), (0, picture(92))]


def tree(tmp_path: Path, layout: Layout = "2.0", **fields: Any) -> Path:
    return Tree(tmp_path / "raw", layout, **fields).write(samples(12), VAL).root


def records(folder: Path, tmp_path: Path) -> tuple[texts.Spool, dict[str, dict[str, Any]]]:
    """The joined texts of the training set, and its records by image id."""
    parts, _ = raw.read_lists(folder, "train")
    spool = texts.join(folder, parts, tmp_path / "spool")
    everything = spool.records(np.arange(len(spool.starts)))
    return spool, {Path(record["name"]).stem: record for record in everything}


def mislabelled(folder: Path) -> list[tuple[str, str]]:
    parts, _ = raw.read_lists(folder, "train")
    return list(raw.against_queries(folder, parts))


def relined(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the lines of a list."""
    lines = change(path.read_text().splitlines())
    path.write_text("".join(f"{line}\n" for line in lines))


# --- layouts ------------------------------------------------------------------------------------


def test_training_lists_of_1(tmp_path: Path) -> None:
    check_training_lists(tree(tmp_path, "1.0"), "1.0", "{}/q{:04d}/{}.jpg", "google/q0001.json")


def test_training_lists_of_2(tmp_path: Path) -> None:
    images = "{}_images_resized/q{:05d}/{}.jpg"
    check_training_lists(tree(tmp_path), "2.0", images, "google/q00001.json")


def check_training_lists(folder: Path, layout: Layout, image: str, meta: str) -> None:
    parts, classes = raw.read_lists(folder, "train")
    assert classes == SYNSETS
    assert [(part.source, part.layout) for part in parts] == [(s, layout) for s in raw.SOURCES]
    for part, first in zip(parts, (0, 1), strict=True):
        members = samples(12)[first::2]
        assert part.names == [image.format(s.source, s.query, s.id) for s in members]
        assert part.labels.tolist() == [s.label for s in members]
        assert [judge(folder / name).data for name in part.names] == [s.data for s in members]
    assert parts[0].metas[0] == meta
    assert parts[0].rows.tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_validation_list(layout: Layout, tmp_path: Path) -> None:
    folder = tree(tmp_path, layout)
    (part,), classes = raw.read_lists(folder, "val")
    assert (part.layout, classes) == (layout, SYNSETS)
    assert part.labels.tolist() == [2, 2, 0]  # as unbalanced as it is
    assert part.metas == [""] * 3
    assert [judge(folder / name).data for name in part.names] == [data for _, data in VAL]
    info = folder / "info/val_filelist.txt"
    info.rename(folder / "val_filelist.txt")  # where 2.0's download puts it
    assert raw.read_lists(folder, "val")[0][0].names == part.names


def test_one_source_and_the_first_classes(tmp_path: Path) -> None:
    parts, classes = raw.read_lists(tree(tmp_path), "train", "google", 2)
    assert [part.source for part in parts] == ["google"]
    assert classes == SYNSETS[:2]
    assert parts[0].labels.tolist() == [0, 1, 0, 1]
    assert [Path(name).stem for name in parts[0].names] == [f"img{i:04d}" for i in (0, 4, 6, 10)]
    assert parts[0].rows.tolist() == [1, 1, 2, 2]
    assert [Path(meta).name for meta in parts[0].metas] == ["q00001.json", "q00002.json"] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_combined_list_alone_gives_the_same_texts(layout: Layout, tmp_path: Path) -> None:
    folder = tree(tmp_path, layout)
    _, expected = records(folder, tmp_path)
    for source in raw.SOURCES:
        (folder / f"info/train_filelist_{source}.txt").unlink()
    assert [part.source for part in raw.read_lists(folder, "train")[0]] == ["all"]
    spool, found = records(folder, tmp_path)
    assert found == expected
    assert spool.mismatched == []


def test_lists_of_other_systems(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    expected, _ = raw.read_lists(folder, "train")
    for path in (folder / "info").glob("*.txt"):
        lines = path.read_text().replace(" ", "\t", 1).splitlines()
        path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{line} \r\n" for line in lines).encode())
    (folder / "info/synsets.txt").write_text("\n".join(SYNSETS) + "\n\n")
    found, classes = raw.read_lists(folder, "train")
    assert classes == SYNSETS
    assert [part.names for part in found] == [part.names for part in expected]
    assert mislabelled(folder) == []


# --- trap 1: from which number the map of queries counts -----------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("class_base", [0, 1])
@pytest.mark.parametrize("query_base", [0, 1])
def test_either_base_of_the_map_is_found(
    layout: Layout, class_base: int, query_base: int, tmp_path: Path
) -> None:
    folder = tree(tmp_path, layout, class_base=class_base, query_base=query_base)
    assert mislabelled(folder) == []
    path = folder / "info/train_filelist_flickr.txt"
    relined(path, lambda lines: [lines[0].replace(" 1", " 2"), *lines[1:]])
    name = Tree(folder, layout).image(samples(2)[1])
    assert mislabelled(folder) == [(name, "label 2, but query 2 is of class 1")]


def test_the_lists_decide_where_the_smallest_number_would_mislead(tmp_path: Path) -> None:
    # Counted from 0, but without class 0: the smallest number looks like counting from 1.
    members = [sample for sample in samples(12) if sample.label > 0]
    folder = Tree(tmp_path / "raw", class_base=0).write(members).root
    assert mislabelled(folder) == []


def test_queries_of_several_classes_and_of_none(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    path = folder / "info/queries_synsets_map.txt"
    relined(path, lambda lines: [*lines[:2], "1 2"])  # query 3 is not in it
    relist = folder / "info/train_filelist_google.txt"
    relined(relist, lambda lines: [lines[0][:-1] + "2", lines[1], lines[2][:-1] + "2", *lines[3:]])
    assert [reason for _, reason in mislabelled(folder)] == ["label 2, but query 2 is of class 1"]
    path.unlink()
    assert mislabelled(folder) == []


# --- traps 2 and 3: rows and queries from 1, labels from 0, four or five digits -----------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_image_gets_its_own_texts_and_query(layout: Layout, tmp_path: Path) -> None:
    spool, found = records(tree(tmp_path, layout), tmp_path)
    for i, sample in enumerate(samples(12)):
        record = found[sample.id]
        assert (record["title"], record["description"]) == (f"title {i}", f"description {i}")
        assert record["query"] == f"query {sample.label + 1}"  # a plus stood for the space
    assert spool.mismatched == spool.unreadable == []


def test_query_folders() -> None:
    assert raw.query_number("google/q0012/x.jpg") == 12
    assert raw.query_number("flickr_images_resized/q12597/x.jpg") == 12597
    assert raw.query_number("val_images_256/val000001.jpg") == 0
    assert raw.query_number(f"google/q{'9' * 30}/x.jpg") == 0


# --- trap 4: any field may be missing, empty or of another type ---------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({}, {}),
        ({"title": None, "description": "", "tags": None}, {}),
        ({"rank": 3, "title": "a"}, {"title": "a"}),
        ({"rank": "3", "title": 7}, {"title": "7"}),
        ({"title": ["a", "b"]}, {"title": "a b"}),
        ({"title": "half \ud800 pair"}, {"title": "half ? pair"}),
        (
            {"tags": ["Brambling", "", None, "Fringilla m."]},
            {"tags": ["Brambling", "Fringilla m."]},
        ),
        ({"tags": "brambling bird"}, {"tags": ["brambling", "bird"]}),
        ({"tags": "Fringilla m., bird,"}, {"tags": ["Fringilla m.", "bird"]}),
        ({"tag": ["misspelt"], "url": 5}, {}),
    ],
)
def test_any_field_may_be_missing_or_odd(
    text: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    members = [Sample("a", data=picture(1), text=text), Sample("b", source="flickr")]
    spool, found = records(Tree(tmp_path / "raw").write(members).root, tmp_path)
    name = "google_images_resized/q00001/a.jpg"
    empty = {"name": name, "query": "query 1", "title": "", "description": "", "tags": []}
    assert found["a"] == {**empty, **expected}
    assert spool.mismatched == []


# --- trap 5: the row must be of the image -------------------------------------------------------


def rewritten(folder: Path, change: Callable[[list[Any]], Any]) -> None:
    """Changes google's entries of query 1: img0000 and img0006."""
    path = folder / "google/q00001.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


MIXED_UP: list[tuple[Callable[[list[Any]], Any], list[str], list[str]]] = [
    (lambda e: e[::-1], ["1 of J is of 'img0006'", "2 of J is of 'img0000'"], ["0", "6"]),
    (lambda e: [{}, *e], ["1 of J is of None", "2 of J is of 'img0000'"], ["0", "6"]),
    (lambda e: e[1:], ["1 of J is of 'img0006'", "2 of J, whose rows are 1 to 1"], ["", "6"]),
    (lambda e: ["odd", e[1]], ["1 of J is of None"], ["", "6"]),
    (lambda e: [{"title": "x"}, e[1]], ["1 of J is of None"], ["", "6"]),
    (lambda e: [{"id": ["x"] * 999}, e[1]], ["1 of J is of ['x', 'x', 'x'"], ["", "6"]),
    (lambda e: [], ["1 of J, whose rows are 1 to 0", "2 of J, whose rows"], ["", ""]),
]


@pytest.mark.parametrize(("change", "reasons", "titles"), MIXED_UP)
def test_texts_are_joined_by_id_and_the_mismatch_reported(
    change: Callable[[list[Any]], Any], reasons: list[str], titles: list[str], tmp_path: Path
) -> None:
    folder = tree(tmp_path)
    rewritten(folder, change)
    spool, found = records(folder, tmp_path)
    for (_, reason), said in zip(spool.mismatched, reasons, strict=True):
        assert reason.replace("google/q00001.json", "J").startswith(f"row {said}")
        assert len(reason) < 150
    assert {Path(name).stem for name, _ in spool.mismatched} <= {"img0000", "img0006"}
    joined = [found[image]["title"] for image in ("img0000", "img0006")]
    assert joined == [title and f"title {title}" for title in titles]
    assert found["img0001"]["title"] == "title 1"


def test_rows_from_0_are_noticed(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    path = folder / "info/train_meta_list_google.txt"
    relined(path, lambda lines: [f"{line[:-1]}{int(line[-1]) - 1}" for line in lines])
    spool, found = records(folder, tmp_path)
    assert len(spool.mismatched) == 6
    assert spool.mismatched[0][1] == "row 0 of google/q00001.json, whose rows are 1 to 2"
    assert found["img0006"]["title"] == "title 6"


def test_shuffled_lists_without_meta_lists_are_joined_by_id(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    _, expected = records(folder, tmp_path)
    for source in raw.SOURCES:
        (folder / f"info/train_meta_list_{source}.txt").unlink()
        relined(folder / f"info/train_filelist_{source}.txt", lambda lines: lines[::-1])
    spool, found = records(folder, tmp_path)
    assert (found, spool.mismatched) == (expected, [])
    rewritten(folder, lambda entries: entries[1:])
    spool, _ = records(folder, tmp_path)
    name = "google_images_resized/q00001/img0000.jpg"
    assert spool.mismatched == [(name, "no entry of google/q00001.json has its id")]


@pytest.mark.parametrize("place", ["google_json", "info/google"])
def test_metadata_in_a_folder_of_its_own(place: str, tmp_path: Path) -> None:
    folder = tree(tmp_path)
    (folder / "google").rename(folder / place)
    spool, found = records(folder, tmp_path)
    assert found["img0006"]["title"] == "title 6"
    assert spool.unreadable == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b'[{"id": "img0000", "ti', "not valid JSON: Unterminated string"),
        (b"", "not valid JSON: Expecting value"),
        (b"[" * 100_000, "not valid JSON: maximum recursion depth"),
        (b'{"img0000": {}}', "not a JSON array, but dict"),
    ],
)
def test_unreadable_metadata_costs_the_texts_only(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    folder = tree(tmp_path)
    path = folder / "google/q00001.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    spool, found = records(folder, tmp_path)
    assert [name for name, _ in spool.unreadable] == ["google/q00001.json"]
    assert spool.unreadable[0][1].startswith(reason)
    assert spool.mismatched == []
    assert (found["img0000"]["title"], found["img0000"]["query"]) == ("", "query 1")


def test_a_metadata_name_that_no_file_can_have(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    path = folder / "info/train_meta_list_google.txt"
    relined(path, lambda lines: [f"google/{'q' * 300}.json 1", *lines[1:]])
    spool, _ = records(folder, tmp_path)
    assert [reason for _, reason in spool.unreadable] == ["file name too long"]


# --- traps 6 and 7: truncated files, other endings, other sizes ---------------------------------


def verdict(tmp_path: Path, data: bytes, name: str = "a.jpg") -> Verdict:
    (tmp_path / name).write_bytes(data)
    return judge(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (picture(1)[:-200], "not a whole picture: "),
        (picture(1)[:30], "not a whole picture: "),
        (picture(1, format="PNG")[:-300], "not a whole picture: "),
        (b"<html>not found</html>", "not a whole picture: in no format that Pillow knows"),
    ],
)
def test_damaged_images_are_told_in_one_line(data: bytes, reason: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, data)
    assert (found.state, found.data) == ("damaged", b"")
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason


def test_a_folder_or_nothing_in_the_place_of_an_image(tmp_path: Path) -> None:
    assert judge(tmp_path) == Verdict("damaged", "is a directory")
    assert judge(tmp_path / "a.jpg") == Verdict("missing", "no such file")
    assert judge(tmp_path / f"{'a' * 300}.jpg") == Verdict("damaged", "file name too long")


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".gif", ".webp"])
def test_an_image_may_have_another_ending(suffix: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, picture(1), f"a{suffix}").data == picture(1)


OTHER_KINDS: list[dict[str, Any]] = [
    *({"format": kind} for kind in ("PNG", "GIF", "WEBP", "BMP")),
    *({"mode": "CMYK"}, {"mode": "L"}, {"mode": "P", "format": "PNG"}, {"progressive": True}),
]


@pytest.mark.parametrize("options", OTHER_KINDS)
def test_what_is_no_plain_jpeg_is_good_too(options: dict[str, Any], tmp_path: Path) -> None:
    data = picture(1, **options)
    found = verdict(tmp_path, data)
    assert (found.state, found.data, found.short_side_px) == ("good", data, 16)


def test_the_shorter_side_tells_resized_from_full_size(tmp_path: Path) -> None:
    assert verdict(tmp_path, picture(1, 300, 256)).short_side_px == 256
    assert verdict(tmp_path, picture(1, 256, 300)).short_side_px == 256
    assert verdict(tmp_path, picture(1, 1024, 768)).short_side_px == 768


# --- bad lists: one line that names file and line -----------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("synsets.txt", "n1 a\n\nn2 b\nn3 c\n", "line 2 is blank, but each line must be a class"),
        ("synsets.txt", "n1 a\n", "has the label 2, but synsets.txt has 1 classes: allowed is 0"),
        ("train_filelist_google.txt", "", "is empty; it must name at least one image"),
        ("train_filelist_google.txt", "a.jpg\n", "line 1 is 'a.jpg', but it must be an image's"),
        ("train_filelist_google.txt", "a.jpg 0\na.jpg one\n", "line 2 is 'a.jpg one', but it"),
        ("train_filelist_google.txt", "a.jpg -1\n", "line 1 is 'a.jpg -1', but it must be"),
        ("train_filelist_google.txt", "a.jpg 3\n", "line 1 has the label 3, but"),
        ("train_filelist_google.txt", f"a.jpg {'9' * 5000}\n", "line 1 is 'a.jpg 999"),
        ("train_filelist_google.txt", "../../a.jpg 0\n", "line 1 is '../../a.jpg 0', but"),
        ("train_filelist_google.txt", "/a.jpg 0\n", "line 1 is '/a.jpg 0', but"),
        ("train_filelist_google.txt", "a\0.jpg 0\n", r"line 1 is 'a\x00.jpg 0', but"),
        ("train_filelist_all.txt", "a.jpg 0\n", "has 1 lines, but the lists of google and flickr"),
        ("train_meta_list_google.txt", "a.json 1\n", "has 1 lines, but "),
        ("train_meta_list_google.txt", "a.json one\n", "line 1 is 'a.json one', but it must be a"),
        ("train_meta_list_google.txt", f"a.json {2**64}\n", "line 1 is 'a.json 1844"),
        ("queries_synsets_map.txt", "1 0\n2\n", "line 2 is '2', but it must be two numbers"),
        ("queries.txt", "one fish\n", "line 1 is 'one fish', but it must begin with a number"),
    ],
)
def test_bad_lists_are_told_in_one_line(file: str, content: str, said: str, tmp_path: Path) -> None:
    folder = tree(tmp_path)
    path = folder / "info" / file
    path.write_text(content)
    if "all" not in file:
        (folder / "info/train_filelist_all.txt").unlink()  # its number of lines would tell first
    message = refused(lambda: (mislabelled(folder), records(folder, tmp_path)))
    assert file in message
    assert said in message


def refused(use: Callable[[], object]) -> str:
    with pytest.raises(raw.RawError) as caught:
        use()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_are_not_webvision(tmp_path: Path) -> None:
    said = refused(lambda: raw.read_lists(tmp_path, "train"))
    assert said.startswith(f"{tmp_path} is not WebVision's layout: it has no folder info/")
    folder = tree(tmp_path)
    said = refused(lambda: raw.read_lists(folder, "train", num_classes=9))
    assert said == f"--classes is 9, but {folder}/info/synsets.txt has 3"
    (folder / "val_images_resized").rename(folder / "elsewhere")
    said = refused(lambda: raw.read_lists(folder, "val"))
    assert said.startswith(f"{folder} has no validation images: none of val_images_256, val")
    (folder / "info/synsets.txt").unlink()
    said = refused(lambda: raw.read_lists(folder, "val"))
    assert said == f"cannot read {folder}/info/synsets.txt: no such file or directory"
