"""Recipes that write published nets, one module per family, and `models/`: what they wrote.

    recipe = prototxt.build("ssd300_vgg16_voc0712", prototxt.Options(num_classes=5))
    prototxt.write(recipe, "models/ssd300_vgg16_voc0712")

`python -m pyscratchdet.prototxt` writes models/ anew. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pyscratchdet.errors import UsageError, nearest
from pyscratchdet.files import read_json, write_text
from pyscratchdet.proto import text
from pyscratchdet.prototxt.recipe import DataSet, Entry, Options, Recipe, Training

__all__ = [
    "DataSet",
    "Entry",
    "Options",
    "Recipe",
    "Training",
    "build",
    "costs",
    "entries",
    "write",
    "write_tree",
    "write_unless_edited",
]

MODELS = Path(__file__).parent / "models"
COSTS = "costs.tsv"
_RECORD = ".written.json"
PARTS = ("train", "test", "deploy", "solver")
_VERBS = {"size": "resize", "width": "widen"}
_FAMILIES = ("scratchdet", "ssd", "refinedet", "dsod", "mmdetection", "ablations")


@functools.cache
def entries() -> dict[str, Entry]:
    """Returns all recipes by name, family after family."""
    modules = [importlib.import_module(f"{__name__}.{family}") for family in _FAMILIES]
    return {entry.name: entry for module in modules for entry in module.ENTRIES}


def build(name: str, options: Options | None = None) -> Recipe:
    """Returns the recipe of that name with the user's own settings.

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
                f"{name} has a fixed {option}", code="recipe.option", hint=f"these do not: {', '.join(able)}"
            )
    recipe: Recipe = entry.build(options)
    return recipe


def write(recipe: Recipe, folder: str | os.PathLike[str], parts: Sequence[str] = PARTS) -> list[Path]:
    """Writes the prototxts and the job script; returns their paths.

    Raises:
        FileError: The folder cannot be written.
    """
    return [_write_file(Path(folder) / name, content) for name, content in _files(recipe, parts).items()]


def write_unless_edited(
    recipe: Recipe, folder: str | os.PathLike[str], redo: bool = False
) -> tuple[list[Path], list[Path]]:
    """Writes the prototxts and the job script, but for files of these names that someone has changed by hand.

    A digest of each file as it was written is kept in `.written.json` beside them; a file that is not listed there is
    taken for someone's own.

    Args:
        recipe: What to write.
        folder: Where to.
        redo: Write over changed files, too.

    Returns:
        The paths written, and those left alone.

    Raises:
        FileError: The folder cannot be written.
    """
    record = Path(folder) / _RECORD
    written = read_json(record, "a record of written files", "recipe.record") if record.exists() else {}
    paths, kept = [], []
    for name, content in _files(recipe, PARTS).items():
        path = Path(folder) / name
        present = _digest(path.read_bytes()) if path.exists() else None
        if present not in (None, written.get(name), _digest(content.encode())) and not redo:
            kept.append(path)
            continue
        paths.append(_write_file(path, content))
        written[name] = _digest(content.encode())
    write_text(record, json.dumps(written, indent=1) + "\n")
    return paths, kept


def _files(recipe: Recipe, parts: Sequence[str]) -> dict[str, str]:
    """Name and text of each file."""
    texts = {f"{part}.prototxt": text.to_text(getattr(recipe, part)) for part in parts}
    return {**texts, f"{recipe.name}.sh": recipe.job}


def _write_file(path: Path, content: str) -> Path:
    write_text(path, content)
    if path.suffix == ".sh":
        path.chmod(0o755)
    return path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def costs() -> dict[str, tuple[int, int]]:
    """Returns {recipe: (parameters, multiply-accumulates)} of the deploy nets, from the table in models/."""
    rows = [line.split("\t") for line in (MODELS / COSTS).read_text(encoding="utf-8").splitlines()[1:]]
    return {name: (int(parameters), int(macs)) for name, parameters, macs in rows}


def _cost_table(recipes: dict[str, Recipe]) -> str:
    from pyscratchdet.layers.costs import net_cost
    from pyscratchdet.layers.plan import plan_net

    rows = ["recipe\tparameters\tmacs"]
    for name, recipe in recipes.items():
        cost = net_cost(plan_net(recipe.deploy))
        rows.append(f"{name}\t{cost.num_parameters}\t{cost.macs}")
    return "\n".join(rows) + "\n"


def write_tree(folder: str | os.PathLike[str], root: str = "prototxt/models") -> list[Path]:
    """Writes every recipe below `folder`, with paths that start with `root`; returns the paths of all files.

    A recipe whose nets are another's gets a solver that names the other's files. `costs.tsv` lists the cost of each.

    Raises:
        FileError: The folder cannot be written.
    """
    recipes = {name: build(name, Options(folder=f"{root}/{name}")) for name in entries()}
    paths = [Path(folder) / COSTS]
    write_text(paths[0], _cost_table(recipes))
    for name, entry in entries().items():
        recipe = recipes[name]
        if entry.nets_of is None:
            paths += write(recipe, Path(folder) / name)
            continue
        recipe.solver.train_net = f"{root}/{entry.nets_of}/train.prototxt"
        recipe.solver.test_net[:] = [f"{root}/{entry.nets_of}/test.prototxt"] * len(recipe.solver.test_net)
        paths += write(recipe, Path(folder) / name, ["solver"])
    return paths
