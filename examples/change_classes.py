"""Surgery on weights: keeps some classes of a detector, in a new order, in each of its confidence layers.

python change_classes.py model.caffemodel few.caffemodel LAYER,LAYER... NUMBER_OF_CLASSES LABEL,LABEL...

LABELs are of the old model; 0, the background, stays first. Give the new net num_classes and num_output to match.
"""

import sys

import numpy as np

from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import read_weights, write_caffemodel

if len(sys.argv) != 6:
    sys.exit(__doc__)
source, target, layers, number, labels = sys.argv[1:]
kept = [0, *map(int, labels.split(","))]
weights = read_weights(source)
net, blobs = caffe_pb2.NetParameter(), []
for layer in weights.layers:
    arrays = layer.arrays
    if layer.name in layers.split(","):
        # The channels of a confidence layer are the classes of its first prior, of its second, and so on.
        by_prior = [array.reshape(-1, int(number), *array.shape[1:]) for array in arrays]
        arrays = [np.ascontiguousarray(array[:, kept]).reshape(-1, *array.shape[2:]) for array in by_prior]
        print(f"{layer.name}: {len(layer.arrays[0])} channels, now {len(arrays[0])}")
    net.layer.add(name=layer.name, type=layer.type)
    blobs.append(arrays)
write_caffemodel(target, net, blobs)
