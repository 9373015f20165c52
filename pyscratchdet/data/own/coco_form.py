"""A COCO json, or several."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pyscratchdet.data.coco import read_coco
from pyscratchdet.data.own.sheets import Annotations, Mark, Sheet
from pyscratchdet.errors import DataError, Position


def read_coco_file(path: Path) -> Annotations:
    """Reads a COCO json; crowds become difficult objects, which evaluations do not count.

    Raises:
        FileError: It cannot be read.
        DataError: It is not a COCO json, or an annotation is of a category that is not listed.
    """
    coco = read_coco(path, names_only=True)
    names = {category["id"]: str(category["name"]).strip() for category in coco.ordered_categories}
    sheets = []
    for identity, image in coco.images.items():
        frame = image.get("width"), image.get("height")
        is_known = all(isinstance(side, int | float) for side in frame)
        sheet = Sheet(PurePosixPath(image["file_name"].replace("\\", "/")), str(path), frame if is_known else None)  # type: ignore[arg-type]
        for entry in coco.annotations[identity]:
            if entry["category_id"] not in names:
                raise DataError("an annotation of a category that is not listed", code="data.coco",
                                position=Position(str(path)), found=entry["category_id"])  # fmt: skip
            x, y, width, height = entry["bbox"]
            place = f"{path}, annotation {entry.get('id', '')}".rstrip()
            box = (x, y, x + width, y + height)
            sheet.marks.append(Mark(names[entry["category_id"]], box, bool(entry.get("iscrowd", 0)), place))
        sheets.append(sheet)
    return Annotations("COCO json", sheets, list(dict.fromkeys(names.values())), files=[str(path)])
