"""Split layers where a blob has several consumers (util/insert_splits.cpp).

The original's habits are kept, since they show in names and loss weights: a non-zero loss weight counts as a consumer,
the split's first copy carries it, and all loss weights of the layer that made the blob are cleared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from pyscratchdet.errors import NetError
from pyscratchdet.proto import caffe_pb2

Top = tuple[int, int]  # (layer index, top index)
UnknownBottom = Callable[[int, int, Collection[str]], NetError]  # layer index, bottom index, blobs made so far


def split_name(layer: str, blob: str, top_index: int) -> str:
    """Returns the name of the Split layer of a blob; its tops add `_0`, `_1`, ..."""
    return f"{blob}_{layer}_{top_index}_split"


def insert_splits(
    layers: Sequence[caffe_pb2.LayerParameter], unknown_bottom: UnknownBottom
) -> list[tuple[int, caffe_pb2.LayerParameter]]:
    """Returns pairs of an index in `layers` (-1 for an inserted Split) and a layer; the layers are copies.

    Raises:
        NetError: What `unknown_bottom` returns for a bottom that no earlier layer makes.
    """
    sources, consumers, weights = _consumers(layers, unknown_bottom)
    next_copy: dict[Top, int] = defaultdict(int)
    result: list[tuple[int, caffe_pb2.LayerParameter]] = []
    for i, original in enumerate(layers):
        layer = caffe_pb2.LayerParameter()
        layer.CopyFrom(original)
        result.append((i, layer))
        for j, blob in enumerate(original.bottom):
            top = sources[i, j]
            if consumers[top] > 1:
                name = split_name(layers[top[0]].name, blob, top[1])
                layer.bottom[j] = f"{name}_{next_copy[top]}"
                next_copy[top] += 1
        for j, blob in enumerate(original.top):
            top = (i, j)
            if consumers[top] > 1:
                weight = weights.get(top, 0.0)
                result.append((-1, _split_layer(original.name, blob, j, consumers[top], weight)))
                if weight:
                    layer.ClearField("loss_weight")
                    next_copy[top] += 1
    return result


def _consumers(
    layers: Sequence[caffe_pb2.LayerParameter], unknown_bottom: UnknownBottom
) -> tuple[dict[tuple[int, int], Top], dict[Top, int], dict[Top, float]]:
    latest: dict[str, Top] = {}
    sources: dict[tuple[int, int], Top] = {}
    consumers: dict[Top, int] = defaultdict(int)
    weights: dict[Top, float] = {}
    for i, layer in enumerate(layers):
        for j, blob in enumerate(layer.bottom):
            if blob not in latest:
                raise unknown_bottom(i, j, latest)
            sources[i, j] = latest[blob]
            consumers[latest[blob]] += 1
        for j, blob in enumerate(layer.top):
            latest[blob] = (i, j)
        for blob, weight in zip(layer.top, layer.loss_weight, strict=False):
            weights[latest[blob]] = weight
            consumers[latest[blob]] += weight != 0
    return sources, consumers, weights


def _split_layer(layer: str, blob: str, top_index: int, copies: int, weight: float) -> caffe_pb2.LayerParameter:
    name = split_name(layer, blob, top_index)
    split = caffe_pb2.LayerParameter(name=name, type="Split", bottom=[blob])
    split.top.extend(f"{name}_{k}" for k in range(copies))
    if weight:
        split.loss_weight.extend([weight] + [0.0] * (copies - 1))
    return split
