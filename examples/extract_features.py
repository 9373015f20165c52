"""Writes a blob of a net for each picture as a row of a NumPy file: features for a search or a classifier.

python extract_features.py deploy.prototxt model.caffemodel BLOB features.npz PICTURE...
"""

import sys

import numpy as np
import torch

import pyscratchdet
from pyscratchdet.detect.engine import picture_input
from pyscratchdet.detect.media import read_picture

if len(sys.argv) < 6:
    sys.exit(__doc__)
model, weights, blob, target, *paths = sys.argv[1:]
net = pyscratchdet.load_net(model, weights)
name, channels, size = picture_input(net)
prepare = pyscratchdet.Preparation()  # SSD's mean; give your net's own
features = []
with torch.inference_mode():
    for path in paths:
        picture = prepare(read_picture(path), channels, *size)
        value = net.forward_blobs({name: picture[None]})[blob]
        features.append(value.flatten(2).mean(2)[0].numpy() if value.dim() == 4 else value[0].flatten().numpy())
np.savez(target, features=np.stack(features), pictures=paths)
print(f"{target}: {len(paths)} rows of {len(features[0])}")
