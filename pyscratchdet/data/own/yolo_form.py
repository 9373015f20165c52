"""A folder of YOLO's text files: for each object a line of class number, centre and size, relative to the picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pyscratchdet.data.lists import read_lines
from pyscratchdet.data.own.sheets import Annotations, Mark, Sheet
from pyscratchdet.data.voc_xml import finite_number, whole_number
from pyscratchdet.errors import DataError, Position, counted

# Text files beside the annotations that are something else.
_OTHERS = re.compile(
    r"(classes|labels|names|train|trainval|val|valid|test|notes|licen[cs]e|readme.*)\.txt", re.IGNORECASE
)
_NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "*.names", "labels.txt", "*.yaml")
# What stands between the commas of a YAML list in brackets.
_FLOW_ENTRY = re.compile(r"(?:'[^']*'|\"[^\"]*\"|[^,'\"])+")
# Above this a value is in pixels, not a share that is a little off.
_MOST_SHARE = 2.0


def is_yolo_file(path: Path) -> bool:
    """Whether a text file may hold a picture's annotations, by its name."""
    return not _OTHERS.fullmatch(path.name)


def read_yolo_folder(root: Path, files: Sequence[Path], pictures: Path) -> Annotations:
    """Reads YOLO text files; class names come from the first names file in or above their folder or the pictures'.

    Args:
        root: Folder of the annotations.
        files: The text files in it.
        pictures: Folder of the pictures.

    Raises:
        FileError: A file cannot be read.
        DataError: The boxes are not relative.
    """
    names, notes, found = _class_names((root, *root.absolute().parents[:2], pictures, *pictures.absolute().parents[:2]))
    result = Annotations("YOLO txt", [], list(names.values()), notes, [*map(str, files), *found])
    num_rows = num_pixels = 0
    for file in files:
        sheet = Sheet(PurePosixPath(file.relative_to(root).with_suffix("").as_posix()), str(file), (1.0, 1.0))
        for place, words in _rows(file):
            num_rows += 1
            mark = _mark(words, names, place)
            if isinstance(mark, str):
                num_pixels += mark == _PIXELS
                result.skipped.append((place, mark))
            else:
                sheet.marks.append(mark)
        result.sheets.append(sheet)
    if num_pixels * 2 > num_rows:
        raise DataError(
            f"{num_pixels} of {counted(num_rows, 'row')} are in pixels, so this is not YOLO's form",
            code="data.yolo",
            position=Position(result.skipped[0][0]),
            expected="class number, centre x, centre y, width, height, relative to the picture",
            hint="for rows of label, xmin, ymin, xmax, ymax use `pyscratchdet lmdb --label_type=txt` with a list",
        )
    return result


_PIXELS = "a box in pixels instead of relative to the picture"


def _rows(file: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(read_lines(file), 1):
        if words := line.split():
            yield f"{file}:{number}", words


def _mark(words: list[str], names: dict[int, str], place: str) -> Mark | str:
    """Returns the object of a row, or why it is none."""
    label, values = whole_number(words[0]), [finite_number(word) for word in words[1:]]
    if label is None or label < 0:
        return f"{words[0]!r} is not a class number"
    if None in values or len(values) < 4 or len(values) % 2:
        return "a row is not: class number, centre x, centre y, width, height"
    numbers = [value for value in values if value is not None]
    if max(map(abs, numbers)) > _MOST_SHARE:
        return _PIXELS
    if len(numbers) == 4:
        x, y, width, height = numbers
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:  # the outline of a segmentation: its corners one after the other
        box = (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
    return Mark(names.get(label, str(label)), box, False, place)


def _class_names(folders: Iterable[Path]) -> tuple[dict[int, str], list[str], list[str]]:
    """Returns the name of each class number, what to tell the user, and the file that they are from."""
    for folder in dict.fromkeys(folders):
        for pattern in _NAMES_FILES:
            for file in sorted(folder.glob(pattern)):
                names = _yaml_names(file) if file.suffix in (".yaml", ".yml") else _listed_names(file)
                if names:
                    return names, [f"class names are from {file}"], [str(file)]
    return {}, ["no classes.txt, obj.names or data.yaml was found, so classes are called by their numbers"], []


def _listed_names(file: Path) -> dict[int, str]:
    return {number: line.strip() for number, line in enumerate(read_lines(file)) if line.strip()}


def _yaml_names(file: Path) -> dict[int, str]:
    """Reads `names:` as [a, b], as lines of `- a`, or as lines of `0: a`; no other YAML is needed."""
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in read_lines(file)]
    start = next((number for number, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return {}
    rest = lines[start].removeprefix("names:").strip()
    if rest:
        rest += "".join(lines[start + 1 :]) if "]" not in rest and "}" not in rest else ""
        entries = _FLOW_ENTRY.findall(re.split(r"[]}]", rest.lstrip("[{"))[0])
    else:
        entries = []
        for line in lines[start + 1 :]:
            if line and not line.startswith((" ", "-")):
                break
            entries.append(line.strip().removeprefix("-"))
    return dict(_numbered(number, entry.strip()) for number, entry in enumerate(filter(str.strip, entries)))


def _numbered(number: int, entry: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d+)\s*:\s*(.*)", entry)
    number, text = (int(found[1]), found[2]) if found else (number, entry)
    return number, text.strip().strip("'\"")
