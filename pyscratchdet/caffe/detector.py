"""caffe.Detector: a net that scores windows of pictures, R-CNN's way (detector.py)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pyscratchdet.caffe import io
from pyscratchdet.caffe.classifier import PictureNet
from pyscratchdet.errors import UsageError


class Detector(PictureNet):
    """Scores of windows, each warped to the net's input size.

    Args:
        context_pad: Border of the input, in pixels, that shows the window's surroundings; it has the mean colour where
            they lie outside the picture.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.context_pad = context_pad or 0

    def detect_windows(
        self, images_windows: Iterable[tuple[str | os.PathLike[str], Sequence[Sequence[float]]]]
    ) -> list[dict[str, Any]]:
        """Returns {filename, window, prediction} of every window; windows are (ymin, xmin, ymax, xmax) in pixels."""
        found = []
        crops = []
        for filename, windows in images_windows:
            picture = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(picture, window))
                found.append({"window": window, "filename": filename})
        if not crops:
            return []
        for entry, prediction in zip(found, self.score(crops), strict=True):
            entry["prediction"] = prediction
        return found

    def crop(self, im: np.ndarray, window: Sequence[float]) -> np.ndarray:
        """Returns a window of a height x width x channels picture, with its surroundings if `context_pad` is set.

        Raises:
            UsageError: The window lies outside the picture.
        """
        ymin, xmin, ymax, xmax = (int(edge) for edge in window)
        inside = im[ymin:ymax, xmin:xmax]
        if inside.size == 0:
            raise UsageError("window outside the picture", code="caffe.window", expected=im.shape[:2], found=window)
        return self._with_context(im, np.array([ymin, xmin, ymax, xmax])) if self.context_pad else inside

    def _with_context(self, im: np.ndarray, box: np.ndarray) -> np.ndarray:
        size = self.blobs[self.inputs[0]].width
        scale = size / (size - 2.0 * self.context_pad)
        half = (box[2:] - box[:2] + 1) / 2.0
        centre = box[:2] + half
        box = np.round(np.concatenate([centre - scale * half, centre + scale * half]))
        factor = size / (box[2:] - box[:2] + 1)
        pad = np.round(np.maximum(0, -box[:2]) * factor).astype(int)
        clipped = np.clip(box, 0, np.tile(im.shape[:2], 2)).astype(int)
        wanted = np.round((clipped[2:] - clipped[:2] + 1) * factor).astype(int)
        wanted = np.minimum(wanted, size - pad)
        result = self._mean_picture(size, im.shape[2])
        part = im[clipped[0] : clipped[2], clipped[1] : clipped[3]]
        result[pad[0] : pad[0] + wanted[0], pad[1] : pad[1] + wanted[1]] = io.resize_image(part, wanted)
        return result

    def _mean_picture(self, size: int, channels: int) -> np.ndarray:
        """The net's mean in the picture's channel order and range, so that padding becomes 0 after preprocessing."""
        name = self.inputs[0]
        transformer = self.transformer
        mean = np.broadcast_to(transformer.mean.get(name, np.zeros((channels, 1, 1))), (channels, size, size)).copy()
        if name in transformer.raw_scale:
            mean /= transformer.raw_scale[name]
        if name in transformer.channel_swap:
            mean = mean[np.argsort(transformer.channel_swap[name])]
        return mean.transpose(1, 2, 0).astype(np.float32)
