"""What all results in one folder have in common; what would be measured otherwise is refused there.

Databases, pretrained bodies and results are never made twice, so they must not be taken for those of other pictures or
of another rule.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyscratchdet.errors import DataError, counted
from pyscratchdet.evaluate.sets import image_names
from pyscratchdet.files import read_bytes, read_json, write_text

FILE = "settings.json"
_CODE = "experiment.settings"


@dataclass(frozen=True)
class Settings:
    """What must be the same for a whole folder.

    Attributes:
        scale: "mini" or "full".
        rule: The number of the rule that makes the scale's nets and solvers.
        pictures: {list of a VOC folder: its length and a hash of its names and annotations}, of training and test.
    """

    scale: str
    rule: int
    pictures: dict[str, str]

    def __str__(self) -> str:
        pictures = "; ".join(f"{name}: {value}" for name, value in self.pictures.items())
        return f"--scale {self.scale} by rule {self.rule} on {pictures}"


def describe(lists: Sequence[tuple[Path, str]]) -> dict[str, str]:
    """Returns {"VOC2007 test": "72 pictures, SHA-256 0123456789ab"} for (VOC folder, list) pairs.

    Raises:
        FileError, DataError: A list or an annotation is missing.
    """
    return {f"{base.name} {name}": _describe(base, name) for base, name in lists}


@functools.cache
def _describe(base: Path, image_set: str) -> str:
    digest, names = hashlib.sha256(), image_names(base, image_set)
    for name in names:
        digest.update(name.encode())
        digest.update(read_bytes(base / "Annotations" / f"{name}.xml"))
    return f"{counted(len(names), 'picture')}, SHA-256 {digest.hexdigest()[:12]}"


def read_settings(root: Path) -> Settings:
    """Returns the settings of a folder of results.

    Raises:
        DataError: It has none, so nobody knows how its results were measured; or they are damaged.
    """
    path = root / FILE
    if not path.exists():
        raise DataError(
            f"{root} does not say how its results were measured",
            code=_CODE,
            expected=FILE,
            hint="measure anew in another folder",
        )
    try:
        return Settings(**read_json(path, "settings", _CODE))
    except TypeError as error:
        raise DataError(f"{path}: not settings: {error}", code=_CODE) from error


def check(root: Path, settings: Settings) -> None:
    """Raises DataError where a folder's results are of other settings than these."""
    found = read_settings(root)
    if found != settings:
        raise DataError(
            f"{root} has results of other settings",
            code=_CODE,
            expected=str(settings),
            found=str(found),
            hint="give another folder",
        )


def keep(root: Path, settings: Settings) -> None:
    """Writes the settings of a folder in which nothing was made yet, or checks them.

    Raises:
        DataError: What is there was made by other settings, or by unknown ones.
    """
    if (root / FILE).exists() or (root / "data").exists():
        check(root, settings)
    else:
        write_text(root / FILE, json.dumps(asdict(settings), indent=1) + "\n")
