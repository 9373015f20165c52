"""A folder of VOC XML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pyscratchdet.data.own.sheets import Annotations, Mark, Sheet
from pyscratchdet.data.voc_xml import read_voc_xml
from pyscratchdet.errors import DataError, counted


def read_voc_folder(root: Path, files: Sequence[Path]) -> Annotations:
    """Reads VOC XML files; each belongs to the picture with the file's own name, whatever its <filename> says."""
    result = Annotations("VOC XML", [], files=[str(file) for file in files])
    strangers = []
    for file in files:
        sheet = Sheet(PurePosixPath(file.relative_to(root).with_suffix("").as_posix()), str(file))
        try:
            content = read_voc_xml(file)
        except DataError as error:
            sheet.fault = str(error)
        else:
            sheet.frame = content.size
            sheet.marks = [
                Mark(thing.name.strip(), thing.box_px, thing.difficult, str(file)) for thing in content.objects
            ]
            if content.file_name and not _means(content.file_name, file.stem):
                strangers.append((file.name, content.file_name))
        result.sheets.append(sheet)
    if strangers:
        name, stated = strangers[0]
        result.notes.append(
            f"{counted(len(strangers), 'XML file')} of {len(files)} state another <filename> than their own, such as "
            f"{stated} in {name}: the XML file's own name counts"
        )
    return result


def _means(stated: str, stem: str) -> bool:
    name = stated.replace("\\", "/").rpartition("/")[2]
    return stem in (name, PurePosixPath(name).stem)
