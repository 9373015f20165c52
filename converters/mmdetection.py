"""ScratchDet checkpoints of its mmdetection release as caffemodels of our prototxts (`scratchdet300_mmdet_coco`, 512).

Backbone layers have PyTorch's names there already (`backbone.layer3.0.conv1`); a BatchNorm's Scale is `<name>_scale`.
The head's k-th pair of convolutions, `bbox_head.reg_convs.k.0` and `cls_convs.k.0` with their BatchNorms at `.1`, are
`<source>_mbox_loc` and `<source>_mbox_conf`. Boxes are encoded and classes and priors are ordered in the same way on
both sides, so the heads give the same values; mmdetection of that time rounds its priors to whole pixels, centres them
half a pixel earlier and includes a box's last pixel in its size, so decoded boxes may differ by about a pixel. The
checkpoint's net takes RGB: the input channels of conv1 are swapped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from pyscratchdet.converters.build import SCALE_FACTOR
from pyscratchdet.converters.weights import read_state_dict
from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel

_IGNORED = ("num_batches_tracked",)


def convert_mmdetection(
    checkpoint: str | os.PathLike[str], model: str | os.PathLike[str], target: str | os.PathLike[str]
) -> dict[str, list[np.ndarray]]:
    """Writes a caffemodel from an mmdetection checkpoint.

    Args:
        checkpoint: .pth with `state_dict`; read without running code.
        model: Deploy prototxt from `pyscratchdet generate scratchdet300_mmdet_coco`.
        target: The caffemodel; atomic.

    Returns:
        {layer: blobs}.

    Raises:
        FileError, WeightsError: The checkpoint is missing or damaged.
        ConversionError: A layer has no weights of its shape, or weights have no layer.
    """
    state = {key.removeprefix("module."): array for key, array in read_state_dict(checkpoint).items()}
    plan = plan_net(model, caffe_pb2.TEST)
    sources = [node.name.removesuffix("_mbox_loc") for node in plan.graph.nodes if node.name.endswith("_mbox_loc")]
    structure = caffe_pb2.NetParameter(name=plan.graph.name)
    blobs: dict[str, list[np.ndarray]] = {}
    used: set[str] = set()
    for node, layer in zip(plan.graph.nodes, plan.layers, strict=True):
        structure.layer.add().CopyFrom(node.param)
        if layer.blobs:
            arrays, keys = _layer_blobs(node.name, node.type, _prefix(node.name, sources), state)
            _check(node.name, node.type, arrays, [spec.shape for spec in layer.blobs])
            blobs[node.name] = arrays
            used.update(keys)
    first = next(name for name, arrays in blobs.items() if arrays[0].ndim == 4)
    blobs[first][0] = np.ascontiguousarray(blobs[first][0][:, ::-1])
    if rest := [key for key in state if key not in used and not key.endswith(_IGNORED)]:
        raise ConversionError(
            "the checkpoint has weights that no layer of the net takes",
            code="mmdetection.rest",
            found=", ".join(rest[:4]),
        )
    write_caffemodel(target, structure, blobs)
    return blobs


def _prefix(layer: str, sources: list[str]) -> str:
    """Returns the module that a layer's weights belong to."""
    name = layer.removesuffix("_scale")
    for kind, module in (("loc", "reg_convs"), ("conf", "cls_convs")):
        source, found, rest = name.partition(f"_mbox_{kind}")
        if found and source in sources:
            return f"bbox_head.{module}.{sources.index(source)}.{1 if rest or name != layer else 0}"
    return f"backbone.{name}"


def _layer_blobs(
    layer: str, kind: str, prefix: str, state: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], list[str]]:
    roles = {
        "BatchNorm": ("running_mean", "running_var"),
        "Scale": ("weight", "bias"),
    }.get(kind, ("weight", "bias") if f"{prefix}.bias" in state else ("weight",))
    keys = [f"{prefix}.{role}" for role in roles]
    if missing := [key for key in keys if key not in state]:
        raise ConversionError(
            "the checkpoint has no weights for this layer",
            code="mmdetection.missing",
            layer=layer,
            layer_type=kind,
            expected=missing[0],
        )
    arrays = [np.asarray(state[key], np.float32) for key in keys]
    if kind == "BatchNorm":
        factor = np.float32(SCALE_FACTOR)
        arrays = [array * factor for array in arrays] + [np.array([factor])]
    return arrays, keys


def _check(layer: str, kind: str, arrays: list[np.ndarray], shapes: list[tuple[int, ...]]) -> None:
    found = [array.shape for array in arrays]
    if found != shapes:
        raise ConversionError(
            "the shapes of its weights do not fit",
            code="mmdetection.shape",
            layer=layer,
            layer_type=kind,
            expected=shapes,
            found=found,
        )
