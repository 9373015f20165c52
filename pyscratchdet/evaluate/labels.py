"""Label maps: which number means which class."""

from __future__ import annotations

import os

from pyscratchdet.errors import DataError
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse


def read_label_map(path: str | os.PathLike[str]) -> dict[int, str]:
    """Reads a LabelMap prototxt.

    Returns:
        {label: display name, or the name where there is none}, by label.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is not a LabelMap.
        DataError: It is empty, or a label stands there twice.
    """
    text = read_bytes(path).decode(errors="replace")
    names: dict[int, str] = {}
    for item in parse(text, caffe_pb2.LabelMap, path=os.fspath(path)).item:
        if item.label in names:
            raise DataError(f"{os.fspath(path)}: label {item.label} stands there twice", code="evaluate.label-map")
        names[item.label] = item.display_name or item.name
    if not names:
        raise DataError(f"{os.fspath(path)}: no items", code="evaluate.label-map", expected="item { name label }")
    return dict(sorted(names.items()))
