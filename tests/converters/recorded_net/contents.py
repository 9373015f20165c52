"""Weights and input of the recorded net, from seeds; the recorder and the test draw the same. NumPy only.

Blob i of layer L is drawn from RandomState(crc32("<seed>/<L>/<i>")) in float64 and rounded to float32 last. The gains,
powers of two that the recorder measured, keep activations near 1 without trained weights.
"""

import zlib

import numpy as np

NUM_SAMPLES = 256


def _random(*parts):
    return np.random.RandomState(zlib.crc32("/".join(map(str, parts)).encode()) & 0x7FFFFFFF)


def _blob(kind, shape, index, random):
    if kind == "Convolution":
        return random.randn(*shape) * (np.sqrt(2.0 / np.prod(shape[1:])) if index == 0 else 0.1)
    if kind == "BatchNorm":
        if index == 2:
            return np.full(shape, 1.7)
        return 1.7 * (random.randn(*shape) * 0.2 if index == 0 else random.uniform(0.5, 1.5, shape))
    assert kind == "Scale"
    return random.uniform(0.7, 1.3, shape) if index == 0 else random.randn(*shape) * 0.1


def weights(layers, seed, gains):
    """Returns {layer: [blobs]} for the record's layers: name, type, bottoms, tops, shapes of blobs."""
    return {
        name: [
            (_blob(kind, tuple(shape), i, _random(seed, name, i)) * gains.get(name, 1)).astype(np.float32)
            for i, shape in enumerate(shapes)
        ]
        for name, kind, _, _, shapes in layers
        if shapes
    }


def _stretch(values, length):
    """Interpolates axis 0 linearly to `length` points, corners kept."""
    place = np.arange(length) * ((len(values) - 1) / float(length - 1))
    below = np.minimum(place.astype(int), len(values) - 2)
    share = (place - below)[:, None, None]
    return values[below] * (1 - share) + values[below + 1] * share


def picture(seed, side):
    """Returns a smooth picture minus the mean, (1, 3, side, side) in float32."""
    values = _random(f"{seed}/0", "image").uniform(0, 255, (12, 12, 3))
    values = _stretch(_stretch(values, side).transpose(1, 0, 2), side).transpose(1, 0, 2)
    pixels = np.floor(values + 0.5).astype(np.uint8).astype(np.float32)
    return (pixels - np.float32([104, 117, 123])).transpose(2, 0, 1)[None]


def samples(name, values):
    """Returns the 256 values of a blob that were recorded."""
    places = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).randint(0, values.size, NUM_SAMPLES)
    return values.reshape(-1)[places].astype(np.float32)
