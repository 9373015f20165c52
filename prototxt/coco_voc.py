"""`python -m prototxt.coco_voc COCO.caffemodel OUT.caffemodel`: a COCO detector's weights for VOC's 21 classes.

VOC's classes are a subset of COCO's, so a detector is fine-tuned after picking their channels from each confidence
layer (ScratchDet, section 4.5; SSD's examples/convert_model.ipynb with its coco_voc_map). All else stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from pyscratchdet.errors import PyScratchDetError, WeightsError
from pyscratchdet.files import read_bytes, write_bytes
from pyscratchdet.proto import caffe_pb2

NUM_COCO = 81

# VOC label (the index; 0 is background) -> COCO label, both as in SSD's label maps.
COCO_OF_VOC = (0, 5, 2, 15, 9, 40, 6, 3, 16, 57, 20, 61, 17, 18, 4, 1, 59, 19, 58, 7, 63)


def pick_classes(net: Any, picked: Sequence[int] = COCO_OF_VOC, num_classes: int = NUM_COCO) -> list[str]:
    """Keeps the `picked` classes in every confidence layer of a net with weights; returns the layers' names.

    A confidence layer's channels are prior after prior, each with all classes; blobs of its BatchNorm and Scale too.

    Raises:
        WeightsError: No layer predicts `num_classes` classes.
    """
    changed = []
    for layer in net.layer:
        if "_mbox_conf" not in layer.name:
            continue
        for blob in layer.blobs:
            channels = blob.shape.dim[0] if blob.shape.dim else 0
            if channels == 0 or channels % num_classes:
                continue
            values = np.array(blob.data, np.float32).reshape(channels // num_classes, num_classes, -1)[:, picked]
            blob.shape.dim[0] = channels // num_classes * len(picked)
            blob.data[:] = values.ravel()
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


def main(arguments: Sequence[str]) -> int:
    """Converts one file; returns 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m prototxt.coco_voc", description="Pick VOC's classes from COCO's.")
    parser.add_argument("source", help="caffemodel of a COCO detector")
    parser.add_argument("target", help="caffemodel to write")
    args = parser.parse_args(arguments)
    try:
        net = caffe_pb2.NetParameter.FromString(read_bytes(args.source))
        changed = pick_classes(net)
        write_bytes(args.target, net.SerializeToString())
    except DecodeError:
        print(f"prototxt.coco_voc: {args.source} is no caffemodel [weights.format]", file=sys.stderr)
        return 2
    except PyScratchDetError as error:
        print(f"prototxt.coco_voc: {error}", file=sys.stderr)
        return 2
    print(f"{args.target}: {len(COCO_OF_VOC)} classes in {', '.join(changed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
