"""What the cells of an experiment are trained and tested on: databases made once, and the annotations to test by."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyscratchdet.data.annoset import AnnosetOptions, write_annoset
from pyscratchdet.data.label_map import BACKGROUND, make_label_map, write_label_map
from pyscratchdet.data.lists import Entry
from pyscratchdet.data.voc import voc_entries
from pyscratchdet.errors import FileError
from pyscratchdet.evaluate.sets import read_voc_truth
from pyscratchdet.files import locked_folder

_WAIT = 0.5  # seconds


@dataclass(frozen=True)
class Sources:
    """A training database and a test set.

    Attributes:
        train_source: AnnotatedDatum LMDB.
        label_map: Label map prototxt.
        classes: Names of labels 1 and up.
        test: VOC folder with the test pictures and their annotations.
        test_set: A list of its ImageSets/Main.
    """

    train_source: Path
    label_map: Path
    classes: tuple[str, ...]
    test: Path
    test_set: str = "test"

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.classes) + 1


def of_tree(folder: Path, base: Path, stored: int) -> Sources:
    """Returns the lists trainval and test of one VOC folder; its database is made in `folder` unless it is there.

    Args:
        folder: For the database and the label map.
        base: The VOC folder, as `find_voc` returns it.
        stored: The longer side of stored pictures, in pixels.

    Raises:
        FileError, DataError: A part of it is missing or damaged.
    """
    classes = read_voc_truth(base, "trainval").classes
    label_map, database = folder / "labelmap.prototxt", folder / "trainval_lmdb"
    if not database.exists():
        write_label_map(
            label_map, make_label_map([BACKGROUND, *((name, k, name) for k, name in enumerate(classes, 1))])
        )
        write(database, base.parent, voc_entries(base.parent, ["trainval"], [base.name]), label_map, stored)
    return Sources(database, label_map, classes, base)


def write(database: Path, root: Path, entries: Sequence[Entry], label_map: Path | None, stored: int = 0) -> None:
    """Writes a shuffled database: boxes with a label map, or else a label for each picture."""
    options = AnnosetOptions(
        anno_type="detection" if label_map else "classification",
        label_map_file=str(label_map or ""),
        check_label=label_map is not None,
        encoded=True,
        encode_type="jpg",
        shuffle=True,
        seed=0,
        max_dim=stored,
    )
    write_annoset(os.path.join(root, ""), entries, database, options)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process at a time into the block; the others wait, and find there what the first has made.

    Raises:
        FileError: The folder that says so cannot be made.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_folder(folder))
                break
            except FileError as error:
                if error.code != "file.busy":
                    raise
                time.sleep(_WAIT)
        yield
