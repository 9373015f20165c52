"""A detector judged on a set of pictures, in one call."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pyscratchdet.data.figures import FIGURES_FILE
from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.runner import run_set
from pyscratchdet.evaluate.sets import find_voc, folder_truth, read_voc_truth
from pyscratchdet.evaluate.voc import VocResult, evaluate_voc


def evaluate_detector(
    detector: Detector,
    data: str | os.PathLike[str],
    image_set: str = "test",
    *,
    year: str | None = None,
    metric: str = "11point",
    overlap: float = 0.5,
) -> VocResult:
    """Returns the average precision of a detector on pictures, by the rules of PASCAL VOC's devkit.

    Args:
        detector: Its classes are the classes that count, so it needs a label map.
        data: A VOCdevkit, or one of its years; or a folder that `pyscratchdet lmdb folder` made.
        image_set: A list in ImageSets/Main, or "train" or "test" of a data folder.
        year: Which year of a devkit that has several.
        metric: "11point", VOC 2007's rule, or "area", that of the later years.
        overlap: The lowest intersection over union of a hit.

    Raises:
        FileError, DataError: A list, picture or annotation is missing or damaged, or has a class that the detector
            lacks.
    """
    if Path(data, FIGURES_FILE).is_file():
        truth = folder_truth(data, image_set)
    else:
        truth = read_voc_truth(find_voc(data, year), image_set, detector.classes)
    found, sizes = run_set(truth.names, truth.paths, detector.detect)
    truth.sizes = np.where(sizes > 0, sizes, truth.sizes)  # what annotations leave out or get wrong
    return evaluate_voc(truth, found, metric, overlap)
