"""A CSV file with a row for each box, in the layouts of public sets: columns are known by their names.

Without a header: keras-retinanet's `path,x1,y1,x2,y2,class`, and TensorFlow's
`filename,width,height,class,xmin,ymin,xmax,ymax`. Boxes that are relative to the picture, as in Open Images, are
recognised by their values.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pyscratchdet.data.lists import read_lines
from pyscratchdet.data.own.sheets import Annotations, Mark, Sheet
from pyscratchdet.data.voc_xml import finite_number
from pyscratchdet.errors import DataError, Position

# The names that a column may have, in lower case, without "_", "-" and blanks; earlier ones are preferred.
_NAMES: dict[str, tuple[str, ...]] = {
    "file": ("filename", "file", "filepath", "path", "imagename", "imagefile", "imagefilename", "imagepath", "imageid",
             "image", "imgname", "imgpath", "img"),
    "class": ("class", "classname", "labelname", "label", "categoryname", "category", "objectname", "object"),
    "xmin": ("xmin", "x1", "left", "xtl", "minx", "bboxxmin", "bboxx1"),
    "ymin": ("ymin", "y1", "top", "ytl", "miny", "bboxymin", "bboxy1"),
    "xmax": ("xmax", "x2", "right", "xbr", "maxx", "bboxxmax", "bboxx2"),
    "ymax": ("ymax", "y2", "bottom", "ybr", "maxy", "bboxymax", "bboxy2"),
    "x": ("bboxx", "x"),
    "y": ("bboxy", "y"),
    "w": ("bboxwidth", "bboxw", "w"),
    "h": ("bboxheight", "bboxh", "h"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "difficult": ("difficult", "isgroupof", "iscrowd"),
}  # fmt: skip
_CORNERS, _SIZED = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h")
_BARE = (
    ("file", "xmin", "ymin", "xmax", "ymax", "class"),
    ("file", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"),
)
# Boxes in pixels have larger values somewhere; relative ones may reach a little beyond the picture.
_MOST_SHARE = 1.5

Columns = dict[str, int]
Row = tuple[int, list[str]]


def read_csv_file(path: Path) -> Annotations:
    """Reads a CSV file; its rows belong to the pictures whose names they begin with.

    Raises:
        FileError: It cannot be read.
        DataError: It is in UTF-16, has no rows, or has a layout that is not known.
    """
    rows = _rows(path)
    columns, has_header = _columns(path, rows[0][1])
    result = Annotations("CSV", [], files=[str(path)])
    sheets: dict[str, Sheet] = {}
    for number, fields in rows[has_header:]:
        read = {key: fields[column].strip() if column < len(fields) else "" for key, column in columns.items()}
        sheet = sheets.setdefault(read["file"], _sheet(path, read))
        mark = _mark(read, f"{path}:{number}")
        if isinstance(mark, str):
            result.skipped.append((f"{path}:{number}", mark))
        elif mark is not None:
            sheet.marks.append(mark)
    result.sheets = list(sheets.values())
    if _are_relative(result.sheets):
        result.form = "CSV with relative boxes"
        for sheet in result.sheets:
            sheet.frame = (1.0, 1.0)
    return result


def _rows(path: Path) -> list[Row]:
    lines = read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        rows = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", code="data.csv", position=Position(str(path), reader.line_num)) from error
    if not rows:
        raise DataError("the CSV file is empty", code="data.csv", position=Position(str(path)))
    return rows


def _columns(path: Path, first: list[str]) -> tuple[Columns, bool]:
    """Returns where each thing is, and whether the first row is a header."""
    for layout in _BARE:
        if len(first) == len(layout) and all(
            _is_number(text) == (key not in ("file", "class")) for key, text in zip(layout, first, strict=True)
        ):
            return {key: column for column, key in enumerate(layout)}, False
    plain = [re.sub(r"[\s_-]", "", text).lower() for text in first]
    found = {
        key: plain.index(name)
        for key, names in _NAMES.items()
        if (name := next((name for name in names if name in plain), None)) is not None
    }
    has_box = any(all(key in found for key in box) for box in (_CORNERS, _SIZED))
    if not has_box or "file" not in found or "class" not in found:
        raise DataError(
            "unknown CSV layout",
            code="data.csv",
            position=Position(str(path), 1),
            expected="columns called filename, class, xmin, ymin, xmax, ymax (width and height are the picture's), or "
            "rows of path, x1, y1, x2, y2, class",
            found=", ".join(first),
            hint=_hint(plain),
        )
    return found, True


def _hint(plain: list[str]) -> str:
    if "regionshapeattributes" in plain:
        return "this is VGG Image Annotator's own CSV: export the annotations as COCO json there"
    return "rename the columns in its first line"


def _is_number(text: str) -> bool:
    return finite_number(text) is not None or not text.strip()


def _sheet(path: Path, read: Mapping[str, str]) -> Sheet:
    width, height = (finite_number(read.get(side, "")) for side in ("width", "height"))
    name = PurePosixPath(read["file"].replace("\\", "/"))
    return Sheet(name, str(path), None if width is None or height is None else (width, height))


def _mark(read: Mapping[str, str], place: str) -> Mark | str | None:
    """Returns the object of a row, why it is none, or None where a row only names a picture without objects."""
    keys = _CORNERS if "xmin" in read and "xmax" in read else _SIZED
    texts = [read[key] for key in keys]
    if not any(texts):
        return None
    values = [finite_number(text) for text in texts]
    if None in values:
        return f"a box that is not four numbers: {', '.join(texts)}"
    if not read["class"]:
        return "a box without a class"
    a, b, c, d = (value for value in values if value is not None)
    box = (a, b, c, d) if keys == _CORNERS else (a, b, a + c, b + d)
    return Mark(read["class"], box, read.get("difficult", "") in ("1", "true", "True"), place)


def _are_relative(sheets: list[Sheet]) -> bool:
    highest = [max(mark.box) for sheet in sheets for mark in sheet.marks]
    return bool(highest) and max(highest) <= _MOST_SHARE
