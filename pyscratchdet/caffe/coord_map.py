"""How coordinates of one blob relate to those of another, to crop feature maps onto each other (coord_map.py).

A map (axis, scale, shift) takes a position p of the input to scale * p + shift of the output, on the spatial axes from
`axis + 1` on. Pointwise layers have no axis of their own: (None, 1, 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pyscratchdet.caffe.net_spec import Top, layers
from pyscratchdet.layers.base import layer_types

Map = tuple[int | None, Any, Any]

_IDENTITY: Map = (None, 1, 0)
_LEGACY = frozenset(f"{name}_{side}" for name in ("pad", "kernel", "stride") for side in "hw")


class UndefinedMapException(Exception):
    """A layer's coordinates have no linear relation to its bottom's."""


class AxisMismatchException(Exception):
    """Two maps refer to different axes."""


def coord_map(fn: Any) -> Map:
    """Returns the map of one layer, a `net_spec.Function`.

    Raises:
        UndefinedMapException: The layer's type has none.
    """
    kind = layer_types()[fn.type_name].coordinates if fn.type_name in layer_types() else ""
    if kind == "same":
        return _IDENTITY
    if kind == "cut":
        params = fn.params.get("crop_param", fn.params)
        return params.get("axis", 2) - 1, 1, -np.atleast_1d(params.get("offset", 0))
    if not kind:
        raise UndefinedMapException(fn.type_name)
    axis, stride, extent, pad = conv_params(fn)
    if kind == "transposed":
        return axis, stride, (extent - 1) / 2 - pad
    return axis, 1 / stride, (pad - (extent - 1) / 2) / stride


def conv_params(fn: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Returns channel axis, stride, extent of the dilated kernel, and padding of a sliding window.

    Raises:
        KeyError: It has no kernel_size, like a global pooling.
    """
    params = fn.params.get("convolution_param", fn.params)
    assert not _LEGACY & set(fn.params), "cropping does not support fields such as kernel_h"
    dilation, stride, pad = (
        np.atleast_1d(params.get(name, default)) for name, default in (("dilation", 1), ("stride", 1), ("pad", 0))
    )
    kernel = np.atleast_1d(params["kernel_size"])
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def compose(base_map: Map, next_map: Map) -> Map:
    """Returns `next_map` followed by `base_map`.

    Raises:
        AxisMismatchException: They are about different axes.
    """
    axes = {axis for axis in (base_map[0], next_map[0]) if axis is not None}
    if len(axes) > 1:
        raise AxisMismatchException(sorted(axes))
    return (axes.pop() if axes else None), base_map[1] * next_map[1], base_map[1] * next_map[2] + base_map[2]


def inverse(coord_map: Map) -> Map:
    """Returns the inverse map."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Returns the map between two tops by way of an ancestor of both.

    Raises:
        RuntimeError: They have no common ancestor, or layers without a map lie between.
    """
    from_maps = dict(_ancestors(top_from))
    for top, to_map in _ancestors(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def _ancestors(top: Top) -> Iterator[tuple[Top, Map]]:
    """Yields each ancestor that has a map, the nearest first, with its map."""
    maps: dict[Top, Map] = {top: _IDENTITY}
    frontier = [top]
    while frontier:
        current = frontier.pop(0)
        yield current, maps[current]
        try:
            step = coord_map(current.fn)
        except UndefinedMapException:
            continue
        # Only the first bottom of a Crop is cropped; the other one gives the size.
        bottoms = current.fn.inputs[:1] if current.fn.type_name == "Crop" else current.fn.inputs
        for bottom in bottoms:
            if bottom not in maps:
                frontier.append(bottom)
            maps[bottom] = compose(maps[current], step)


def crop(top_from: Top, top_to: Top) -> Top:
    """Returns a Crop layer that cuts `top_from` to the size and place of `top_to`."""
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert np.all(np.equal(scale, 1)), f"scale mismatch on crop (a = {scale})"
    assert np.all(np.less_equal(shift, 0)), f"cannot crop negative offset (b = {shift})"
    assert np.all(np.round(shift) == shift), f"cannot crop noninteger offset (b = {shift})"
    assert axis is not None, "nothing to crop: no layer between the two moves coordinates"
    offset = [int(value) for value in -np.round(np.atleast_1d(shift))]
    top: Top = layers.Crop(top_from, top_to, crop_param={"axis": axis + 1, "offset": offset})
    return top
