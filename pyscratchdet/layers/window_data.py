"""Foreground and background windows of pictures, for R-CNN (window_data_layer.cpp)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.errors import DataError, Position, UsageError
from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.data import assume_shape
from pyscratchdet.lazy import Tensor, torch


@dataclass(frozen=True)
class _Window:
    path: str
    label: int
    box: tuple[int, int, int, int]


@register("WindowData")
class WindowData(Layer):
    """Tops: data (batch, channels, crop_size, crop_size) and label (batch,): background windows, then foreground.

    The window file has, for each picture: `# index`, path, channels, height, width, number of windows; then a line
    `label overlap x1 y1 x2 y2` for each window.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = exactly(2)
    is_source: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        from pyscratchdet.data.transform import DataTransformer
        from pyscratchdet.rng import CaffeRandom

        self._param, transform = self.param.window_data_param, self.param.transform_param
        self._size = transform.crop_size
        if self._size < 1 or self._param.batch_size < 1:
            raise self.fail("crop_size and batch_size must be positive", "size")
        if self._param.crop_mode not in ("warp", "square"):
            raise self.fail("unknown crop_mode", "crop-mode", expected="warp or square", found=self._param.crop_mode)
        if 2 * self._param.context_pad >= self._size:
            raise self.fail("context_pad leaves nothing of the crop", "context-pad", found=self._param.context_pad)
        try:
            self.transformer = DataTransformer(transform)
        except UsageError as error:
            raise self.fail(error.message, "transform") from error
        random, needs_random = self.context.random, self.transformer.needs_random(self.context.is_train)
        if needs_random:
            random.integer()
        self._random = CaffeRandom(random.integer())
        for _ in range(2 if needs_random else 1):
            random.integer()
        self._channels = 3
        self._is_open = os.path.exists(self._param.source)
        if self._is_open:
            self._read_windows()

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs: where the random numbers stand."""
        return self._random.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._random.state = state

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        batch_size = self._param.batch_size
        if not self._is_open:
            assume_shape(self, self._param.source, (self._channels, self._size, self._size))
        return [(batch_size, self._channels, self._size, self._size), (batch_size,)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        if not self._is_open:
            self._read_windows()  # raises, unless the file is there by now
            self._is_open = True
        num_foreground = int(np.float32(self._param.batch_size) * np.float32(self._param.fg_fraction))
        pictures, labels = [], []
        for item in range(self._param.batch_size):
            is_background = item < self._param.batch_size - num_foreground
            windows = self._background if is_background else self._foreground
            window = windows[self._random.below(len(windows))]
            is_mirrored = bool(self.param.transform_param.mirror and self._random.below(2))
            pictures.append(self._picture(window, is_mirrored))
            labels.append(window.label)
        return [torch.from_numpy(np.stack(pictures)), torch.tensor(labels, dtype=torch.float32)]

    def _picture(self, window: _Window, is_mirrored: bool) -> np.ndarray:
        """Returns one warped window (channels, size, size), with zeros where it extends beyond its picture."""
        import cv2

        from pyscratchdet.data.images import decode_image
        from pyscratchdet.data.plan import Rect
        from pyscratchdet.files import read_bytes

        image = decode_image(read_bytes(window.path), name=window.path)
        rows, columns = image.shape[:2]
        box, (top, left), (height, width) = self._place(window.box, rows, columns, is_mirrored)
        x1, y1, x2, y2 = box
        output = np.zeros((image.shape[2], self._size, self._size), np.float32)
        part = image[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
        if not part.size or height < 1 or width < 1:
            raise DataError(f"a window lies outside {window.path}", code="data.window", found=window.box)
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        if is_mirrored:
            part = part[:, ::-1]
        offset = self.transformer.mean_margin(self._size)
        place = Rect(top + offset, left + offset, height, width)
        output[:, top : top + height, left : left + width] = self.transformer.normalize(part, place)
        return output * np.float32(self._param.scale)

    def _place(
        self, box: tuple[int, int, int, int], rows: int, columns: int, is_mirrored: bool
    ) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
        """Returns the box with its context, clipped to the picture, then where it goes (top, left) and its size."""
        pad, size = self._param.context_pad, self._size
        is_square = self._param.crop_mode == "square"
        if not pad and not is_square:
            return box, (0, 0), (size, size)
        x1, y1, x2, y2 = box
        half = np.array([y2 - y1 + 1, x2 - x1 + 1], np.float32) / np.float32(2)
        center = np.array([y1, x1], np.float32) + half
        if is_square:
            half[:] = half.max()
        context = half * (np.float32(size) / np.float32(size - 2 * pad))
        low, high = [_round(v) for v in center - context], [_round(v) for v in center + context]
        limits = (rows, columns)
        full = [high[axis] - low[axis] + 1 for axis in range(2)]
        before = [max(0, -low[axis]) for axis in range(2)]
        after = [max(0, high[axis] - limits[axis] + 1) for axis in range(2)]
        scales = [np.float32(size) / np.float32(full[axis]) for axis in range(2)]
        sides = [_round(np.float32(full[axis] - before[axis] - after[axis]) * scales[axis]) for axis in range(2)]
        start = [_round(np.float32(before[axis]) * scales[axis]) for axis in range(2)]
        if is_mirrored:
            start[1] = _round(np.float32(after[1]) * scales[1])
        sides = [min(sides[axis], size - start[axis]) for axis in range(2)]
        clipped = (low[1] + before[1], low[0] + before[0], high[1] - after[1], high[0] - after[0])
        return clipped, (start[0], start[1]), (sides[0], sides[1])

    def _read_windows(self) -> None:
        from pyscratchdet.files import read_bytes

        self._foreground: list[_Window] = []
        self._background: list[_Window] = []
        tokens = iter(read_bytes(self._param.source).decode().split())
        try:
            for mark in tokens:
                if mark != "#":
                    raise ValueError(mark)
                self._read_image(tokens)
        except (ValueError, StopIteration, RuntimeError) as error:
            position = Position(self._param.source)
            raise DataError(f"damaged window file: {error}", code="data.windows", position=position) from error
        if not self._foreground or not self._background:
            raise DataError("foreground and background windows are both needed", code="data.windows",
                            position=Position(self._param.source))  # fmt: skip

    def _read_image(self, tokens: Iterator[str]) -> None:
        next(tokens)
        path = self._param.root_folder + next(tokens)
        self._channels, _, _, count = (int(next(tokens)) for _ in range(4))
        for _ in range(count):
            label, overlap = int(next(tokens)), np.float32(next(tokens))
            box = (int(next(tokens)), int(next(tokens)), int(next(tokens)), int(next(tokens)))
            if overlap >= np.float32(self._param.fg_threshold):
                if label < 1:
                    raise ValueError("a foreground window needs a label above 0")
                self._foreground.append(_Window(path, label, box))
            elif overlap < np.float32(self._param.bg_threshold):
                self._background.append(_Window(path, 0, box))


def _round(value: np.float32) -> int:
    """C's round: halves away from 0."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)
