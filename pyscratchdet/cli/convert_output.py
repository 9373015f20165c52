"""What `pyscratchdet convert` says of the files that it wrote."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyscratchdet.errors import counted

if TYPE_CHECKING:
    import argparse

    from pyscratchdet.converters.merge_bn import Blobs


@dataclass(frozen=True)
class Outcome:
    """What a conversion came to.

    Attributes:
        text: What is to be said about the target.
        is_sound: Whether its checks passed.
    """

    text: str
    is_sound: bool


def written(blobs: Blobs, args: argparse.Namespace) -> str:
    """Returns what to print of the weights in the file `args.target` that was written."""
    number = sum(array.size for arrays in blobs.values() for array in arrays)
    size = f"{os.path.getsize(args.target) / 1e6:.1f} MB"
    lines = [f"{counted(len(blobs), 'layer')}, {counted(number, 'value', spec=',')}, {size}"]
    return "\n".join([*lines, *notes(args.target)])


def notes(path: str) -> list[str]:
    """Returns what a user of a file that is a whole net must know; nothing for other files."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".onnx":
        import onnx

        from pyscratchdet.converters import onnx_export

        return onnx_export.notes(onnx.load(path))
    if ending == ".pt2":
        from pyscratchdet.converters.torch_program import program_notes

        return program_notes(path)
    if ending == ".py":
        from pyscratchdet.converters.torch_source import source_notes, weights_path

        weights = weights_path(path)
        return [f"  its weights: {weights}, {os.path.getsize(weights) / 1e6:.1f} MB", *source_notes(path)]
    return []
