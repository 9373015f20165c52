"""VOC's annotation files, one XML per picture: reading, with positions in errors, and writing."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from xml.parsers import expat

from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_bytes

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# What XML 1.0 (section 2.2) cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class VocObject:
    """One annotated object.

    Attributes:
        name: Class name, as the file has it.
        box_px: xmin, ymin, xmax, ymax in VOC's convention: pixels counted from 1, borders included.
        difficult: Devkits do not count such objects.
        truncated: It reaches beyond the picture.
        occluded: Another object covers a part of it.
        is_difficult_to_caffe: `difficult` as convert_annoset reads it: only if it comes before the box.
        score: A detection's score; None for ground truth.
    """

    name: str
    box_px: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    is_difficult_to_caffe: bool = False
    score: float | None = None


@dataclass(frozen=True)
class VocAnnotation:
    """What one file says.

    Attributes:
        size: Width and height of the picture; None if the file does not state them.
        objects: In the order of the file.
        file_name: The picture's, as the file has it; "" if it names none.
    """

    size: tuple[int, int] | None
    objects: list[VocObject]
    file_name: str = ""


def read_voc_xml(path: str | os.PathLike[str]) -> VocAnnotation:
    """Reads one annotation file.

    Raises:
        FileError: It cannot be read.
        DataError: It is damaged, or an object lacks its name or box, or a coordinate is missing or not a number.
    """
    document = _Document(os.fspath(path), read_bytes(path))
    if document.root.tag != "annotation":
        raise document.error(document.root, "not a VOC annotation", expected="<annotation>", found=document.root.tag)
    width, height = (whole_number(_text(document.root.find(f"size/{side}"))) for side in ("width", "height"))
    size = None if width is None or height is None else (width, height)
    objects = [document.read_object(part) for part in document.root.iterfind("object")]
    return VocAnnotation(size, objects, _text(document.root.find("filename")).strip())


class _Document:
    """A parsed file that knows the line of each element."""

    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._lines: dict[ElementTree.Element, int] = {}
        builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()

        def start(tag: str, attributes: dict[str, str]) -> None:
            self._lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

        def skip(name: str, is_parameter: bool) -> None:
            raise ValueError(f"unknown entity &{name};")

        parser.StartElementHandler, parser.EndElementHandler = start, builder.end
        parser.CharacterDataHandler, parser.SkippedEntityHandler = builder.data, skip

        def declare(name: str, *_: object) -> None:  # a few hundred bytes of entities can become megabytes
            raise ValueError(f"it declares an entity, &{name};")

        parser.EntityDeclHandler = declare
        parser.buffer_text = True
        try:
            parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            position = Position(path, parser.ErrorLineNumber, parser.ErrorColumnNumber + 1)
            raise DataError(f"not a VOC annotation: {error}", code="data.annotation", position=position) from error
        self.root = builder.close()

    def read_object(self, element: ElementTree.Element) -> VocObject:
        """Reads an <object>."""
        name, box, flags = self._only(element, "name"), self._only(element, "bndbox"), {}
        for flag in ("difficult", "truncated", "occluded"):
            flags[flag] = _text(element.find(flag)).strip() == "1"
        xmin, ymin, xmax, ymax = (self._coordinate(element, box, corner) for corner in _CORNERS)
        # convert_annoset does not strip blanks, and reads the fields in their order.
        before = list(element)[: list(element).index(box)]
        is_difficult = [_text(part) == "1" for part in before if part.tag == "difficult"][-1:] == [True]
        return VocObject(_text(name), (xmin, ymin, xmax, ymax), **flags, is_difficult_to_caffe=is_difficult)

    def _only(self, thing: ElementTree.Element, tag: str) -> ElementTree.Element:
        found = thing.findall(tag)
        if len(found) != 1:
            raise self.error(thing, f"{_title(thing)} needs one {tag}", found=len(found))
        return found[0]

    def _coordinate(self, thing: ElementTree.Element, box: ElementTree.Element, corner: str) -> float:
        element = box.find(corner)
        if element is None:
            raise self.error(box, f"{_title(thing)} has no {corner}")
        value = finite_number(_text(element))
        if value is None:
            raise self.error(element, f"{corner} of {_title(thing)} is not a number", found=repr(_text(element)))
        return value

    def error(self, element: ElementTree.Element, message: str, **details: object) -> DataError:
        """Returns the error about an element."""
        position = Position(self._path, self._lines[element])
        return DataError(message, code="data.annotation", position=position, **details)  # type: ignore[arg-type]


def _title(thing: ElementTree.Element) -> str:
    name = _text(thing.find("name")).strip()
    return f'object "{name}"' if name else "an object"


def _text(element: ElementTree.Element | None) -> str:
    """Returns an element's own text, as boost's property tree keeps it: untrimmed, without the children's."""
    if element is None:
        return ""
    return (element.text or "") + "".join(child.tail or "" for child in element)


def finite_number(text: str) -> float | None:
    """Returns the finite number that a text stands for; None if it is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def whole_number(text: str) -> int | None:
    """Returns the whole number that a text stands for; None if it is not one."""
    try:
        return None if "_" in text else int(text)
    except ValueError:
        return None


def voc_xml(
    name: str, width: int, height: int, objects: Sequence[VocObject], database: str = "", folder: str = "VOC2007"
) -> str:
    """Returns the annotation file of a picture.

    Args:
        name: The picture's file name.
        width: In pixels.
        height: In pixels.
        objects: What is in it.
        database: The data set that the picture is from; "" for none.
        folder: The data set's folder; "" for none.
    """
    root = ElementTree.Element("annotation")
    if folder:
        _add(root, folder=folder)
    _add(root, filename=name)
    if database:
        _add(ElementTree.SubElement(root, "source"), database=database)
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for thing in objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, name=thing.name, pose="Unspecified", truncated=int(thing.truncated))
        _add(element, occluded=int(thing.occluded), difficult=int(thing.difficult))
        if thing.score is not None:
            _add(element, score=thing.score)
        corners = {corner: f"{value:.15g}" for corner, value in zip(_CORNERS, thing.box_px, strict=True)}
        _add(ElementTree.SubElement(element, "bndbox"), **corners)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = _ILLEGAL.sub("\ufffd", str(text))
