"""Says how far the weights of two snapshots of a net lie apart, layer by layer, the farthest first.

python compare_checkpoints.py first.caffemodel second.caffemodel
"""

import sys

import numpy as np

from pyscratchdet.proto.weights import read_weights

if len(sys.argv) != 3:
    sys.exit(__doc__)
first, second = (read_weights(path).blobs for path in sys.argv[1:])
rows = []
for layer in first.keys() & second.keys():
    for index, (ours, theirs) in enumerate(zip(first[layer], second[layer], strict=True)):
        if ours.shape != theirs.shape:
            sys.exit(f"{layer}: {ours.shape} and {theirs.shape}")
        length = np.linalg.norm(ours)
        rows.append((np.linalg.norm(theirs - ours) / (length or 1), f"{layer}[{index}]", ours.shape))
for distance, name, shape in sorted(rows, reverse=True):
    print(f"{distance:.3e}  {name}  {'x'.join(map(str, shape))}")
for only, path in ((first.keys() - second.keys(), sys.argv[1]), (second.keys() - first.keys(), sys.argv[2])):
    if only:
        print(f"only in {path}: {', '.join(sorted(only))}")
