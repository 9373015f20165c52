"""The model zoo: detectors that were trained here and come with the package, each in a folder of its name.

A folder has the deploy net, its label map, its weights as a caffemodel and as safetensors, a licence and a README that
says how it was trained and how good it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyscratchdet.errors import UsageError, nearest

_FOLDER = Path(__file__).parent
_MODEL = "deploy.prototxt"


@dataclass(frozen=True)
class ZooFiles:
    """The files of one detector, as `Detector` takes them.

    Attributes:
        model: Prototxt of the deploy net.
        weights: Caffemodel.
        labelmap: LabelMap prototxt.
    """

    model: Path
    weights: Path
    labelmap: Path


def names() -> tuple[str, ...]:
    """Returns the names of all detectors of the zoo."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob(f"*/{_MODEL}")))


def files(name: str) -> ZooFiles:
    """Returns where the files of a detector are.

    Raises:
        UsageError: No detector has this name.
    """
    if name not in names():
        hint = nearest(name, names())
        raise UsageError(f"no detector {name} in the zoo", code="detect.zoo", expected=", ".join(names()), hint=hint)
    folder = _FOLDER / name
    return ZooFiles(folder / _MODEL, folder / f"{name}.caffemodel", folder / "labelmap.prototxt")
