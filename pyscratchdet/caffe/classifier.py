"""caffe.Classifier: a net that scores whole pictures (classifier.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from pyscratchdet.caffe import io
from pyscratchdet.caffe.pycaffe import Net
from pyscratchdet.proto import caffe_pb2


class PictureNet(Net):
    """A TEST net with a Transformer for its first input.

    Args:
        model_file: Deploy prototxt.
        pretrained_file: Weights.
        mean, input_scale, raw_scale, channel_swap: See `io.Transformer`.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, caffe_pb2.TEST, weights=pretrained_file)
        name = self.inputs[0]
        self.transformer = io.Transformer({name: self.blobs[name].data.shape})
        self.transformer.set_transpose(name, (2, 0, 1))
        settings = {"mean": mean, "input_scale": input_scale, "raw_scale": raw_scale, "channel_swap": channel_swap}
        for setting, value in settings.items():
            if value is not None:
                getattr(self.transformer, f"set_{setting}")(name, value)

    def score(self, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Returns the first output for each height x width x channels picture."""
        name = self.inputs[0]
        inputs = np.stack([self.transformer.preprocess(name, picture) for picture in pictures])
        return self.forward_all(None, **{name: inputs})[self.outputs[0]]


class Classifier(PictureNet):
    """Class probabilities of pictures.

    Args:
        image_dims: (height, width) that pictures are resized to before crops are taken; the input's size by default.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        self.image_dims = np.array(self.crop_dims if image_dims is None else image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Returns (number of pictures, classes) probabilities.

        Args:
            inputs: height x width x channels pictures of any size.
            oversample: Average over ten crops; False takes the centre only.
        """
        pictures = np.stack([io.resize_image(picture, self.image_dims) for picture in inputs])
        if not oversample:
            top, left = ((self.image_dims - self.crop_dims) / 2).astype(int)
            height, width = self.crop_dims
            return self.score(pictures[:, top : top + height, left : left + width])
        scores = self.score(io.oversample(pictures, self.crop_dims))
        mean: np.ndarray = scores.reshape(len(inputs), 10, -1).mean(1)
        return mean
