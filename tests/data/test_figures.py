"""The figures of a data folder: written and read back, and refused when they are not what they should be."""

import json
import subprocess
import sys

import pytest

from pyscratchdet.data.figures import DataFigures, SplitFigures
from pyscratchdet.errors import DataError, FileError

FIGURES = DataFigures(
    ["cat", "dog", "<bird>"],
    SplitFigures(7, 3, [2, 0, 1]),
    SplitFigures(2, 1, [0, 1, 0]),
    (640, 427),
    [(0.25, 0.5), (0.0312, 0.9), (1.0, 1.0)],
)


def test_what_is_written_is_read_back(tmp_path):
    FIGURES.write(tmp_path)
    assert DataFigures.read(tmp_path) == DataFigures.read(tmp_path / "data.json") == FIGURES
    FIGURES.write(tmp_path / "other.json")
    assert (tmp_path / "other.json").read_bytes() == (tmp_path / "data.json").read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("classes", "cat", "classes is wrong: cat"),
        ("sizes", [[0.5, 0.5]], "1 sizes for 3 training boxes"),
        ("sizes", [[0.5, 0.5], [0.1, float("nan")], [0.1, 0.1]], "sizes is wrong"),
        ("picture_size", [640, 0], "picture_size is wrong"),
        ("picture_size", [640, 480, 3], "picture_size is wrong"),
        ("train", {"pictures": 7, "boxes": 3}, "train: boxes_per_class is missing"),
        ("test", {"pictures": 2, "boxes": True, "boxes_per_class": [0, 1, 0]}, "test: boxes is wrong: True"),
        ("test", {"pictures": 2, "boxes": 1, "boxes_per_class": [0, 1]}, "does not fit the 3 classes"),
        ("test", None, "test is missing"),
    ],
)
def test_other_content_is_refused_by_name(tmp_path, field, value, says):
    FIGURES.write(tmp_path)
    content = json.loads((tmp_path / "data.json").read_text())
    content[field] = value
    if value is None:
        del content[field]
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=says) as caught:
        DataFigures.read(tmp_path)
    assert caught.value.code == "data.figures"


def test_a_missing_file_and_a_file_of_something_else(tmp_path):
    with pytest.raises(FileError):
        DataFigures.read(tmp_path)
    (tmp_path / "data.json").write_text("[1]")
    with pytest.raises(DataError, match="it is not an object"):
        DataFigures.read(tmp_path)


def test_reading_figures_does_not_import_torch():
    code = "import sys, pyscratchdet.data.figures; assert not {'torch', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
