"""A COCO detector's weights for VOC's 21 classes, to fine-tune from.

VOC's classes are a subset of COCO's, so their channels are picked from each confidence layer (ScratchDet, section 4.5;
SSD's examples/convert_model.ipynb with its coco_voc_map). All else stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from pyscratchdet.data.label_map import COCO_CLASSES, coco_voc_map
from pyscratchdet.errors import WeightsError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import array_to_blob, blob_to_array, read_message, write_message

NUM_COCO = len(COCO_CLASSES) + 1

# VOC label (the index; 0 is background) -> COCO label.
COCO_OF_VOC = tuple(sorted(coco_voc_map(), key=lambda coco: coco_voc_map()[coco]))


def convert_coco_to_voc(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> dict[str, list[np.ndarray]]:
    """Writes a caffemodel of 81 classes as one of VOC's 21.

    Args:
        source: A .caffemodel of a COCO detector.
        target: The .caffemodel to write; atomic.

    Returns:
        The picked blobs by layer.

    Raises:
        FileError, WeightsError: The file is missing or damaged, or none of its layers predicts COCO's classes.
    """
    net = read_message(source, caffe_pb2.NetParameter)
    changed = pick_classes(net)
    write_message(target, net)
    return {layer.name: [blob_to_array(blob) for blob in layer.blobs] for layer in net.layer if layer.name in changed}


def pick_classes(
    net: caffe_pb2.NetParameter, picked: Sequence[int] = COCO_OF_VOC, num_classes: int = NUM_COCO
) -> list[str]:
    """Keeps the `picked` classes in every confidence layer of a net with weights; returns the layers' names.

    A confidence layer's channels are ordered by prior, then by class; so are the blobs of its BatchNorm and Scale.

    Raises:
        WeightsError: No layer predicts `num_classes` classes, or a blob is damaged.
    """
    changed = []
    for layer in net.layer:
        if "_mbox_conf" not in layer.name:
            continue
        for blob in layer.blobs:
            values = blob_to_array(blob)
            channels = values.shape[0] if values.ndim else 0
            if channels == 0 or channels % num_classes:
                continue
            kept = values.reshape(channels // num_classes, num_classes, -1)[:, list(picked)]
            blob.CopyFrom(array_to_blob(kept.reshape(-1, *values.shape[1:])))
            changed.append(layer.name)
        if layer.name in changed and layer.convolution_param.num_output:
            layer.convolution_param.num_output = layer.blobs[0].shape.dim[0]
    if not changed:
        raise WeightsError(
            f"no confidence layer of {num_classes} classes",
            code="weights.classes",
            hint="is this the caffemodel of a COCO detector, with layers called ..._mbox_conf?",
        )
    return list(dict.fromkeys(changed))
