"""Seconds per picture from file to boxes, by stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import numpy as np

from pyscratchdet.detect.detector import Detector, StageSeconds
from pyscratchdet.detect.media import MediaSource, read_picture
from pyscratchdet.errors import DataError

STAGES = ("decode", "pre", "forward", "nms", "post")


def benchmark(
    detector: Detector, sources: Sequence[MediaSource], batch_size: int, num_images: int = 32
) -> dict[str, float]:
    """Times pictures through a detector, one warm-up batch first.

    Args:
        detector: Its batch size is changed during the measurement.
        sources: Pictures, repeated as often as needed; videos and cameras are left out.
        batch_size: Pictures per forward pass.
        num_images: Pictures to time, rounded up to whole batches.

    Returns:
        {stage: seconds per picture}: decode (file to pixels), pre (resize, mean), forward (the net up to its
        DetectionOutput), nms (DetectionOutput), post (boxes to pixels).

    Raises:
        DataError: No picture among the sources, or one that cannot be read.
    """
    paths = [source.path for source in sources if source.kind == "picture"]
    if not paths:
        raise DataError("a benchmark needs pictures", code="detect.benchmark")
    number = -(-num_images // batch_size) * batch_size
    began = time.perf_counter()
    images: list[np.ndarray] = [read_picture(path) for path in islice(cycle(paths), number)]
    decode = time.perf_counter() - began
    saved, detector.batch_size = detector.batch_size, batch_size
    try:
        detector.detect(images[:batch_size])
        detector.seconds = StageSeconds()
        detector.detect(images)
        spent = replace(detector.seconds)
    finally:
        detector.batch_size = saved
    per_image = {"decode": decode, "pre": spent.pre, "forward": spent.forward, "nms": spent.nms, "post": spent.post}
    return {stage: seconds / number for stage, seconds in per_image.items()}
