"""What every weights file comes down to: layers with float32 arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.errors import WeightsError

# blob.hpp counts values with an int.
MAX_COUNT = 2**31 - 1


@dataclass
class WeightLayer:
    """A layer of a weights file.

    Attributes:
        name: Its Caffe name.
        type: Its Caffe type; empty where the file does not say.
        arrays: Its blobs, float32, in Caffe's shape; None for one that the file leaves to its owner (shared params).
    """

    name: str
    type: str
    arrays: list[np.ndarray | None] = field(default_factory=list)


class Weights:
    """What a weights file holds.

    Attributes:
        layers: All layers in the file's order, including those without blobs.
    """

    def __init__(self, layers: list[WeightLayer]) -> None:
        self.layers = layers

    @property
    def blobs(self) -> dict[str, list[np.ndarray | None]]:
        """{layer: arrays} of the layers that have any; the last of several layers of one name wins."""
        return {layer.name: layer.arrays for layer in self.layers if layer.arrays}


def as_float32(values: np.ndarray, path: str, layer: str | None) -> np.ndarray:
    """Returns doubles as floats; a copy is made only where one is needed.

    Raises:
        WeightsError: A value is beyond float32.
    """
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return values.astype(np.float32, copy=False)
    except FloatingPointError as error:
        raise WeightsError(f"{path}: a value is beyond float32", code="weights.range", layer=layer) from error
