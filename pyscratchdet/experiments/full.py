"""An experiment at its published size: the recipe as it is, on PASCAL VOC.

Cells that need MS COCO, or VOC 2012's test set, whose annotations are on a server alone, are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyscratchdet import prototxt
from pyscratchdet.data.label_map import label_to_name, voc_label_map, write_label_map
from pyscratchdet.data.voc import voc_entries
from pyscratchdet.errors import FileError, UsageError
from pyscratchdet.evaluate.sets import find_voc
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.sources import Sources, write
from pyscratchdet.prototxt import Options, Recipe

TRAIN, TEST = "VOC 2007+2012 trainval", "VOC 2007 test"
RULE = 1
"""The number of the published settings' interpretation in `build`: see `mini.RULE`."""
TRAINING: dict[str, Any] = {}
"""Fields of `TrainSettings`; none differs."""


def lists(cell: Cell, data: str) -> list[tuple[Path, str]]:
    """Returns the (VOC folder, list) pairs that a cell is trained and tested on, the test last.

    Raises:
        UsageError: The cell has no net here, or is trained or tested on something else.
        FileError: A year is missing.
    """
    if not cell.recipe or (cell.train, cell.test) != (TRAIN, TEST) or "/" in cell.start:
        raise UsageError(
            f"{cell.name} cannot be run by this command",
            code="experiment.sources",
            expected=f"a cell that is trained on {TRAIN} and tested on {TEST}",
            found=f"{cell.recipe or 'no net'}, {cell.train}, {cell.test}, from {cell.start}",
            hint="scripts/train_coco.sh, scripts/train_voc.sh and scripts/finetune_voc_from_coco.sh do the others",
        )
    first, second = (find_voc(data, year) for year in ("2007", "2012"))
    return [(first, "trainval"), (second, "trainval"), (first, "test")]


def sources(cell: Cell, root: Path, data: str) -> Sources:
    """Returns VOC 2007 and 2012 trainval, and VOC 2007 test; the database is made below `root` unless it is there.

    Raises:
        UsageError: The cell has no net here, or is trained or tested on something else.
        FileError, DataError: The devkit lacks a list, a picture or an annotation.
    """
    test = lists(cell, data)[-1][0]
    label_map, database = root / "data" / "labelmap_voc.prototxt", root / "data" / "VOC0712_trainval_lmdb"
    names = voc_label_map()
    if not database.exists():
        write_label_map(label_map, names)
        write(database, Path(data), voc_entries(data, ["2007_trainval", "2012_trainval"]), label_map)
    classes = tuple(name for label, name in sorted(label_to_name(names).items()) if label)
    return Sources(database, label_map, classes, test)


def build(
    cell: Cell, sources: Sources, folder: Path, seed: int, num_gpus: int = 0, iterations: int | None = None
) -> Recipe:
    """Returns a cell's recipe with the user's own paths and devices; tests while it trains are left out.

    Args:
        cell: What to train.
        sources: What to train it on.
        folder: Where the recipe will be.
        seed: Of the initial weights and of everything that is drawn.
        num_gpus: How many share a batch; 0 for the CPU.
        iterations: Instead of the published ones; the rate falls after the same shares.
    """
    options: dict[str, Any] = {
        "folder": str(folder),
        "train_source": str(sources.train_source),
        "label_map_file": str(sources.label_map),
        "output_directory": "",
        "gpus": tuple(range(num_gpus)),
        "max_iter": iterations,
        **cell.settings,
    }
    recipe = prototxt.build(cell.recipe, Options(**options))
    for name in ("test_net", "test_iter", "test_interval"):
        recipe.solver.ClearField(name)
    recipe.solver.debug_info = False
    recipe.solver.random_seed = seed
    return recipe


def start(cell: Cell, recipe: Recipe, root: Path) -> Path | None:
    """Returns the classifier's weights that a cell starts from; None for from scratch.

    Raises:
        FileError: The file is not where it should be.
    """
    if cell.start != "classifier":
        return None
    weights = root / "pretraining" / Path(recipe.weights or "").name
    if not weights.is_file():
        raise FileError(f"no {weights}", code="experiment.weights", hint="put the classifier's caffemodel there")
    return weights
