"""Recipes that write published nets, one module per family, and `models/`: what they wrote.

    recipe = prototxt.build("ssd300_vgg16_voc0712", prototxt.Options(num_classes=5))
    prototxt.write(recipe, "models/ssd300_vgg16_voc0712")

Nothing here imports torch.
"""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path

from google.protobuf import text_format

from prototxt.recipe import DataSet, Entry, Options, Recipe, Training
from pyscratchdet.errors import UsageError, nearest
from pyscratchdet.files import atomic_path, write_text

__all__ = ["DataSet", "Entry", "Options", "Recipe", "Training", "build", "entries", "write"]

_FAMILIES = ("scratchdet", "ssd", "refinedet")


@functools.cache
def entries() -> dict[str, Entry]:
    """Returns all recipes by name, family after family."""
    modules = [importlib.import_module(f"{__name__}.{family}") for family in _FAMILIES]
    return {entry.name: entry for module in modules for entry in module.ENTRIES}


def build(name: str, options: Options | None = None) -> Recipe:
    """Returns the recipe of that name with one's own settings.

    Raises:
        UsageError: No such recipe, or a setting that it does not have.
    """
    options = options or Options()
    if name not in entries():
        hint = nearest(name, entries()) or "`pyscratchdet generate --list` shows all"
        raise UsageError(f'no recipe called "{name}"', code="recipe.name", hint=hint)
    entry = entries()[name]
    for option, allowed in (("size", entry.can_resize), ("width", entry.can_widen)):
        if getattr(options, option) is not None and not allowed:
            able = [other.name for other in entries().values() if getattr(other, f"can_{_VERBS[option]}")]
            raise UsageError(
                f"{name} has a fixed {option}", code="recipe.option", hint=f"these have not: {', '.join(able)}"
            )
    recipe: Recipe = entry.build(options)
    return recipe


_VERBS = {"size": "resize", "width": "widen"}


def write(recipe: Recipe, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes train, test, deploy and solver prototxts and the job script; returns their paths.

    Raises:
        FileError: The folder cannot be written.
    """
    folder = Path(folder)
    paths = []
    for part in ("train", "test", "deploy", "solver"):
        paths.append(folder / f"{part}.prototxt")
        write_text(paths[-1], text_format.MessageToString(getattr(recipe, part)))
    paths.append(folder / f"{recipe.name}.sh")
    with atomic_path(paths[-1]) as temporary:
        temporary.write_text(recipe.job)
    paths[-1].chmod(0o755)
    return paths
